"""The router: unknown names, breakers that open and that heal by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from app.errors import BadRequest, NotFound
from app.llm.router import Router
from app.llm.upstream import Upstream, UpstreamCut, UpstreamUnavailable
from tests.llm.fake_upstream import FakeUpstream

FAULTS = ("m", "cut", "500", "400")


@pytest_asyncio.fixture
async def router(fake: FakeUpstream) -> AsyncIterator[Router]:
    made = Router({fault: Upstream(fake.url, timeout_s=5.0) for fault in FAULTS})
    await made.start()
    yield made
    await made.stop()


def body(fault: str) -> dict[str, Any]:
    return {"model": fault, "messages": [{"role": "user", "content": "hello"}]}


async def until_available(router: Router, model: str) -> None:
    async with asyncio.timeout(15):
        while not router.available(model):
            await asyncio.sleep(0.01)


async def test_an_unknown_model_is_told_with_the_code_of_openai(router: Router) -> None:
    with pytest.raises(NotFound) as caught:
        await router.send(body("nope"))
    assert caught.value.code == "model_not_found" and caught.value.status == 404
    with pytest.raises(NotFound):
        router.available("nope")


async def test_a_dead_server_opens_the_breaker_and_its_return_heals_it(
    router: Router, fake: FakeUpstream
) -> None:
    assert router.available("m")
    await fake.stop()
    with pytest.raises(UpstreamUnavailable):
        await router.send(body("m"))
    assert not router.available("m")
    started = asyncio.get_running_loop().time()
    with pytest.raises(UpstreamUnavailable, match="not running"):
        await router.stream(body("m"))
    assert asyncio.get_running_loop().time() - started < 0.05
    await fake.start(fake.port)
    router.look_again()
    await until_available(router, "m")
    assert (await router.send(body("m")))["object"] == "chat.completion"


async def test_a_stream_cut_by_a_dying_server_opens_the_breaker(
    router: Router, fake: FakeUpstream
) -> None:
    fake.healthy = False
    stream = await router.stream(body("cut"))
    with pytest.raises(UpstreamCut):
        async for _ in stream:
            pass
    assert not router.available("cut")
    fake.healthy = True
    await until_available(router, "cut")


async def test_a_call_right_after_a_cut_waits_for_the_look_at_the_server(router: Router) -> None:
    for _ in range(3):  # a network fault: the server itself lives on
        stream = await router.stream(body("cut"))
        with pytest.raises(UpstreamCut):
            async for _ in stream:
                pass
        assert not router.available("cut")
        assert await router.ready("cut")


async def test_one_failed_call_of_a_living_server_does_not_open_the_breaker(
    router: Router,
) -> None:
    for times in range(3):
        assert router.available("500"), times
        with pytest.raises(UpstreamUnavailable):
            await router.send(body("500"))
    assert not router.available("500")


async def test_a_refused_request_says_nothing_about_health(router: Router) -> None:
    for _ in range(5):
        with pytest.raises(BadRequest):
            await router.send(body("400"))
    assert router.available("400")
