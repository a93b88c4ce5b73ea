"""A keyed request is served once, however often it is sent."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.errors import BadRequest, Conflict
from app.gateway import idempotency as module
from app.gateway.body import Receive
from app.gateway.idempotency import Idempotency, Ticket
from app.monitoring.audit_sql import Statements
from app.store.db import Database
from app.store.models import idempotency
from tests.gateway.conftest import made_call

JSON = (b"content-type", b"application/json")


@pytest.fixture
async def replays(db: Database) -> AsyncIterator[Idempotency]:
    yield Idempotency(db, "one")


def body_of(*chunks: bytes, ends: bool = True) -> Receive:
    messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
    if ends:
        messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


def scope(
    path: str = "/v1/chat", query: bytes = b"", headers: Iterable[Any] = ()
) -> dict[str, Any]:
    return {"method": "POST", "path": path, "query_string": query, "headers": list(headers)}


async def begin(
    replays: Idempotency,
    body: bytes = b"{}",
    key: bytes = b"key-1",
    tenant: str = "t1",
    **options: Any,
) -> tuple[Ticket, Receive]:
    return await replays.begin(
        made_call(tenant=tenant), key, scope(**options), body_of(body[:3], body[3:])
    )


async def store(db: Database, ticket: Ticket, body: bytes = b"answer", status: int = 200) -> None:
    """As the audit writer does it."""
    headers = [JSON, (b"x-ostiary-degraded", b"no"), (b"x-request-id", b"r"), (b"server", b"s")]
    stored = ticket.stored(status, headers, body)

    def write() -> None:
        connection = db.sync_engine.raw_connection()
        Statements(db).keep_reply.run(connection.cursor(), stored)
        connection.commit()
        connection.close()

    await asyncio.to_thread(write)


async def rows(db: Database) -> int:
    async with db.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(idempotency)) or 0)


async def test_a_stored_reply_is_given_again_with_its_own_headers_only(
    replays: Idempotency, db: Database
) -> None:
    first, _ = await begin(replays)
    assert first.replay is None
    await store(db, first, b"\x00\xff answer", 201)
    await replays.release(first)
    again, _ = await begin(replays)
    assert again.replay == (201, [JSON, (b"x-ostiary-degraded", b"no")], b"\x00\xff answer")


async def test_the_same_key_for_another_request_is_refused(
    replays: Idempotency, db: Database
) -> None:
    first, _ = await begin(replays)
    for other in ({"body": b"[]"}, {"path": "/v1/files"}, {"query": b"a=1"}):
        with pytest.raises(Conflict) as caught:
            await begin(replays, **other)
        assert caught.value.code == "idempotency_key_reused"
    await replays.release(first)


async def test_tenants_do_not_share_keys(replays: Idempotency) -> None:
    first, _ = await begin(replays)
    other, _ = await begin(replays, b"[]", tenant="t2")
    assert first.replay is None and other.replay is None
    await replays.release(first)
    await replays.release(other)


async def test_a_failed_request_gives_its_key_back(replays: Idempotency, db: Database) -> None:
    first, _ = await begin(replays)
    await replays.release(first)
    assert await rows(db) == 0
    again, _ = await begin(replays)
    assert again.replay is None
    await replays.release(again)


@pytest.mark.parametrize("owner", ["one", "two"])
async def test_a_twin_waits_and_gets_the_same_reply(
    replays: Idempotency, db: Database, owner: str
) -> None:
    first, _ = await begin(replays)
    other = replays if owner == "one" else Idempotency(db, "two")
    twins = [asyncio.create_task(begin(other)) for _ in range(3)]
    await asyncio.wait(twins, timeout=0.1)
    assert not any(twin.done() for twin in twins)
    await store(db, first)
    await replays.release(first)
    for ticket, _ in await asyncio.gather(*twins):
        assert ticket.replay is not None and ticket.replay[2] == b"answer"


async def test_a_twin_takes_over_when_the_first_fails(replays: Idempotency) -> None:
    first, _ = await begin(replays)
    twin = asyncio.create_task(begin(replays))
    await asyncio.wait([twin], timeout=0.1)
    await replays.release(first)
    ticket, _ = await twin
    assert ticket.replay is None
    await replays.release(ticket)


async def test_a_twin_that_waited_too_long_is_told_to_come_back(
    replays: Idempotency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.3)
    first, _ = await begin(replays)
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            await begin(replays)
        assert caught.value.code == "idempotency_in_progress"
        assert int(caught.value.headers["retry-after"]) > 0
    await replays.release(first)


async def test_of_many_at_once_one_is_served(replays: Idempotency, db: Database) -> None:
    served = 0

    async def one() -> bytes:
        nonlocal served
        ticket, _ = await begin(replays)
        if ticket.replay is not None:
            return ticket.replay[2]
        served += 1
        await store(db, ticket)
        await replays.release(ticket)
        return b"answer"

    assert await asyncio.gather(*(one() for _ in range(12))) == [b"answer"] * 12
    assert served == 1


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 300_000, 5 * 2**20])
async def test_the_room_reads_the_whole_body_and_then_the_disconnect(
    replays: Idempotency, size: int
) -> None:
    body = os.urandom(size)
    ticket, receive = await begin(replays, body)
    read, more = b"", True
    while more:
        message = await receive()
        read += message["body"]
        more = message["more_body"]
    assert read == body
    assert (await receive())["type"] == "http.disconnect"
    await replays.release(ticket)


async def test_a_body_cut_off_is_not_served_and_leaves_no_claim(
    replays: Idempotency, db: Database
) -> None:
    with pytest.raises(BadRequest):
        await replays.begin(made_call(), b"key", scope(), body_of(b"{", ends=False))
    assert await rows(db) == 0


async def test_multipart_retries_may_draw_another_boundary(
    replays: Idempotency, db: Database
) -> None:
    def parts(boundary: bytes, text: bytes) -> tuple[dict[str, Any], list[bytes]]:
        whole = b"--%b\r\n\r\n%b\r\n--%b--\r\n" % (boundary, text, boundary)
        kind = (b"content-type", b"multipart/form-data; boundary=" + boundary)
        return scope(headers=[kind]), [whole[i : i + 5] for i in range(0, len(whole), 5)]

    head, chunks = parts(b"abcabd", b"abcab data")
    first, _ = await replays.begin(made_call(), b"key", head, body_of(*chunks))
    await store(db, first)
    await replays.release(first)
    head, chunks = parts(b"xyzxyzxyz", b"abcab data")
    again, _ = await replays.begin(made_call(), b"key", head, body_of(*chunks))
    assert again.replay is not None
    head, chunks = parts(b"abcabd", b"abcab date")
    with pytest.raises(Conflict):
        await replays.begin(made_call(), b"key", head, body_of(*chunks))


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\tb", b"\xc3\xa9", b"a\x7f"])
async def test_a_bad_key_is_refused(replays: Idempotency, key: bytes) -> None:
    with pytest.raises(BadRequest, match="Idempotency-Key"):
        await begin(replays, key=key)


async def test_replies_that_a_retry_may_turn_are_not_kept(replays: Idempotency) -> None:
    ticket, _ = await begin(replays)
    assert all(ticket.keeps(s) for s in (200, 201, 202, 204, 400, 404, 422))
    assert not any(ticket.keeps(s) for s in (401, 402, 403, 409, 429, 499, 500, 502, 503))
    await replays.release(ticket)


async def test_a_restart_frees_what_this_gateway_was_serving_and_what_expired(
    replays: Idempotency, db: Database
) -> None:
    done, _ = await begin(replays, key=b"done")
    await store(db, done)
    old, _ = await begin(replays, key=b"old")
    await store(db, old)
    await begin(replays, key=b"cut")
    other = Idempotency(db, "two")
    await begin(other, key=b"elsewhere")
    async with db.write() as connection:
        await connection.execute(
            update(idempotency).where(idempotency.c.key == "old").values(expires_at=time.time() - 1)
        )
    await Idempotency(db, "one").recover()
    async with db.read() as connection:
        left = set(await connection.scalars(select(idempotency.c.key)))
    assert left == {"done", "elsewhere"}


async def test_an_expired_reply_is_not_given(replays: Idempotency, db: Database) -> None:
    first, _ = await begin(replays)
    await store(db, first)
    await replays.release(first)
    async with db.write() as connection:
        await connection.execute(update(idempotency).values(expires_at=time.time() - 1))
    again, _ = await begin(replays)
    assert again.replay is None
    await replays.release(again)


async def test_a_late_release_does_not_take_the_key_of_a_later_claim(
    replays: Idempotency, db: Database
) -> None:
    first, _ = await begin(replays)
    async with db.write() as connection:
        await connection.execute(update(idempotency).values(expires_at=time.time() - 1))
    second, _ = await begin(replays)
    await replays.release(first)
    assert await rows(db) == 1
    await replays.release(second)
    assert await rows(db) == 0


async def test_a_reply_with_a_new_api_key_is_not_readable_in_the_database(
    replays: Idempotency, db: Database
) -> None:
    asked = {"path": "/v1/admin/keys", "headers": [(b"authorization", b"Bearer osk-a")]}
    first, _ = await begin(replays, **asked)
    await store(db, first, b'{"key": "osk-new"}')
    await replays.release(first)
    async with db.read() as connection:
        assert b"osk-new" not in (await connection.scalar(select(idempotency.c.body)))
    again, _ = await begin(replays, **asked)
    assert again.replay is not None and again.replay[2] == b'{"key": "osk-new"}'
    with pytest.raises(Conflict):
        await begin(replays, path="/v1/admin/keys", headers=[(b"authorization", b"Bearer osk-b")])


async def test_a_cancelled_request_leaves_no_claim(replays: Idempotency, db: Database) -> None:
    for turns in range(12):
        task = asyncio.create_task(begin(replays))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            ticket, _ = await task
            await replays.release(ticket)
        except asyncio.CancelledError:
            pass
        assert await rows(db) == 0
