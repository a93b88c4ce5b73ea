"""Signed audit chains on both databases, put back after each test that damages them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.settings import normal_url
from app.store.db import Database
from app.store.models import metadata
from tests.conftest import create_database, drop_database
from tests.monitoring.chains import Chains
from tests.monitoring.watched import Watched, watched_gateway


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
async def signed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Chains]:
    """Twelve records, signed for at 4, 8 and 10, of which 5 to 7 have bodies; another tenant."""
    folder = tmp_path_factory.mktemp("chains")
    url = normal_url(None, folder / "ostiary.db")
    if request.param == "postgresql":
        made = create_database(request.getfixturevalue("postgres_server"))
        url = normal_url(made, folder)
    opened = await Chains.open(url, folder)
    await opened.fill(1, 4)
    await opened.fill(1, 3, "t2")
    await opened.sign("t1", "t2")
    await opened.fill(5, 7, text="What was said")
    await opened.fill(8, 8)
    await opened.sign("t1")
    await opened.fill(9, 10)
    await opened.sign("t1")
    await opened.fill(11, 12)
    yield opened
    await opened.close()
    if request.param == "postgresql":
        drop_database(made)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
async def incident_db(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Database]:
    """A database for incidents; each test leaves it empty."""
    folder = tmp_path_factory.mktemp("incidents")
    made = None
    if request.param == "postgresql":
        made = create_database(request.getfixturevalue("postgres_server"))
    db = Database(normal_url(made, folder / "ostiary.db"))
    await asyncio.to_thread(metadata.create_all, db.sync_engine)
    yield db
    await db.close()
    if made is not None:
        drop_database(made)


@pytest.fixture
async def chains(signed: Chains, tmp_path: Path) -> AsyncIterator[Chains]:
    """See ``signed``; whatever a test does to it is undone."""
    kept = await signed.snapshot()
    folder = tmp_path / "data"
    folder.mkdir()
    for file in ("audit-signing.pem", "audit-checkpoints.jsonl"):
        shutil.copy(signed.folder / file, folder)
    mine = signed.within(folder)
    yield mine
    await signed.restore(kept)


@pytest.fixture(scope="session")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A traced gateway that logs JSON, with some calls behind it."""
    async with watched_gateway(tmp_path_factory.mktemp("watched") / "data") as house:
        yield house
