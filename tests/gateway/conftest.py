"""A real database, fresh for each test, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.gateway.call import Call, Principal
from app.store.db import Database
from app.store.models import metadata


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    await asyncio.to_thread(metadata.create_all, opened.sync_engine)
    yield opened
    await opened.close()


def made_call(number: int = 1, tenant: str = "t1", key_id: str = "k1") -> Call:
    principal = Principal(tenant, f"key:{key_id}", key_id, frozenset({"*"}))
    return Call(f"call_{number}", f"req_{number}", "rest", "POST /v1/x", principal)
