"""What is kept is given to the same request alone, never across tenants, policies or models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.gateway.call import Call, Principal
from app.llm.cache import CachePolicy, ReplyCache, Slot
from app.llm.cache_store import MemoryCache

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "temperature": 0.0,
}


def a_call(tenant: str = "t1", policy: str = "default@1") -> Call:
    who = Principal(tenant, "key:k", "k", frozenset({"*"}))
    call = Call("call_1", "r", "rest", "POST /v1/chat/completions", who, model="m")
    call.versions["policy"] = policy
    call.lineage["deployment"] = "one"
    return call


class Caches:
    """A cache whose surroundings a test changes."""

    def __init__(self) -> None:
        self.servers = {"m": ["one"], "other": ["one"]}
        self.cache = ReplyCache(
            MemoryCache(1_000_000), lambda call, body: self.servers[body["model"]], lambda: None
        )
        for model in self.servers:
            self.cache.set(model, CachePolicy(60.0, None, 1.0))

    async def look(
        self, call: Call | None = None, path: str = "chat/completions", **changes: Any
    ) -> Slot:
        found = await self.cache.look(call or a_call(), {**BODY, **changes}, path)
        assert found is not None
        return found

    async def keep(self) -> None:
        await self.cache.keep(a_call(), await self.look(), b'{"kept": 1}')


async def test_the_same_request_is_answered_again_whoever_of_the_tenant_asks() -> None:
    caches = Caches()
    await caches.keep()
    call = a_call()
    slot = await caches.look(call, user="somebody", metadata={"a": "b"}, stream_options=None)
    assert slot.found == b'{"kept": 1}'
    assert (call.cache, call.lineage["cache"]) == ("hit", "hit")


async def test_everything_else_is_another_request() -> None:
    caches = Caches()
    await caches.keep()
    others = [
        await caches.look(a_call(tenant="t2")),
        await caches.look(a_call(policy="default@2")),
        await caches.look(path="completions"),
        await caches.look(model="other"),
        await caches.look(stream=True),
        await caches.look(temperature=0.1),
        await caches.look(seed=1),
        await caches.look(messages=BODY["messages"][1:]),
        await caches.look(messages=[*BODY["messages"], {"role": "user", "content": "x"}]),
    ]
    assert [s.found for s in others] == [None] * len(others)
    caches.servers["m"] = ["one", "two"]  # a server that may hold other weights
    assert (await caches.look()).found is None
    caches.servers["m"] = ["one"]
    assert (await caches.look()).found is not None
    caches.cache.set("m", CachePolicy(60.0, None, 2.0))  # set again: emptied
    assert (await caches.look()).found is None


async def test_what_another_model_answered_is_not_kept() -> None:
    caches = Caches()
    call = a_call()
    slot = await caches.look(call)
    call.degraded = "fallback-model=other"
    await caches.cache.keep(call, slot, b"{}")
    assert (await caches.look()).found is None


async def test_a_caller_may_ask_for_a_new_answer() -> None:
    caches = Caches()
    await caches.keep()
    fresh = a_call()
    fresh.cache_control = "no-cache"
    slot = await caches.look(fresh)
    assert slot.found is None and fresh.cache == "miss"
    await caches.cache.keep(fresh, slot, b"newer")
    assert (await caches.look()).found == b"newer"
    silent = a_call()
    silent.cache_control = "no-store"
    assert await caches.cache.look(silent, BODY, "chat/completions") is None
    assert silent.cache is None


async def test_a_cache_that_fails_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = Caches()

    async def broken(*_: Any) -> Any:
        raise ConnectionError("gone")

    monkeypatch.setattr(MemoryCache, "get", broken)
    monkeypatch.setattr(MemoryCache, "put", broken)
    call = a_call()
    slot = await caches.look(call)
    assert slot.found is None and call.cache == "miss"
    await caches.cache.keep(call, slot, b"x")


_bodies = st.dictionaries(
    st.sampled_from(["temperature", "seed", "stop", "max_tokens", "tools", "user"]),
    st.one_of(st.integers(0, 2), st.sampled_from(["a", "b"]), st.none()),
)


@settings(max_examples=100, deadline=None)
@given(one=_bodies, two=_bodies)
async def test_two_requests_share_a_place_only_if_they_are_one(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    caches = Caches()
    first, second = await caches.look(**one), await caches.look(**two)
    one.pop("user", None)
    two.pop("user", None)
    # 0 and 0.0 are equal, but not the same bytes to a model server
    same = sorted(map(repr, {**BODY, **one}.items())) == sorted(map(repr, {**BODY, **two}.items()))
    assert (first.key == second.key) == same
