"""A fault server and a client of it, for the tests of the model clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from app.llm.upstream import Upstream
from tests.llm.fake_upstream import FakeUpstream


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    server = FakeUpstream()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def upstream(fake: FakeUpstream) -> AsyncIterator[Upstream]:
    client = Upstream(fake.url, "secret-key", timeout_s=5.0)
    yield client
    await client.close()
