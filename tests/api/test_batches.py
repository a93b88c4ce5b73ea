"""Batches through a real gateway, with the OpenAI SDK: what is asked, kept, refused, stopped."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError, ConflictError, NotFoundError
from openai.types import Batch

from app.llm.batch_lines import ENDPOINTS
from tests.api.calls import new_key, send
from tests.api.governed import Governed, governed

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Governed]:
    async with governed(tmp_path_factory.mktemp("batches"), OSTIARY_BATCH_CALLS="3") as made:
        yield made


def chat_line(custom_id: str, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


async def begin(
    client: AsyncOpenAI, lines: list[Any] | bytes, endpoint: Any = CHAT, **more: Any
) -> Batch:
    data = lines if isinstance(lines, bytes) else "\n".join(map(json.dumps, lines)).encode()
    file = await client.files.create(file=("lines.jsonl", data), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


async def until(
    client: AsyncOpenAI, batch: Batch, reached: Callable[[Batch], bool], timeout_s: float = 60
) -> Batch:
    """The batch as soon as something is true of it."""
    async with asyncio.timeout(timeout_s):
        while not reached(batch):
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
    return batch


async def ended(client: AsyncOpenAI, batch: Batch, timeout_s: float = 60) -> Batch:
    return await until(client, batch, lambda b: b.status in OVER, timeout_s)


def has_answers(least: int) -> Callable[[Batch], bool]:
    return lambda b: b.request_counts is not None and b.request_counts.completed >= least


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a result file by their ``custom_id``."""
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    found = [json.loads(line) for line in text.splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found)
    return {line["custom_id"]: line for line in found}


async def test_every_line_is_answered_or_its_error_told(setup: Governed) -> None:
    setup.model.says("Doors open inwards.")
    given = [
        chat_line("good"),
        chat_line("unknown", model="nope"),
        chat_line("masked", "I am jo@example.org"),
        chat_line("malformed", temperature="hot"),
    ]
    batch = await begin(setup.client, given, metadata={"night": "1"})
    assert batch.status in ("validating", "in_progress")
    assert batch.metadata == {"night": "1"}
    batch = await ended(setup.client, batch)
    assert batch.status == "completed", batch
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 2, 2)
    good = await lines_of(setup.client, batch.output_file_id)
    assert set(good) == {"good", "masked"}
    answer = good["good"]["response"]
    assert answer["status_code"] == 200 and answer["request_id"]
    assert answer["body"]["choices"][0]["message"]["content"] == "Doors open inwards."
    assert good["good"]["error"] is None
    bad = await lines_of(setup.client, batch.error_file_id)
    assert bad["unknown"]["response"]["status_code"] == 404
    assert bad["unknown"]["error"]["code"] == "model_not_found"
    assert bad["malformed"]["response"]["status_code"] == 400
    sent = [body["messages"][0]["content"] for body in setup.model.bodies]
    assert sorted(sent) == ["Hello", "I am <EMAIL_ADDRESS>"]
    file = await setup.client.files.retrieve(str(batch.output_file_id))
    assert file.purpose == "batch_output"


