"""Many servers of a model: who gets a call, who takes over, who answers in their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from app.errors import BadRequest
from app.gateway.call import Call
from app.llm.deployment import Deployment
from app.llm.router import Router
from app.llm.served import RETRIES_AT_ONCE, SLACK
from app.llm.upstream import Upstream, UpstreamCut, UpstreamUnavailable
from tests.llm.fake_upstream import FakeUpstream

LONG = "The keeper of the door reads the whole ledger aloud. " * 40


class House:
    """A router over some fault servers; the model that a server knows names its fault."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.router = Router({})
        self.servers: dict[str, FakeUpstream] = {}

    async def add(self, id: str, fault: str = "m", model: str = "m", **more: Any) -> Deployment:
        server = FakeUpstream()
        await server.start()
        self._stack.push_async_callback(server.stop)
        self.servers[id] = server
        made = Deployment(id, model, Upstream(server.url, timeout_s=5), served=fault, **more)
        await self.router.add(made)
        return made

    def calls(self) -> dict[str, int]:
        return {name: len(server.calls) for name, server in self.servers.items()}


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        made = House(stack)
        stack.push_async_callback(made.router.stop)
        yield made


def body(text: str = "hello", model: str = "m") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def a_call() -> Call:
    return Call("call_1", "r", "rest", "POST /v1/chat/completions", model="m")


async def test_idle_servers_take_turns_and_names_are_ours(house: House) -> None:
    await house.add("one", "absent-first")
    await house.add("two", "null-first")
    for _ in range(6):
        await house.router.send(body())
    assert house.calls() == {"one": 3, "two": 3}
    assert {c["model"] for c in house.servers["one"].calls} == {"absent-first"}
    stream = await house.router.stream(body())
    assert {chunk["model"] async for chunk in stream} == {"m"}


async def test_a_look_whether_a_model_is_ready_takes_no_turn(house: House) -> None:
    """A grounded answer looks first and asks then: its calls still reach both servers."""
    await house.add("one")
    await house.add("two")
    for _ in range(6):
        assert await house.router.ready("m")
        await house.router.send(body())
    assert house.calls() == {"one": 3, "two": 3}


async def test_the_one_with_less_to_do_for_its_weight_gets_the_call(house: House) -> None:
    small, large = await house.add("small"), await house.add("large", weight=4.0)
    with small.busy(), large.busy(), large.busy():
        for _ in range(3):
            await house.router.send(body())
    assert house.calls() == {"small": 0, "large": 3}


async def test_a_conversation_stays_where_it_is_warm_until_that_has_too_much(
    house: House,
) -> None:
    for name in ("one", "two", "three"):
        await house.add(name)
    call = a_call()
    await house.router.send(body(LONG), call=call)
    warm = call.lineage["deployment"]
    for n in range(5):
        await house.router.send(body(f"{LONG} And then? {n}"))
    assert house.calls()[warm] == 6
    found = {d.id: d for d in house.router.deployments()}
    for _ in range(SLACK + 1):
        found[warm]._begun()
    await house.router.send(body(LONG))
    assert house.calls()[warm] == 6


async def test_a_full_server_is_left_for_one_that_is_not(house: House) -> None:
    for name in ("one", "two"):
        await house.add(name)
    call = a_call()
    await house.router.send(body(LONG), call=call)
    warm = next(d for d in house.router.deployments() if d.id == call.lineage["deployment"])
    warm.cache_usage = 0.99
    await house.router.send(body(LONG))
    assert house.calls()[warm.id] == 1


@pytest.mark.parametrize(
    ("fault", "streamed"),
    [
        *(("500", False), ("abort", False), ("garbage", False), ("429", False)),
        *(("500", True), ("abort", True), ("429", True)),
    ],
)
async def test_another_server_takes_over_before_the_first_byte(
    house: House, fault: str, streamed: bool
) -> None:
    bad = await house.add("bad", fault)
    await house.add("good")
    bad.weight = 1000.0  # it is asked first
    call = a_call()
    if streamed:
        chunks = [c async for c in await house.router.stream(body(), call=call)]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        assert (await house.router.send(body(), call=call))["object"] == "chat.completion"
    # a connection that breaks at once may be an old one, so that server is asked again
    assert house.calls() == {"bad": 2 if fault == "abort" else 1, "good": 1}
    assert call.lineage == {"deployment": "good", "failed_deployments": ["bad"]}
    assert call.degraded is None  # another server of the same model is the same model
    assert [d.outstanding for d in house.router.deployments()] == [0, 0]


