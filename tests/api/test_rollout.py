"""Candidates beside a model's servers, from outside: tried, compared, promoted, taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from tests.api.calls import chat, new_key, refused
from tests.api.scripted_house import ScriptedHouse, scripted_gateway
from tests.llm.scripted import ScriptedModel

CHAT = "/v1/chat/completions"
MODEL = "/v1/admin/models/m"
SERVERS = "/v1/admin/deployments"
COMPARISON = "/v1/admin/comparisons/m"
PROMOTE, ROLL_BACK, OF_M = "/v1/admin/promotions", "/v1/admin/rollbacks", {"model": "m"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class House(ScriptedHouse):
    """The gateway, its model, and another that is tried."""

    candidate: ScriptedModel
    added: str | None = None

    async def add(self, role: str, **more: Any) -> str:
        body = {"model": "m", "url": self.candidate.url, "role": role, **more}
        self.added = str((await self.good("POST", SERVERS, body))["id"])
        return self.added

    async def shares(self, **rollout: Any) -> None:
        await self.good("PUT", MODEL, {"rollout": rollout})

    async def say(self, content: str = "Hello", **fields: Any) -> str:
        reply = await self.good("POST", CHAT, chat(content, model="m", **fields))
        return str(reply["choices"][0]["message"]["content"])

    async def report(self, wanted: int, outcome: str = "answered") -> dict[str, Any]:
        """The comparison, once a candidate has so many calls."""
        async with asyncio.timeout(20):
            while True:
                found = dict(await self.good("GET", COMPARISON))
                tried = [s for s in found["sides"] if s["role"] != "stable"]
                if sum(side[outcome] for side in tried) >= wanted:
                    return found
                await asyncio.sleep(0.05)

    async def roles(self) -> dict[str, tuple[str, str]]:
        (model,) = (await self.good("GET", "/v1/admin/models"))["data"]
        return {d["id"]: (d["role"], d["state"]) for d in model["deployments"]}

    def sdk(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.gateway.url + "/v1", api_key=self.gateway.key, max_retries=0
        )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    data = tmp_path_factory.mktemp("rollout") / "data"
    async with AsyncExitStack() as stack:
        gateway, model = await stack.enter_async_context(scripted_gateway(data))
        house = House(gateway, model)
        house.candidate = ScriptedModel()
        await house.candidate.start()
        stack.push_async_callback(house.candidate.stop)
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> AsyncIterator[House]:
    running.model.says("The old answer.")
    running.candidate.says("The new answer.")
    yield running
    await running.good("PUT", MODEL, {"rollout": None, "cache": None})
    for name, (role, _) in (await running.roles()).items():
        if name == "m":
            body = {"role": "stable", "draining": False}
            await running.good("POST", f"{SERVERS}/{name}", body)
        else:
            if role == "stable":  # else the one of the settings could not be the only one
                await running.good("POST", f"{SERVERS}/{name}", {"draining": True})
            await running.good("DELETE", f"{SERVERS}/{name}")


async def test_a_canary_answers_its_share_of_callers_and_each_stays_on_its_side(
    house: House,
) -> None:
    await house.add("canary")
    people = [f"person-{n}" for n in range(40)]
    assert {await house.say(user=p) for p in people[:5]} == {"The old answer."}
    await house.shares(canary_share=0.5)
    half = {p for p in people if await house.say(user=p) == "The new answer."}
    assert 8 <= len(half) <= 32
    again = {p for p in people if await house.say("Again", user=p) == "The new answer."}
    assert again == half
    await house.shares(canary_share=0.8)
    more = {p for p in people if await house.say(user=p) == "The new answer."}
    assert half < more
    await house.shares(canary_share=1.0)
    assert {await house.say(user=p) for p in people} == {"The new answer."}
    await house.good("PUT", MODEL, {"rollout": None})
    assert {await house.say(user=p) for p in people} == {"The old answer."}


async def test_without_a_person_a_conversation_stays_on_its_side(house: House) -> None:
    await house.add("canary")
    await house.shares(canary_share=0.5)
    sides = set()
    for number in range(12):
        first = {"role": "user", "content": f"Question {number}"}
        client = house.sdk()
        one = await client.chat.completions.create(model="m", messages=[first])  # type: ignore[list-item]
        said = one.choices[0].message.content
        turns = [first, {"role": "assistant", "content": said}, {"role": "user", "content": "And?"}]
        two = await client.chat.completions.create(model="m", messages=turns)  # type: ignore[arg-type]
        assert two.choices[0].message.content == said
        sides.add(said)
    assert sides == {"The old answer.", "The new answer."}


async def test_a_canary_that_fails_or_is_full_costs_nobody_an_answer(house: House) -> None:
    await house.add("canary", max_concurrent=1)
    await house.shares(canary_share=1.0)
    house.candidate.wait_s = 3.0
    said = await asyncio.gather(*(house.say(f"At once {n}") for n in range(4)))
    assert sorted(said) == ["The new answer.", *3 * ["The old answer."]]
    await house.candidate.stop()
    port = int(house.candidate.url.split(":")[2].split("/")[0])
    try:
        status, _, headers = await house.send("POST", CHAT, chat("Hello", model="m"))
        assert status == 200
        record = await house.record(headers["x-request-id"])
        assert record["lineage"]["deployment"] == "m"
        assert "x-ostiary-degraded" not in headers
    finally:
        await house.candidate.start(port)
    found = await house.report(1, "failed")
    (canary,) = (s for s in found["sides"] if s["role"] == "canary")
    assert canary["failed"] >= 1


async def test_who_was_sent_to_a_canary_stands_in_the_audit_record(house: House) -> None:
    added = await house.add("canary")
    await house.shares(canary_share=1.0)
    _, _, headers = await house.send("POST", CHAT, chat("Hello", model="m"))
    lineage = (await house.record(headers["x-request-id"]))["lineage"]
    assert (lineage["arm"], lineage["deployment"]) == ("canary", added)


async def test_a_shadow_answers_nobody_delays_nobody_and_is_charged_to_nobody(
    house: House,
) -> None:
    _, before, without = await house.send("POST", CHAT, chat("Hello", model="m"))
    added = await house.add("shadow")
    await house.shares(shadow_share=1.0)
    house.candidate.wait_s = 30.0
    _, reply, headers = await house.send("POST", CHAT, chat("Hello", model="m"))
    assert reply["choices"] == before["choices"] and reply["usage"] == before["usage"]
    assert headers["x-ostiary-cost-usd"] == without["x-ostiary-cost-usd"]
    lineage = (await house.record(headers["x-request-id"]))["lineage"]
    assert (lineage["deployment"], lineage["shadow"]) == ("m", added)
    (copied,) = house.candidate.bodies
    assert copied == house.model.bodies[-1]
    (model,) = (await house.good("GET", "/v1/admin/models"))["data"]
    (shadow,) = (d for d in model["deployments"] if d["role"] == "shadow")
    assert shadow["outstanding"] == 1  # it is still at it


async def test_what_a_shadow_would_have_said_is_compared_by_pairs(house: House) -> None:
    await house.add("shadow")
    await house.shares(
        shadow_share=1.0,
        candidate_price={"prompt_usd_per_mtok": 1.0, "completion_usd_per_mtok": 2.0},
    )
    house.candidate.text = "The old reply was given, at length."
    for number in range(6):
        await house.say(f"Question {number}")
    async with house.sdk() as client:
        for number in range(6):
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": str(number)}], stream=True
            )
            assert [c async for c in stream]
    found = await house.report(12)
    stable, shadow = found["sides"]
    assert (stable["role"], stable["answered"], shadow["role"]) == ("stable", 12, "shadow")
    assert stable["completion_tokens"]["mean"] == 3 and shadow["completion_tokens"]["mean"] == 7
    assert shadow["cost_usd"]["p50"] == pytest.approx((7 * 1.0 + 7 * 2.0) / 1e6)
    assert shadow["first_ms"] is not None and shadow["latency_ms"]["p50"] > 0
    pairs = found["pairs"]
    assert (pairs["count"], pairs["equal"]) == (12, 0.0)
    # "The old answer ." and "The old reply was given , at length ." have three of 13 in common
    assert pairs["token_f1"]["mean"] == pytest.approx(2 * 3 / 13)
    assert pairs["same_beginning"]["mean"] == pytest.approx(2 / 9)
    assert 0.2 < pairs["cosine"]["p50"] < 0.99
    differences = {d["measure"]: d for d in found["differences"]}
    longer = differences["completion_tokens"]
    assert (longer["stable"], longer["candidate"], longer["low"], longer["high"]) == (3, 7, 4, 4)
    assert longer["paired"] and longer["significant"]
    assert differences["first_ms"]["low"] is None  # six streams are too few to tell


async def test_answers_and_responses_are_copied_too_and_equal_ones_are_told(house: House) -> None:
    await house.add("shadow")
    await house.shares(shadow_share=1.0)
    house.candidate.text = house.model.text
    async with house.sdk() as client:
        made = await client.responses.create(model="m", input="Hello")
        await client.completions.create(model="m", prompt="Hello")
    assert made.output_text == "The old answer."
    found = await house.report(2)
    assert (found["pairs"]["count"], found["pairs"]["equal"]) == (2, 1.0)
    assert found["pairs"]["cosine"]["mean"] == 1.0


async def test_a_copy_ends_with_its_caller(house: House) -> None:
    await house.add("shadow")
    await house.shares(shadow_share=1.0)
    house.model.wait_s = house.candidate.wait_s = 30.0
    house.candidate.left.clear()
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                house.gateway.url + CHAT,
                json=chat("Hello", model="m"),
                headers={"authorization": f"Bearer {house.gateway.key}"},
                timeout=1.0,
            )
    async with asyncio.timeout(5):
        await house.candidate.left.wait()


async def test_more_copies_than_a_shadow_takes_are_left_out_and_counted(house: House) -> None:
    await house.add("shadow", max_concurrent=1)
    await house.shares(shadow_share=1.0)
    house.candidate.wait_s = 3.0  # all four are there by then
    assert await asyncio.gather(*(house.say(f"{n}") for n in range(4))) == 4 * ["The old answer."]
    found = await house.report(1)
    (shadow,) = (s for s in found["sides"] if s["role"] == "shadow")
    assert shadow["skipped"] == 3
    assert len(house.candidate.bodies) == 1


async def test_the_report_of_a_canary_tells_what_chance_does_not_explain(house: House) -> None:
    await house.add("canary")
    await house.shares(canary_share=0.5)
    house.candidate.says("The new answer is a longer one.")
    for number in range(60):
        await house.say(f"Question {number}")
    found = await house.report(12)
    assert [side["role"] for side in found["sides"]] == ["stable", "canary"]
    assert sum(side["answered"] for side in found["sides"]) == 60
    differences = {d["measure"]: d for d in found["differences"]}
    longer = differences["completion_tokens"]
    assert not longer["paired"] and longer["candidate"] - longer["stable"] == 4
    assert longer["significant"]
    assert (differences["failed"]["low"], differences["failed"]["high"]) == (0, 0)
    assert not differences["failed"]["significant"]
    assert found["pairs"] is None


async def test_a_promotion_and_its_rollback_are_one_call_each_and_outlive_a_kill(
    house: House,
) -> None:
    added = await house.add("canary")
    await house.shares(canary_share=0.1)
    made = await house.good("POST", PROMOTE, OF_M)
    assert (made["rollout"]["canary_share"], made["rollout"]["promoted"]) == (0.0, True)
    await asyncio.to_thread(house.gateway.kill)
    await asyncio.to_thread(house.gateway.start)
    assert await house.roles() == {"m": ("stable", "draining"), added: ("stable", "ready")}
    assert {await house.say(f"{n}") for n in range(5)} == {"The new answer."}
    back = await house.good("POST", ROLL_BACK, OF_M)
    assert back["rollout"]["promoted"] is False
    await asyncio.to_thread(house.gateway.kill)
    await asyncio.to_thread(house.gateway.start)
    assert await house.roles() == {"m": ("stable", "ready"), added: ("canary", "ready")}
    assert {await house.say(f"{n}") for n in range(5)} == {"The old answer."}
    records = (await house.good("GET", "/v1/audit?limit=20"))["data"]
    routes = [r["route"] for r in records]
    assert any("promotions" in r for r in routes) and any("rollbacks" in r for r in routes)


async def test_a_rollback_ends_what_is_under_way_first(house: House) -> None:
    await house.add("canary")
    await house.shares(canary_share=1.0, shadow_share=0.5)
    ended = await house.good("POST", ROLL_BACK, OF_M)
    assert (ended["rollout"]["canary_share"], ended["rollout"]["shadow_share"]) == (0.0, 0.0)
    assert await house.say() == "The old answer."
    status, body, _ = await house.send("POST", ROLL_BACK, OF_M)
    assert (status, body["error"]["code"]) == (409, "conflict")


async def test_a_canarys_replies_are_cached_apart(house: House) -> None:
    await house.add("canary")
    await house.good("PUT", MODEL, {"cache": {"ttl_s": 60.0}})
    assert await house.say() == "The old answer."
    await house.shares(canary_share=1.0)
    assert await house.say() == "The new answer."
    assert await house.say() == "The new answer."
    assert len(house.candidate.bodies) == 1
    await house.shares(canary_share=0.0)
    assert await house.say() == "The old answer."
    assert len(house.model.bodies) == 1


async def test_what_cannot_be_is_refused_with_what_to_do(house: House) -> None:
    async def error(wanted: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return refused(await house.send(method, path, body), wanted)

    for path in (PROMOTE, ROLL_BACK):
        await error(409, "POST", path, OF_M)
    first = {"model": "new", "url": house.candidate.url, "role": "canary"}
    told = await error(400, "POST", SERVERS, first)
    assert told["param"] == "role" and "stable" in told["message"]
    for wrong in (
        {"canary_share": 1.5},
        {"shadow_share": -0.1},
        {"share": 1},
        {"canary_share": "1"},
    ):
        told = await error(400, "PUT", MODEL, {"rollout": wrong})
        assert next(iter(wrong)) in told["message"]
    for path in (PROMOTE, ROLL_BACK):
        told = await error(404, "POST", path, {"model": "none"})
        assert told["code"] == "model_not_found"
    assert (await error(404, "GET", COMPARISON + "x"))["code"] == "model_not_found"
    told = await error(409, "POST", f"{SERVERS}/m", {"role": "shadow"})
    assert "no stable server" in told["message"]
    canary, shadow = await house.add("canary"), await house.add("shadow")
    assert (await error(400, "POST", PROMOTE, OF_M))["param"] == "role"
    await error(409, "POST", f"{SERVERS}/m", {"role": "canary"})
    made = await house.good("POST", PROMOTE, {**OF_M, "role": "shadow"})
    assert {d["id"]: d["role"] for d in made["deployments"]} == {
        "m": "stable",
        canary: "canary",
        shadow: "stable",
    }


async def test_only_the_platforms_administrators_may(house: House) -> None:
    key = await asyncio.to_thread(new_key, house.gateway, scopes=["admin", "chat:write"])
    for method, path in (("GET", COMPARISON), ("POST", PROMOTE), ("POST", ROLL_BACK)):
        body = OF_M if method == "POST" else None
        refused(await house.send(method, path, body, authorization=f"Bearer {key['key']}"), 403)