async def test_each_line_is_charged_and_audited_as_one_call(setup: Governed) -> None:
    setup.model.says("One two three.")
    before = send(setup.gateway, "GET", "/v1/usage")[1]
    batch = await ended(setup.client, await begin(setup.client, [chat_line(c) for c in "abcde"]))
    after = send(setup.gateway, "GET", "/v1/usage")[1]

    def tokens(page: Any) -> int:
        return sum(row["completion_tokens"] for row in page["data"])

    assert tokens(after) - tokens(before) == 5 * 3
    records = send(setup.gateway, "GET", "/v1/audit?limit=100")[1]["data"]
    of_lines = [r for r in records if r["door"] == "batch" and r["route"] == f"POST {CHAT}"]
    answers = await lines_of(setup.client, batch.output_file_id)
    asked = {line["response"]["request_id"] for line in answers.values()}
    assert asked <= {r["request_id"] for r in of_lines}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"model": "bge-small-en", "input": "A door."}),
        ("/v1/completions", {"model": "m", "prompt": "A door"}),
        ("/v1/responses", {"model": "m", "input": "A door", "store": False}),
        ("/v1/moderations", {"input": "A door."}),
        (
            "/v1/rerank",
            {"model": "late-interaction", "query": "door", "documents": ["A door.", "A wall."]},
        ),
    ],
)
async def test_batches_have_these_endpoints_too(
    setup: Governed, endpoint: str, body: dict[str, Any]
) -> None:
    setup.model.says("Open.")
    models = [m.id async for m in setup.client.models.list()]
    if endpoint == "/v1/embeddings":
        body["model"] = next(name for name in models if "bge" in name)
    line = {"custom_id": "1", "method": "POST", "url": endpoint, "body": body}
    batch = await ended(setup.client, await begin(setup.client, [line], endpoint))
    assert batch.status == "completed", batch
    found = await lines_of(setup.client, batch.output_file_id or batch.error_file_id)
    assert found["1"]["response"]["status_code"] == 200, found
    assert endpoint in ENDPOINTS


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"{oops\n", "invalid_json_line", 1),
        (b"[1]\n", "invalid_json_line", 1),
        (json.dumps({**chat_line("a"), "url": "/v1/embeddings"}).encode(), "mismatched_url", 1),
        (json.dumps({**chat_line("a"), "method": "GET"}).encode(), "invalid_method", 1),
        (json.dumps({**chat_line("a"), "body": 5}).encode(), "invalid_body", 1),
        (json.dumps({**chat_line("")}).encode(), "invalid_custom_id", 1),
        (json.dumps(chat_line("a", stream=True)).encode(), "stream_in_batch", 1),
        (
            "\n".join([json.dumps(chat_line("a")), "", json.dumps(chat_line("a"))]).encode(),
            "duplicate_custom_id",
            3,
        ),
    ],
)
async def test_a_file_with_a_bad_line_is_refused_whole_and_the_line_named(
    setup: Governed, data: bytes, code: str, line: int | None
) -> None:
    setup.model.says("x")
    batch = await ended(setup.client, await begin(setup.client, data))
    assert batch.status == "failed"
    assert batch.errors is not None and batch.errors.data is not None
    assert [(e.code, e.line) for e in batch.errors.data] == [(code, line)]
    assert batch.output_file_id is None and batch.failed_at is not None
    assert setup.model.bodies == []


async def test_what_cannot_begin_is_refused(setup: Governed) -> None:
    client = setup.client
    other = await client.files.create(file=("a.jsonl", b"{}\n"), purpose="user_data")
    window: Any = {"completion_window": "24h"}
    chats: Any = CHAT
    with pytest.raises(BadRequestError, match="purpose 'batch'"):
        await client.batches.create(input_file_id=other.id, endpoint=chats, **window)
    file = await client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
    wrong: Any = "/v1/files"
    with pytest.raises(BadRequestError, match="endpoint must be one of"):
        await client.batches.create(input_file_id=file.id, endpoint=wrong, **window)
    with pytest.raises(NotFoundError):
        await client.batches.create(input_file_id="file-nope", endpoint=chats, **window)
    with pytest.raises(NotFoundError):
        await client.batches.retrieve("batch_nope")
    purpose: Any = "batch_output"
    with pytest.raises(BadRequestError, match="purpose"):
        await client.files.create(file=("a.jsonl", b"{}\n"), purpose=purpose)


async def test_a_model_that_is_down_is_waited_for(setup: Governed) -> None:
    setup.model.says("Back again.")
    port = int(setup.model.url.rsplit(":", 1)[1].split("/")[0])
    await setup.model.stop()
    batch = await begin(setup.client, [chat_line("patient")])
    await until(setup.client, batch, lambda b: b.status == "in_progress")
    await asyncio.sleep(1.5)  # it has been tried meanwhile, and stays
    assert (await setup.client.batches.retrieve(batch.id)).status == "in_progress"
    await setup.model.start(port)
    batch = await ended(setup.client, batch)
    answers = await lines_of(setup.client, batch.output_file_id)
    assert answers["patient"]["response"]["status_code"] == 200


async def test_a_cancelled_batch_keeps_what_was_answered(setup: Governed) -> None:
    setup.model.says("Slowly.")
    setup.model.wait_s = 0.2
    batch = await begin(setup.client, [chat_line(str(n)) for n in range(200)])
    batch = await until(setup.client, batch, has_answers(3))
    assert (await setup.client.batches.cancel(batch.id)).status == "cancelling"
    batch = await ended(setup.client, batch)
    assert batch.status == "cancelled" and batch.cancelled_at is not None
    assert batch.request_counts is not None
    answers = await lines_of(setup.client, batch.output_file_id)
    assert 3 <= len(answers) == batch.request_counts.completed < 200
    assert batch.request_counts.total == 200
    with pytest.raises(ConflictError):
        await setup.client.batches.cancel(batch.id)


