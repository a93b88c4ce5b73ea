"""Kept replies from outside: given again to the same question, and to no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.api.calls import chat, new_key, refused
from tests.api.scripted_house import ScriptedHouse, scripted_gateway

CHAT = "/v1/chat/completions"
MODEL = "/v1/admin/models/m"


class House(ScriptedHouse):
    """The gateway has an embedder, and keeps the model's replies."""

    async def cached(self, **cache: Any) -> dict[str, Any]:
        return dict((await self.good("PUT", MODEL, {"cache": cache}))["cache"])

    async def ask(
        self, question: str, fields: dict[str, Any] | None = None, **headers: str
    ) -> tuple[str, str | None, float]:
        """What was said, what the cache did, and what it cost."""
        body = chat(question, model="m", **(fields or {}))
        status, reply, told = await self.send("POST", CHAT, body, **headers)
        assert status == 200, reply
        said = str(reply["choices"][0]["message"]["content"])
        return said, told.get("x-ostiary-cache"), float(told["x-ostiary-cost-usd"])

    def sdk(self, key: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=self.gateway.url + "/v1", api_key=key or self.gateway.key, max_retries=0
        )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    data = tmp_path_factory.mktemp("caching") / "data"
    async with scripted_gateway(data) as (gateway, model):
        yield House(gateway, model)


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> House:
    running.model.says("First answer.")
    await running.cached()  # which empties it
    return running


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_without_a_policy_nothing_is_kept(house: House) -> None:
    await house.send("PUT", MODEL, {"cache": None})
    for _ in range(2):
        said, cache, cost = await house.ask("Hello?")
        assert (said, cache) == ("First answer.", None) and cost > 0
    assert len(house.model.bodies) == 2


async def test_the_same_request_is_answered_again_and_costs_nothing(house: House) -> None:
    assert await house.ask("Hello?", x_request_id="cache-1") == (
        "First answer.",
        "miss",
        pytest.approx((7 * 0.05 + 2 * 0.2) / 1e6),
    )
    house.model.text = "Second answer."
    said, cache, cost = await house.ask("Hello?", x_request_id="cache-2")
    assert (said, cache, cost) == ("First answer.", "hit", 0.0)
    assert len(house.model.bodies) == 1
    assert (await house.ask("Hello?", {"temperature": 0.5}))[1] == "miss"
    assert (await house.ask("Hello", {}))[1] == "miss"
    record = await house.record("cache-2")
    assert record["lineage"]["cache"] == "hit" and record["completion_tokens"] == 0
    assert record["status"] == 200


async def test_a_stream_is_given_again_as_it_was(house: House) -> None:
    house.model.says("Word by word it is said.")

    async def stream() -> tuple[list[Any], Any]:
        chunks = [
            chunk
            async for chunk in await house.sdk().chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "Say it."}],
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        usage = chunks.pop().usage
        return [c.model_dump() for c in chunks], usage

    first, usage = await stream()
    house.model.text = "Something else."
    again, used = await stream()
    assert again == first and len(house.model.bodies) == 1
    assert used.completion_tokens == usage.completion_tokens == 6
    assert used.cost_usd == 0 and usage.cost_usd > 0
    whole, cache, _ = await house.ask("Say it.")
    assert (whole, cache) == ("Something else.", "miss")  # kept apart


async def test_a_stream_that_broke_off_is_not_kept(house: House) -> None:
    house.model.says("This will be cut in the middle.")
    house.model.cut_after = 3
    body = chat("Cut?", model="m", stream=True)
    for _ in range(2):
        async with house.sdk() as sdk:
            with pytest.raises(openai.APIError):
                async for _chunk in await sdk.chat.completions.create(**body):
                    pass
    assert len(house.model.bodies) == 2