async def test_after_the_first_byte_nobody_takes_over(house: House) -> None:
    bad = await house.add("bad", "cut")
    await house.add("good")
    bad.weight = 1000.0
    stream = await house.router.stream(body())
    with pytest.raises(UpstreamCut):
        async for _ in stream:
            pass
    assert house.calls() == {"bad": 1, "good": 0}
    assert bad.outstanding == 0


async def test_a_refusal_is_the_callers_and_no_reason_to_ask_another(house: House) -> None:
    bad = await house.add("bad", "400")
    await house.add("good")
    bad.weight = 1000.0
    with pytest.raises(BadRequest):
        await house.router.send(body())
    assert house.calls() == {"bad": 1, "good": 0}


async def test_retries_are_a_fifth_of_the_calls_once_the_first_are_spent(house: House) -> None:
    bad = await house.add("bad", "500")
    await house.add("good")
    failed = 0
    for _ in range(100):
        bad.weight, bad.up = 1000.0, True
        try:
            await house.router.send(body())
        except UpstreamUnavailable:
            failed += 1
    retried = len(house.servers["good"].calls)
    assert failed + retried == 100
    assert retried == pytest.approx(RETRIES_AT_ONCE + 100 * 0.2, abs=3)


async def test_another_model_answers_and_says_so(house: House) -> None:
    await house.add("large-1", "abort", "large")
    await house.add("small-1", "m", "small")
    house.router.set_fallbacks("large", ["gone", "small"])
    call = a_call()
    reply = await house.router.send(body(model="large"), call=call)
    assert reply.get("model", "small") == "small"
    assert (call.model, call.degraded) == ("small", "fallback-model=small")
    assert call.lineage["failed_deployments"] == ["large-1"]
    await house.servers["large-1"].stop()
    assert await house.router.ready("large")


async def test_a_drained_server_ends_its_stream_and_gets_no_call(house: House) -> None:
    old = await house.add("old", "endless")
    await house.add("new")
    old.weight = 1000.0
    stream = await house.router.stream(body())
    assert (await anext(stream))["choices"]
    old.draining = True
    for _ in range(3):
        await house.router.send(body())
    assert house.calls() == {"old": 1, "new": 3}
    leaving = asyncio.create_task(house.router.remove("old"))
    await asyncio.sleep(0.05)
    assert not leaving.done() and [d.id for d in house.router.deployments()] == ["new"]
    await stream.aclose()
    await asyncio.wait_for(leaving, 2)


async def test_the_last_server_takes_its_model_along(house: House) -> None:
    await house.add("only")
    await house.router.remove("only")
    assert house.router.names == []


async def test_what_vllm_tells_of_its_load_counts(house: House) -> None:
    told = await house.add("one")
    house.servers["one"].metrics = (
        "# HELP vllm:num_requests_running x\n"
        'vllm:num_requests_running{engine="0",model_name="m"} 3.0\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 2.0\n'
        'vllm:num_requests_waiting{engine="0",model_name="m"} 4.0\n'
        'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.97\n'
    )
    assert await told.upstream.metrics() == {"running": 5, "waiting": 4, "cache_usage": 0.97}
    told.look_again()
    async with asyncio.timeout(5):
        while not told.full:
            await asyncio.sleep(0.01)
    assert (told.foreign, told.waiting, told.load) == (9, 4, 10)


async def test_a_stream_that_nobody_reads_counts_no_more(house: House) -> None:
    found = await house.add("one", "endless")
    stream = await house.router.stream(body())
    assert found.outstanding == 1
    del stream
    assert found.outstanding == 0
