"""Where kept replies lie, in process and in Redis: one behaviour."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

from app.llm.cache_store import MOST_QUESTIONS, Asked, CacheStore, MemoryCache, RedisCache


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[CacheStore]:
    made: CacheStore = MemoryCache(1_000_000, clock)
    if request.param == "redis":
        import redis

        url = request.getfixturevalue("redis_url")
        redis.Redis.from_url(url).flushall()
        made = RedisCache(url, clock)
    yield made
    await made.close()


def asked(text: str, until: float) -> Asked:
    return Asked(np.arange(4, dtype=np.float32), text, f"key of {text}", until)


async def test_a_reply_is_there_until_its_time_is_over(store: CacheStore, clock: Clock) -> None:
    assert await store.get("a") is None
    await store.put("a", b"\x00one", 0.05)
    await store.put("b", b"two", 60)
    assert await store.get("a") == b"\x00one"
    time.sleep(0.08)  # Redis has its own clock
    clock.now += 1
    assert await store.get("a") is None
    assert await store.get("b") == b"two"


async def test_questions_of_a_kind_are_found_newest_last(store: CacheStore, clock: Clock) -> None:
    for name in ("one", "two"):
        await store.note("k", asked(name, clock.now + 60))
    await store.note("k", asked("over", clock.now - 1))
    await store.note("other", asked("three", clock.now + 60))
    found = await store.asked("k")
    assert [q.text for q in found] == ["one", "two"]
    assert found[0].key == "key of one" and found[0].vector.tolist() == [0, 1, 2, 3]
    await store.note("k", asked("four", clock.now + 60))
    assert [q.text for q in await store.asked("k")] == ["one", "two", "four"]
    assert await store.asked("nothing") == []


async def test_the_oldest_question_gives_way(store: CacheStore, clock: Clock) -> None:
    for number in range(MOST_QUESTIONS + 3):
        await store.note("k", asked(str(number), clock.now + 60))
    found = await store.asked("k")
    assert len(found) == MOST_QUESTIONS and found[-1].text == str(MOST_QUESTIONS + 2)


async def test_what_one_gateway_kept_another_finds(redis_url: str, clock: Clock) -> None:
    one, two = RedisCache(redis_url, clock), RedisCache(redis_url, clock)
    await one.put("shared", b"reply", 60)
    assert await two.get("shared") == b"reply"
    await one.note("shared", asked("first", clock.now + 60))
    assert [q.text for q in await two.asked("shared")] == ["first"]
    await two.note("shared", asked("second", clock.now + 60))
    assert [q.text for q in await one.asked("shared")] == ["first", "second"]
    await one.close()
    await two.close()


async def test_memory_is_bounded_and_what_was_used_last_stays(clock: Clock) -> None:
    store = MemoryCache(10_000, clock)
    for number in range(20):
        await store.put(str(number), bytes(1000), 60)
        await store.get("0")
    assert store.size <= 10_000
    assert await store.get("0") is not None and await store.get("19") is not None
    assert await store.get("5") is None
    await store.put("large", bytes(5000), 60)
    assert await store.get("large") is None  # it would push out half of the others
    for number in range(200):
        await store.note("k", asked(str(number), clock.now + 60))
    assert store.size <= 10_000


async def test_everything_can_be_forgotten_at_once(store: CacheStore) -> None:
    await store.put("a", b"one", 60)
    await store.note("kind", asked("Who?", time.time() + 60))
    assert len(await store.names()) == 2
    await store.clear()
    assert await store.names() == set()
    assert await store.get("a") is None and await store.asked("kind") == []
    await store.put("a", b"again", 60)
    assert len(await store.names()) == 1
