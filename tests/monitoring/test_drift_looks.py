"""Metrics and alerts share a look at a tenant's drift, as long as it is young enough for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from app.monitoring.drift_looks import DriftLooks
from app.store.db import Database
from app.store.migrate import migrate
from tests.monitoring.test_drift import PLACE, House

Counted = Callable[[], int]


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db)
    made = House(db)
    made.feed(400)
    await made.pass_on()
    made.feed(400, 1.0, declined=0.12)
    await made.two.flush()
    made.now += 120
    yield made
    await db.close()


@pytest.fixture
def looked(house: House, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How often the sketches of a tenant were read to be judged."""
    plain, times = house.one.pairs, []

    async def pairs(tenant_id: str, hours: int = 1) -> object:
        times.append(tenant_id)
        return await plain(tenant_id, hours)

    monkeypatch.setattr(house.one, "pairs", pairs)
    return lambda: len(times)


async def test_who_asks_within_its_age_shares_a_look_and_who_wants_a_younger_one_does_not(
    house: House, looked: Counted
) -> None:
    looks = DriftLooks(house.one, lambda: house.now)
    for_alerts = await looks.of("t", 30)
    assert (await looks.of_all(150))["drifted"] == len(for_alerts.drifted) > 0
    house.now += 30
    assert await looks.of("t", 30) is for_alerts
    assert looked() == 1
    house.now += 1
    again = await looks.of("t", 30)
    assert again.at == house.now and looked() == 2
    assert await looks.of("t", 150) is again


async def test_who_asks_while_a_look_is_under_way_waits_for_it(
    house: House, looked: Counted
) -> None:
    looks = DriftLooks(house.one, lambda: house.now)
    found = await asyncio.gather(*(looks.of("t", 0) for _ in range(5)), looks.of_all(0))
    assert looked() == 1
    assert all(look is found[0] for look in found[:5])
    assert found[5] == {"stable": 1, "drifted": 5, "unjudged": 0}


async def test_a_look_that_is_given_up_or_fails_is_made_by_who_waits(
    house: House, looked: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = DriftLooks(house.one, lambda: house.now)
    first, second = (asyncio.create_task(looks.of("t", 0)) for _ in range(2))
    async with asyncio.timeout(10):
        while not looked():
            await asyncio.sleep(0)  # lets the look begin
    first.cancel()
    assert (await second).counts["drifted"] == 5 and looked() == 2
    house.now += 1

    async def broken(tenant_id: str, hours: int = 1) -> None:
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(house.one, "pairs", broken)
        with pytest.raises(OSError, match="no answer"):
            await looks.of("t", 0)
    assert (await looks.of("t", 0)).at == house.now


async def test_a_look_tests_embeddings_every_five_minutes_and_for_all_gateways(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.monitoring import drift

    plain, tested = drift.compare_embeddings, []

    def compare(*given: object) -> object:
        tested.append(given)
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(drift, "compare_embeddings", compare)
    one, two = (DriftLooks(each, lambda: house.now) for each in (house.one, house.two))
    name = f"{PLACE}embedding"
    assert name in dict((await one.of("t", 0)).drifted)
    assert name in dict((await two.of("t", 0)).drifted)
    house.now += 200
    await one.of("t", 0)
    assert len(tested) == 1
    house.now += 100
    await two.of("t", 0)
    assert len(tested) == 2
    assert (await one.of_all(0))["drifted"] == 5 and len(tested) == 2


async def test_tenants_without_calls_of_a_day_are_forgotten(house: House) -> None:
    looks = DriftLooks(house.one, lambda: house.now)
    assert (await looks.of_all(0))["drifted"] == 5
    house.now += 86_400 * 2
    assert await looks.of_all(1e9) == {"stable": 0, "drifted": 0, "unjudged": 0}
