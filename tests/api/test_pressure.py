"""More calls than the model servers take, limits of a key and prices of a model, from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.api.calls import chat, new_key, refused
from tests.api.scripted_house import ScriptedHouse, scripted_gateway

CHAT = "/v1/chat/completions"
MODELS = "/v1/admin/models"


class House(ScriptedHouse):
    """The model takes one call at a time; two more may wait."""

    async def waiting(self, count: int) -> None:
        async with asyncio.timeout(10):
            while (await self.good("GET", MODELS))["data"][0]["waiting"] != count:
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="session")
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with scripted_gateway(
        tmp_path / "data",
        llm_max_concurrent="1",
        llm_queue="2",
        llm_queue_s="1.5",
        embedded_retrieval="false",
    ) as (gateway, model):
        yield House(gateway, model)


async def test_calls_wait_their_turn_and_one_too_many_is_told_when_to_come_back(
    house: House,
) -> None:
    house.model.wait_s = 0.4
    first = asyncio.create_task(house.send("POST", CHAT, chat("1", model="m")))
    await house.asked()
    nightly = asyncio.create_task(
        house.send("POST", CHAT, chat("night", model="m"), x_ostiary_priority="background")
    )
    await house.waiting(1)
    second = asyncio.create_task(
        house.send("POST", CHAT, chat("2", model="m", stream=False), x_request_id="waited")
    )
    await house.waiting(2)
    status, body, headers = await house.send(
        "POST", CHAT, chat("late", model="m"), x_ostiary_priority="background"
    )
    assert (status, body["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert [r[0] for r in await asyncio.gather(first, nightly, second)] == [200] * 3
    said = [b["messages"][-1]["content"] for b in house.model.bodies]
    assert said == ["1", "2", "night"]  # people before the background, whoever came first
    assert (await house.record("waited"))["lineage"]["queued_ms"] >= 100


async def test_a_call_that_waits_too_long_is_told_so_and_a_stream_holds_its_place(
    house: House,
) -> None:
    house.model.wait_s = 4.0
    headers = {"authorization": f"Bearer {house.gateway.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        url = house.gateway.url + CHAT
        streaming = asyncio.create_task(
            session.post(url, json=chat("long", model="m", stream=True))
        )
        await house.asked()
        status, body, told = await house.send("POST", CHAT, chat("x", model="m"))
        assert (status, body["error"]["code"]) == (503, "model_overloaded")
        assert "retry-after" in told
        async with await streaming as reply:
            assert reply.status == 200
            assert (await reply.read()).endswith(b"data: [DONE]\n\n")
    house.model.wait_s = 0.0
    await house.good("POST", CHAT, chat("x", model="m"))
    await house.good("POST", f"{MODELS[:-7]}/deployments/m", {"max_concurrent": 7})
    (model,) = (await house.good("GET", MODELS))["data"]
    assert model["deployments"][0]["max_concurrent"] == 7 and model["waiting"] == 0


async def test_a_client_that_goes_away_leaves_the_line(house: House) -> None:
    house.model.wait_s = 1.0
    first = asyncio.create_task(house.send("POST", CHAT, chat("1", model="m")))
    await house.asked()
    headers = {"authorization": f"Bearer {house.gateway.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        asking = asyncio.create_task(
            session.post(
                house.gateway.url + CHAT,
                json=chat("gone", model="m"),
                headers={"x-request-id": "left-the-line"},
            )
        )
        await house.waiting(1)
        asking.cancel()
        await house.waiting(0)
    assert (await first)[0] == 200
    assert len(house.model.bodies) == 1  # nobody asked the model for who had gone
    assert (await house.record("left-the-line"))["status"] == 499


async def test_a_priority_that_there_is_not_is_refused(house: House) -> None:
    told = refused(await house.send("POST", CHAT, chat(model="m"), x_ostiary_priority="urgent"))
    assert told["param"] == "x-ostiary-priority"


async def test_a_key_has_streams_and_a_budget_of_its_own(house: House) -> None:
    made = await asyncio.to_thread(
        new_key, house.gateway, scopes=["chat:write"], max_streams=1, budget_usd_per_day=0.000002
    )
    assert (made["max_streams"], made["budget_usd_per_day"]) == (1, 0.000002)
    await house.good("POST", f"{MODELS[:-7]}/deployments/m", {"max_concurrent": 10})
    house.model.wait_s = 1.0
    headers = {"authorization": f"Bearer {made['key']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        url, body = house.gateway.url + CHAT, chat("a", model="m", stream=True)
        first = asyncio.create_task(session.post(url, json=body))
        await house.asked()
        async with session.post(url, json=body) as second:
            assert (second.status, (await second.json())["error"]["code"]) == (
                429,
                "too_many_streams",
            )
        async with await first as reply:
            await reply.read()
        # 7 prompt tokens at 0.05 and one of an answer at 0.20 USD a million: 0.55 µUSD
        house.model.wait_s = 0.0
        statuses = []
        for _ in range(5):
            async with session.post(url, json=body) as reply:
                statuses.append(reply.status)
                await reply.read()
        assert statuses == [200, 200, 200, 402, 402]
    await house.good("POST", CHAT, chat(model="m"))  # another key of the tenant goes on
    await asyncio.to_thread(house.gateway.kill)
    await asyncio.to_thread(house.gateway.start)
    status, body, _ = await house.send("POST", CHAT, chat(model="m"), **headers)
    assert (status, body["error"]["code"]) == (402, "budget_exceeded")


async def test_a_model_has_a_price_of_its_own(house: House) -> None:
    async def cost() -> float:
        reply = await house.good("POST", CHAT, chat(model="m"))
        return float(reply["usage"]["cost_usd"])

    house.model.says("one two three")
    assert await cost() == pytest.approx((7 * 0.05 + 3 * 0.20) / 1e6)
    price = {"prompt_usd_per_mtok": 10.0, "completion_usd_per_mtok": 30.0}
    assert (await house.good("PUT", f"{MODELS}/m", {"price": price}))["price"] == price
    assert await cost() == pytest.approx((7 * 10 + 3 * 30) / 1e6)
    await asyncio.to_thread(house.gateway.kill)
    await asyncio.to_thread(house.gateway.start)
    assert await cost() == pytest.approx((7 * 10 + 3 * 30) / 1e6)
    hourly = {"hour_usd": 3.6, "tokens_per_s": 100.0}
    await house.good("PUT", f"{MODELS}/m", {"price": hourly})
    assert await cost() == pytest.approx(10 * 3.6 / 3600 / 100, rel=0.02)
    house.model.wait_s = 1.0
    for _ in range(3):
        await cost()
    found = (await house.good("GET", f"{MODELS}"))["data"][0]["price"]
    assert found["hour_usd"] == 3.6
    # 10 minutes at 100 tokens a second, three seconds at 10
    assert found["tokens_per_s"] == pytest.approx((60_000 + 40) / 603, rel=0.001)
    await house.good("PUT", f"{MODELS}/m", {"fallbacks": []})  # what is left out stays
    assert (await house.good("GET", MODELS))["data"][0]["price"]["hour_usd"] == 3.6
    await house.good("PUT", f"{MODELS}/m", {"price": None})
    assert await cost() == pytest.approx((7 * 0.05 + 3 * 0.20) / 1e6)
    for wrong in ({"hour_usd": 1.0}, {"hour_usd": 1.0, "tokens_per_s": 0}, {"prompt": 1}, 5):
        refused(await house.send("PUT", f"{MODELS}/m", {"price": wrong}))
    refused(await house.send("PUT", f"{MODELS}/nope", {"price": price}), 404)