async def test_what_was_not_asked_in_time_is_told_line_by_line(setup: Governed) -> None:
    setup.model.says("Slowly.")
    setup.model.wait_s = 0.2
    batch = await begin(setup.client, [chat_line(str(n)) for n in range(100)])
    await until(setup.client, batch, has_answers(1))
    with sqlite3.connect(setup.gateway.data_dir / "ostiary.db", timeout=30) as db:
        db.execute("UPDATE batches SET expires_at = 1 WHERE id = ?", (batch.id,))
    # the run knows its own window; a restart reads the row
    await asyncio.to_thread(setup.gateway.kill)
    await asyncio.to_thread(setup.gateway.start)
    batch = await ended(setup.client, batch)
    assert batch.status == "expired"
    assert batch.request_counts is not None
    answers = await lines_of(setup.client, batch.output_file_id)
    errors = await lines_of(setup.client, batch.error_file_id)
    assert len(answers) == batch.request_counts.completed
    assert len(errors) == batch.request_counts.failed == 100 - len(answers)
    late = list(errors.values())
    assert all(e["response"] is None and e["error"]["code"] == "batch_expired" for e in late)


async def test_a_revoked_key_ends_its_batch(setup: Governed) -> None:
    setup.model.says("Slowly.")
    setup.model.wait_s = 0.2
    made = new_key(setup.gateway, scopes=["files:*", "batches:*", "chat:write"])
    async with AsyncOpenAI(base_url=setup.gateway.url + "/v1", api_key=made["key"]) as client:
        batch = await begin(client, [chat_line(str(n)) for n in range(200)])
        await until(client, batch, has_answers(1))
    assert send(setup.gateway, "DELETE", f"/v1/admin/keys/{made['id']}")[0] == 200
    batch = await ended(setup.client, batch)
    assert batch.status == "failed"
    assert batch.errors is not None and batch.errors.data is not None
    assert batch.errors.data[0].code == "revoked_api_key"


async def test_a_batch_is_its_owners_and_needs_the_scope_of_its_lines(setup: Governed) -> None:
    setup.model.says("x")
    scopes = ["files:*", "batches:*"]
    mine, other = (new_key(setup.gateway, scopes=scopes, name=n)["key"] for n in "ab")
    url = setup.gateway.url + "/v1"
    async with (
        AsyncOpenAI(base_url=url, api_key=mine) as client,
        AsyncOpenAI(base_url=url, api_key=other) as stranger,
    ):
        batch = await ended(client, await begin(client, [chat_line("a")]))
        errors = await lines_of(client, batch.error_file_id)
        assert errors["a"]["error"]["code"] == "insufficient_scope"
        for attempt in (stranger.batches.retrieve, stranger.batches.cancel):
            with pytest.raises(NotFoundError):
                await attempt(batch.id)
        with pytest.raises(NotFoundError):
            await stranger.files.content(str(batch.error_file_id))
        assert batch.id not in [b.id async for b in stranger.batches.list()]
        assert [b.id async for b in client.batches.list()] == [batch.id]
    assert batch.id in [b.id async for b in setup.client.batches.list(limit=2)]


async def test_batches_and_servers_are_kept_in_postgresql_too(
    tmp_path: Path, new_postgres_url: Callable[[], str]
) -> None:
    async with governed(tmp_path, OSTIARY_DATABASE_URL=new_postgres_url()) as house:
        house.model.says("Three words here.")
        lines = [chat_line("good"), chat_line("bad", model="nope")]
        batch = await ended(house.client, await begin(house.client, lines))
        assert batch.status == "completed" and batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
        assert set(await lines_of(house.client, batch.output_file_id)) == {"good"}
        server = "/v1/admin/deployments/m"
        for weight in (2.0, 3.0):
            status, changed, _ = await asyncio.to_thread(
                send, house.gateway, "POST", server, {"weight": weight}
            )
            assert (status, changed["weight"]) == (200, weight)


@pytest.mark.slow
async def test_kill_9_in_a_batch_asks_and_charges_no_line_twice(tmp_path: Path) -> None:
    async with governed(tmp_path, OSTIARY_BATCH_CALLS="4") as house:
        house.model.says("Three words here.")
        house.model.wait_s = 0.05
        total = 300
        batch = await begin(house.client, [chat_line(str(n)) for n in range(total)])
        for _ in range(4):
            await asyncio.sleep(1.2)
            await asyncio.to_thread(house.gateway.kill)
            await asyncio.to_thread(house.gateway.start)
        batch = await ended(house.client, batch, 120)
        assert batch.status == "completed"
        answers = await lines_of(house.client, batch.output_file_id)
        assert set(answers) == {str(n) for n in range(total)}
        with sqlite3.connect(house.gateway.data_dir / "ostiary.db") as db:
            (tokens,) = db.execute(
                "SELECT sum(completion_tokens) FROM audit WHERE route = ?", (f"POST {CHAT}",)
            ).fetchone()
        assert tokens == total * 3
        # what was under way when it was killed was asked again, and nothing else
        assert total <= len(house.model.bodies) <= total + 4 * 4
        verdict = send(house.gateway, "GET", "/v1/audit/verify")[1]
        assert verdict["fault"] is None, verdict
