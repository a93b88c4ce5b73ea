"""A line of a batch whose budget is spent waits until it begins anew, unless that is too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, select

from app.gateway.call import Principal
from app.gateway.inside import Inside
from app.llm import batches as module
from app.llm.batch_lines import Line
from app.llm.batches import Batch, Batches, _Run
from app.retrieval.files import FileService
from app.settings import normal_url
from app.store.blobs import Blobs
from app.store.db import Database
from app.store.jobs import Jobs
from app.store.migrate import migrate
from app.store.models import batch_lines, files
from app.store.models import batches as table

WHO = Principal("t1", "key:k", "k", frozenset({"*"}))


class Route:
    """A route of the gateway: refuses for a spent budget so many times, then answers."""

    def __init__(self, refusals: int, anew_s: int) -> None:
        self.refusals, self.anew_s, self.asked = refusals, anew_s, 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.asked += 1
        status, headers = 200, list[tuple[bytes, bytes]]()
        body: dict[str, Any] = {"object": "chat.completion"}
        if self.asked <= self.refusals:
            status, headers = 402, [(b"retry-after", str(self.anew_s).encode())]
            body = {"error": {"code": "budget_exceeded", "message": "Spent."}}
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(body)})


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(normal_url(None, tmp_path / "test.db"))
    await asyncio.to_thread(migrate, opened)
    yield opened
    await opened.close()


async def asked(db: Database, folder: Path, route: Route, window_s: float) -> dict[str, Any]:
    """What became of one line of a batch with so much time left."""

    async def valid(_: Principal) -> None:
        return None

    inside = Inside("batch")
    inside.opened(route)
    service = FileService(db, Blobs(str(folder / "files")), 10**6)
    jobs = Jobs(db, f"sqlite:///{folder / 'jobs.db'}", "one")
    made = Batches(db, jobs, service, inside, valid, at_once=1, longest_line=10**6)
    now = time.time()
    batch = Batch(
        id="batch_1",
        tenant_id="t1",
        owner=WHO.owner,
        principal=WHO.as_json(),
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        metadata=None,
        status="in_progress",
        errors=None,
        total=1,
        completed=0,
        failed=0,
        output_file_id=None,
        error_file_id=None,
        created_at=now,
        expires_at=now + window_s,
    )
    values = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    kept = {"id": "file-1", "tenant_id": "t1", "filename": "f", "purpose": "batch", "bytes": 1}
    async with db.write() as connection:
        row = {**kept, "sha256": "x", "blob": "b", "created_at": now}
        await connection.execute(insert(files).values(row))
        await connection.execute(insert(table).values(values))
    await made._one(_Run(batch, WHO), Line(1, "a", {"model": "m"}))
    found = await db.one_or_none(select(batch_lines))
    assert found is not None
    result: dict[str, Any] = orjson.loads(found["result"])
    return {**result, "succeeded": bool(found["succeeded"])}


async def test_a_line_waits_for_a_budget_that_begins_anew_in_time(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "BUDGET_PAUSE_S", 0.02)  # looked at again before it begins anew
    route = Route(refusals=3, anew_s=3600)
    line = await asked(db, tmp_path, route, window_s=7200.0)
    assert (line["succeeded"], line["response"]["status_code"], route.asked) == (True, 200, 4)


async def test_a_line_whose_budget_begins_anew_too_late_is_told_so_at_once(
    db: Database, tmp_path: Path
) -> None:
    route = Route(refusals=3, anew_s=7200)
    line = await asked(db, tmp_path, route, window_s=3600.0)
    assert (line["succeeded"], line["error"]["code"], route.asked) == (False, "budget_exceeded", 1)
