"""The client of model servers: what it makes of good answers and of every kind of bad one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.errors import BadRequest, NotFound, OstiaryError, RateLimited
from app.llm.server import free_port
from app.llm.upstream import Upstream, UpstreamCut, UpstreamUnavailable, delta_text
from tests.llm.fake_upstream import FakeUpstream

MESSAGES = [{"role": "user", "content": "hello"}]


def body(fault: str) -> dict[str, Any]:
    return {"model": fault, "messages": MESSAGES}


async def read(upstream: Upstream, fault: str) -> str:
    async with asyncio.timeout(10), await upstream.stream(body(fault)) as stream:
        return "".join([delta_text(chunk) async for chunk in stream])


async def test_a_chat_is_answered_and_unknown_fields_are_sent_on(
    fake: FakeUpstream, upstream: Upstream
) -> None:
    reply = await upstream.send({**body("m"), "structured_outputs": {"choice": ["a"]}})
    assert reply["choices"][0]["message"]["content"] == "grüß Gott"
    assert fake.calls[0]["structured_outputs"] == {"choice": ["a"]}


@pytest.mark.parametrize(
    "way",
    [
        *("empty-first", "null-first", "absent-first", "bytewise", "crlf", "multi-line"),
        *("no-done", "unended"),
    ],
)
async def test_a_stream_is_read_whole_however_it_is_written(upstream: Upstream, way: str) -> None:
    assert await read(upstream, way) == "grüß Gott"


@pytest.mark.parametrize("fault", ["cut", "clean-cut", "half-event", "error-event", "garbage"])
async def test_a_broken_stream_is_never_taken_for_a_whole_one(
    upstream: Upstream, fault: str
) -> None:
    with pytest.raises(UpstreamCut) as caught:
        await read(upstream, fault)
    assert caught.value.code == "upstream_cut"
    assert "/a/b" not in caught.value.message


async def test_what_came_before_a_cut_is_still_delivered(upstream: Upstream) -> None:
    seen = []
    with pytest.raises(UpstreamCut):
        async with await upstream.stream(body("clean-cut")) as stream:
            async for chunk in stream:
                seen.append(delta_text(chunk))  # noqa: PERF401 (the loop ends by an error)
    assert "".join(seen) == "grüß Gott"


async def test_a_server_that_falls_silent_is_given_up(fake: FakeUpstream) -> None:
    upstream = Upstream(fake.url, timeout_s=0.2)
    with pytest.raises(UpstreamUnavailable, match="in time"):
        await upstream.send(body("silent"))
    with pytest.raises(UpstreamCut, match="silent"):
        await read(upstream, "falls-silent")
    await upstream.close()


async def test_a_refused_connection_is_unavailable_and_gone() -> None:
    upstream = Upstream(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(UpstreamUnavailable) as caught:
        await upstream.send(body("m"))
    assert caught.value.gone and caught.value.status == 503
    assert "127.0.0.1" not in caught.value.message
    assert not await upstream.health()
    await upstream.close()


async def test_a_connection_aborted_before_the_answer_is_unavailable(upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnavailable):
        await upstream.send(body("abort"))


@pytest.mark.parametrize(
    ("status", "kind", "ours"),
    [
        *((400, BadRequest, 400), (413, BadRequest, 413), (422, BadRequest, 422)),
        *((418, BadRequest, 400), (429, RateLimited, 429), (500, UpstreamUnavailable, 503)),
        *((503, UpstreamUnavailable, 503), (401, UpstreamUnavailable, 503)),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_reply_becomes_ours_without_addresses_paths_or_values(
    upstream: Upstream, status: int, kind: type[OstiaryError], ours: int, streamed: bool
) -> None:
    with pytest.raises(kind) as caught:
        call = upstream.stream if streamed else upstream.send
        await call(body(str(status)))
    error = caught.value
    assert error.status == ours
    for secret in ("127.0.0.1", "/srv", "secret", "123"):
        assert secret not in error.message
    if status == 400:
        assert error.param == "temperature" and "bad value" in error.message
    if status == 429:
        assert error.headers["retry-after"] == "7"


async def test_an_unknown_model_is_named_with_the_code_of_openai(upstream: Upstream) -> None:
    with pytest.raises(NotFound, match="'unknown'") as caught:
        await upstream.send(body("unknown"))
    assert caught.value.code == "model_not_found"


async def test_an_unreadable_answer_is_unavailable(upstream: Upstream) -> None:
    with pytest.raises(UpstreamUnavailable, match="unreadable"):
        await upstream.send(body("garbage"))


@pytest.mark.parametrize("value", [2**70, "\ud800"])
async def test_what_json_cannot_carry_is_the_callers_mistake(
    upstream: Upstream, value: object
) -> None:
    with pytest.raises(BadRequest):
        await upstream.send({**body("m"), "seed": value})


@pytest.mark.parametrize("fault", ["endless", "silent"])
async def test_a_cancelled_call_closes_its_connection(
    fake: FakeUpstream, upstream: Upstream, fault: str
) -> None:
    task = asyncio.create_task(read(upstream, fault))
    async with asyncio.timeout(5):
        await fake.streaming.wait()
        task.cancel()
        await fake.gone.wait()
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__.__name__ in (
        "CancelledError"
    )


async def test_leaving_a_stream_early_closes_its_connection(
    fake: FakeUpstream, upstream: Upstream
) -> None:
    async with asyncio.timeout(5):
        async with await upstream.stream(body("endless")) as stream:
            await anext(stream)
        await fake.gone.wait()


async def test_connections_are_kept_for_the_next_call_streams_too(
    fake: FakeUpstream, upstream: Upstream
) -> None:
    for _ in range(5):
        await upstream.send(body("m"))
        await read(upstream, "m")
    assert len(fake.connections) == 1


async def test_a_kept_connection_that_the_server_closed_is_replaced(
    fake: FakeUpstream, upstream: Upstream
) -> None:
    await upstream.send(body("m"))
    await fake.stop()
    await fake.start(fake.port)
    assert (await upstream.send(body("m")))["object"] == "chat.completion"


async def test_models_are_listed_without_the_servers_paths(upstream: Upstream) -> None:
    assert await upstream.models() == [{"id": "m", "object": "model"}]


async def test_health_follows_the_server(fake: FakeUpstream, upstream: Upstream) -> None:
    assert await upstream.health()
    fake.healthy = False
    assert not await upstream.health()
