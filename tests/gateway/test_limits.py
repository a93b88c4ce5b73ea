"""Rates and budgets: counted per minute and day, in process and in a real Redis."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert

from app.errors import BudgetExceeded, RateLimited, Unavailable
from app.gateway.call import Call
from app.gateway.limits import Counters, Limits, MemoryCounters, RedisCounters, spent_since
from app.gateway.streams import LEASE_S, MemoryStreams, RedisStreams, Streams
from app.store.db import Database
from app.store.models import audit
from tests.conftest import free_port
from tests.gateway.conftest import made_call

NOON = 1_800_000_000 // 86_400 * 86_400 + 12 * 3600.0  # Unix seconds


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest, clock: Clock) -> Counters:
    if request.param == "memory":
        return MemoryCounters(clock)
    import redis

    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushall()
    return RedisCounters(url, clock)


async def no_budget(_: str) -> float | None:
    return None


async def nothing_spent(
    _tenant: str, _key: str | None, _since: float, after_seq: int
) -> tuple[int, int]:
    return 0, after_seq


def limits(counters: Counters, clock: Clock, **changes: Any) -> Limits:
    return Limits(
        counters,
        **{
            "rpm": 3,
            "tpm": 1000,
            "tenant_rpm": 5,
            "max_streams": 2,
            "streams": MemoryStreams(),
            "budget_usd_per_day": None,
            "spent": nothing_spent,
            "budget_of": no_budget,
            "clock": clock,
            **changes,
        },
    )


def told(checks: Limits, call: Call) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in checks.headers(call)}


async def test_the_requests_of_a_key_end_with_its_minute(counters: Counters, clock: Clock) -> None:
    checks = limits(counters, clock)
    clock.now = NOON + 18
    for left in (2, 1, 0):
        call = made_call()
        await checks.admit(call)
        headers = told(checks, call)
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == str(left)
        assert headers["x-ratelimit-reset-requests"] == "42s"
    refused = made_call()
    with pytest.raises(RateLimited) as caught:
        await checks.admit(refused)
    assert caught.value.headers["retry-after"] == "42"
    assert told(checks, refused)["x-ratelimit-remaining-requests"] == "0"
    await checks.admit(made_call(key_id="another"))
    clock.now = NOON + 60
    await checks.admit(made_call())


async def test_a_key_may_have_limits_of_its_own(counters: Counters, clock: Clock) -> None:
    checks = limits(counters, clock)
    call = made_call()
    call.principal = replace(call.principal, rate_rpm=1, rate_tpm=50)
    await checks.admit(call)
    assert told(checks, call)["x-ratelimit-limit-tokens"] == "50"
    with pytest.raises(RateLimited):
        await checks.admit(call)


async def test_a_tenants_requests_are_counted_over_its_keys(
    counters: Counters, clock: Clock
) -> None:
    checks = limits(counters, clock)
    for n in range(5):
        await checks.admit(made_call(key_id=f"k{n}"))
    with pytest.raises(RateLimited, match="tenant"):
        await checks.admit(made_call(key_id="k5"))
    await checks.admit(made_call(tenant="t2", key_id="k6"))


async def test_spent_tokens_refuse_the_next_call(counters: Counters, clock: Clock) -> None:
    checks = limits(counters, clock)
    call = made_call()
    await checks.admit(call)
    assert told(checks, call)["x-ratelimit-remaining-tokens"] == "1000"
    call.usage.prompt_tokens, call.usage.completion_tokens = 900, 200
    await checks.charge(call)
    assert told(checks, call)["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(RateLimited, match="tokens"):
        await checks.admit(made_call())
    clock.now += 60
    await checks.admit(made_call())


async def test_without_redis_calls_are_refused_but_served_ones_are_not_lost(clock: Clock) -> None:
    checks = limits(RedisCounters(f"redis://127.0.0.1:{free_port()}", clock), clock)
    call = made_call()
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await checks.admit(call)
    assert caught.value.code == "limits_unavailable"
    assert time.monotonic() - started < 3
    call.usage.prompt_tokens = 5
    await checks.charge(call)
    assert checks.headers(call) == []


async def spend(
    db: Database, seq: int, at: float, nano: int, tenant: str = "t1", key: str | None = None
) -> None:
    async with db.write() as connection:
        await connection.execute(
            insert(audit).values(
                tenant_id=tenant,
                seq=seq,
                call_id=f"{tenant}-{seq}",
                request_id="r",
                key_id=key,
                at=at,
                route="x",
                status=200,
                prompt_tokens=0,
                completion_tokens=0,
                embedding_tokens=0,
                cost_nano_usd=nano,
                record="{}",
                prev_hash="",
                hash="",
            )
        )


async def test_a_spent_budget_refuses_until_midnight(db: Database, clock: Clock) -> None:
    checks = limits(
        MemoryCounters(clock), clock, rpm=99, budget_usd_per_day=1.0, spent=spent_since(db)
    )
    call = made_call()
    await checks.admit(call)
    call.cost_nano_usd = 999_999_999
    await checks.charge(call)
    await checks.admit(made_call())
    call.cost_nano_usd = 1
    await checks.charge(call)
    with pytest.raises(BudgetExceeded) as caught:
        await checks.admit(made_call())
    assert caught.value.status == 402
    await checks.admit(made_call(tenant="t2"))
    clock.now += 12 * 3600
    await checks.admit(made_call())


async def test_what_was_spent_before_a_restart_counts_today_only(
    db: Database, clock: Clock
) -> None:
    await spend(db, 1, NOON - 13 * 3600, 5_000_000_000)  # yesterday
    await spend(db, 2, NOON - 100, 400_000_000)
    await spend(db, 1, NOON - 100, 9_000_000_000, tenant="t2")
    read = spent_since(db)
    midnight = NOON - 12 * 3600
    assert await read("t1", None, midnight, 0) == (400_000_000, 2)
    assert await read("t1", None, midnight, 2) == (0, 2)
    await spend(db, 3, NOON - 50, 700_000_000)
    assert await read("t1", None, midnight, 2) == (700_000_000, 3)
    checks = limits(MemoryCounters(clock), clock, budget_usd_per_day=1.0, spent=read)
    with pytest.raises(BudgetExceeded):
        await checks.check_budget(made_call().principal)
    higher = limits(MemoryCounters(clock), clock, budget_usd_per_day=1.2, spent=read)
    await higher.check_budget(made_call().principal)


async def test_what_another_gateway_spent_is_seen_at_the_next_reading(
    db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = limits(MemoryCounters(clock), clock, budget_usd_per_day=1.0, spent=spent_since(db))
    who = made_call().principal
    await spend(db, 1, NOON, 600_000_000)
    await checks.check_budget(who)
    await spend(db, 2, NOON, 600_000_000)
    await checks.check_budget(who)
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(BudgetExceeded):
        await checks.check_budget(who)


async def test_a_tenants_own_budget_wins_and_is_read_once_for_many_calls(clock: Clock) -> None:
    reads: list[str] = []

    async def zero(tenant: str) -> float | None:
        reads.append(tenant)
        await asyncio.sleep(0)
        return 0.0 if tenant == "poor" else None

    checks = limits(MemoryCounters(clock), clock, budget_of=zero, budget_usd_per_day=5.0)
    await asyncio.gather(*(checks.check_budget(made_call().principal) for _ in range(50)))
    assert reads == ["t1"]
    with pytest.raises(BudgetExceeded):
        await checks.check_budget(made_call(tenant="poor").principal)


async def test_counting_in_process_is_cheap_with_many_keys() -> None:
    checks = limits(
        MemoryCounters(),
        time.time,
        rpm=10**9,
        tpm=10**12,
        tenant_rpm=10**9,  # type: ignore[arg-type]
    )
    calls = [made_call(key_id=f"k{n}") for n in range(1000)]
    for call in calls:
        call.usage.prompt_tokens = 3

    async def once(call: Call) -> None:
        await checks.admit(call)
        await checks.charge(call)
        checks.headers(call)

    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for call in calls:
            await once(call)
        best = min(best, (time.perf_counter() - started) / len(calls))
    print(f"admit + charge + headers: {best * 1e6:.1f} us")
    assert best < 4e-4  # ten times what it takes alone: no walk through all keys


async def test_a_keys_own_budget_holds_beside_its_tenants(db: Database, clock: Clock) -> None:
    await spend(db, 1, NOON - 100, 300_000_000, key="k1")
    await spend(db, 2, NOON - 100, 900_000_000, key="k2")
    checks = limits(
        MemoryCounters(clock), clock, rpm=99, budget_usd_per_day=5.0, spent=spent_since(db)
    )
    call = made_call()
    call.principal = replace(call.principal, budget_usd_per_day=0.5)
    await checks.admit(call)
    call.cost_nano_usd = 200_000_000
    await checks.charge(call)
    with pytest.raises(BudgetExceeded, match="of this key"):
        await checks.admit(call)
    await checks.admit(made_call(key_id="k2"))
    again = limits(
        MemoryCounters(clock), clock, budget_usd_per_day=1.4, spent=spent_since(db)
    )  # a restart: the last charge is not in the log of this test
    await again.check_budget(replace(call.principal, budget_usd_per_day=0.31))
    with pytest.raises(BudgetExceeded, match="of this key"):
        await again.check_budget(replace(call.principal, key_id="k2", budget_usd_per_day=0.9))
    tenants = limits(MemoryCounters(clock), clock, budget_usd_per_day=1.2, spent=spent_since(db))
    with pytest.raises(BudgetExceeded, match="of the platform"):
        await tenants.check_budget(replace(call.principal, budget_usd_per_day=9.0))


@pytest.fixture(params=["memory", "redis"])
def streams(request: pytest.FixtureRequest) -> Streams:
    if request.param == "memory":
        return MemoryStreams()
    import redis

    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushall()
    return RedisStreams(url)


async def test_a_key_has_so_many_streams_open_and_no_more(streams: Streams, clock: Clock) -> None:
    checks = limits(MemoryCounters(clock), clock, streams=streams)
    calls = [made_call(number) for number in range(20)]
    for call in calls:
        call.stream_limit = checks.begin_stream
    found = await asyncio.gather(*(c.begin_stream() for c in calls), return_exceptions=True)
    assert sum(isinstance(f, RateLimited) for f in found) == 18
    assert next(f for f in found if isinstance(f, RateLimited)).code == "too_many_streams"
    other = made_call(30, key_id="k2")
    other.stream_limit = checks.begin_stream
    await other.begin_stream()
    opened = [c for c in calls if c.streams]
    await checks.charge(opened[0])
    await checks.charge(opened[0])  # a second time changes nothing
    left = [c for c in calls if not c.streams and c is not opened[0]][:2]
    await left[0].begin_stream()
    with pytest.raises(RateLimited):
        await left[1].begin_stream()
    higher = made_call(40)
    higher.principal = replace(higher.principal, max_streams=3)
    higher.stream_limit = checks.begin_stream
    await higher.begin_stream()


async def test_streams_of_a_gateway_that_died_are_forgotten(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = RedisStreams(redis_url), RedisStreams(redis_url)
    assert await one.begin("dead", "a", 1)  # this gateway is killed
    assert not await two.begin("dead", "b", 1)
    later = time.time() + LEASE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert await two.begin("dead", "b", 1)
    nowhere = RedisStreams(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        await nowhere.begin("n", "a", 1)
    await nowhere.end("n", "a")