async def test_another_tenant_has_another_cache(house: House) -> None:
    assert (await house.ask("Whose?"))[1] == "miss"
    _, tenant, _ = await house.send("POST", "/v1/admin/tenants", {"name": "other tenant"})
    made = await asyncio.to_thread(
        new_key, house.gateway, scopes=["chat:write"], tenant_id=tenant["id"]
    )
    theirs = {"authorization": f"Bearer {made['key']}"}
    assert (await house.ask("Whose?", **theirs))[1] == "miss"
    assert (await house.ask("Whose?", **theirs))[1] == "hit"
    own = await asyncio.to_thread(new_key, house.gateway, scopes=["chat:write"])
    assert (await house.ask("Whose?", authorization=f"Bearer {own['key']}"))[1] == "hit"


async def test_a_caller_may_want_a_new_answer_or_leave_none(house: House) -> None:
    await house.ask("New?")
    house.model.text = "Newer answer."
    assert (await house.ask("New?", cache_control="no-store"))[:2] == ("Newer answer.", None)
    assert (await house.ask("New?"))[:2] == ("First answer.", "hit")
    assert (await house.ask("New?", cache_control="no-cache"))[:2] == ("Newer answer.", "miss")
    assert (await house.ask("New?"))[:2] == ("Newer answer.", "hit")


async def test_what_was_masked_on_the_way_in_and_out_is_kept_masked(house: House) -> None:
    house.model.text = "Write to jane.roe@example.com."
    said, _, _ = await house.ask("What is the address of john.doe@example.com?")
    assert "jane.roe" not in said
    assert "john.doe" not in str(house.model.bodies)
    again, cache, _ = await house.ask("What is the address of john.doe@example.com?")
    assert (again, cache) == (said, "hit")


async def test_the_same_question_in_other_words_is_answered_from_the_semantic_cache(
    house: House,
) -> None:
    told = await house.cached(ttl_s=600.0, semantic_threshold=0.9)
    assert told["check"]["paraphrases"] == told["check"]["near_misses"] == 60
    assert 0 < told["check"]["wrong"] < 10 < told["check"]["found"]
    question = "How do I reset my VPN password?"
    assert (await house.ask(question))[1] == "miss"
    house.model.text = "Second answer."
    said, cache, cost = await house.ask(
        "How can I reset the password of my VPN?", x_request_id="semantic"
    )
    assert (said, cache, cost) == ("First answer.", "semantic", 0.0)
    assert (await house.record("semantic"))["lineage"]["cache_cosine"] >= 0.9
    for other in (
        "How do I reset my SAP password?",  # a name
        "How do I not reset my VPN password?",  # a denial
        "What shall we eat tonight?",
    ):
        assert (await house.ask(other))[1] == "miss"
    context = {"messages": [{"role": "system", "content": "You are a pirate."}]}
    context["messages"] += [{"role": "user", "content": question}]
    assert (await house.ask("", context))[1] == "miss"  # the rest must be the same
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert (await house.ask("How could I reset my VPN password?", {"tools": [tool]}))[1] == "miss"


async def test_the_policy_survives_kill_9_and_a_new_server_empties_the_cache(
    house: House,
) -> None:
    await asyncio.to_thread(house.gateway.kill)
    await asyncio.to_thread(house.gateway.start)
    assert (await house.ask("Still?"))[1] == "miss"
    assert (await house.ask("Still?"))[1] == "hit"
    status, made, _ = await house.send(
        "POST", "/v1/admin/deployments", {"model": "m", "url": house.model.url}
    )
    assert status == 201
    assert (await house.ask("Still?"))[1] == "miss"
    await house.send("DELETE", f"/v1/admin/deployments/{made['id']}")
    assert (await house.ask("Still?"))[1] == "hit"
    await house.cached()
    assert (await house.ask("Still?"))[1] == "miss"


async def test_a_policy_that_cannot_be_is_refused(house: House) -> None:
    for wrong in (
        {"ttl_s": 0.0},
        {"ttl_s": -1.0},
        {"semantic_threshold": 1.5},
        {"semantic_threshold": "0.9"},
        {"other": 1},
        [],
    ):
        refused(await house.send("PUT", MODEL, {"cache": wrong}))
    refused(await house.send("PUT", f"{MODEL}x", {"cache": {}}), 404)
