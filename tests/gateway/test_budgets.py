"""Budgets: whose calls they count, when they begin anew, what they tell and what they stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import delete, insert, select

from app.alerting import alert_sources
from app.errors import BudgetExceeded, Conflict, Forbidden, NotFound
from app.gateway.budget import Alert, Budget, period_of
from app.gateway.budgets import Budgets
from app.gateway.call import Call
from app.monitoring.audit import AuditLog
from app.monitoring.drift import DriftMonitor
from app.monitoring.drift_looks import DriftLooks
from app.retrieval.connectors.schedule import Schedule
from app.settings import normal_url
from app.store.db import Database
from app.store.jobs import Jobs
from app.store.models import api_keys, audit, audit_heads, metadata, tenants
from app.store.models_cost import budget_alerts, budgets
from tests.conftest import create_database, drop_database
from tests.gateway.conftest import made_call

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()  # a Wednesday
DAY_S = 86_400
USD = 10**9


class House:
    """A database with its log, and the gateways on it."""

    def __init__(self, db: Database, log: AuditLog) -> None:
        self.db, self.log, self.now, self.calls = db, log, NOON, 0
        self.levels: list[int] = []

    def gateway(self) -> Budgets:
        return Budgets(self.db, count=self.levels.append, clock=lambda: self.now)

    def call(self, usd: float = 0.0, tenant: str = "t1", key: str = "k1", **fields: Any) -> Call:
        self.calls += 1
        made = made_call(self.calls, tenant, key)
        made.started = fields.pop("at", self.now)
        for name, value in fields.items():
            setattr(made, name, value)
        made.cost_nano_usd = round(usd * USD)
        made.costs = {"model": made.cost_nano_usd}
        return made

    async def spend(self, usd: float, on: Budgets | None = None, **fields: Any) -> Call:
        """A call as a gateway settles it; without one, by a gateway that nobody sees."""
        call = self.call(usd, **fields)
        await self.log.commit(call, 200, 0.01, None)
        if on is not None:
            on.charge(call)
        return call

    def budget(self, name: str = "b", usd: float = 1.0, **fields: Any) -> Budget:
        made = Budget(
            id=f"bdg_{name}",
            tenant_id="t1",
            name=name,
            amount_nano_usd=round(usd * USD),
            period="day",
            stop=True,
            key_id=None,
            model=None,
            route=None,
            tags={},
            by_platform=False,
            created_at=self.now,
            updated_at=self.now,
        )
        return replace(made, **fields)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Database, AuditLog]]:
    folder = tmp_path_factory.mktemp("budgets")
    url = normal_url(None, folder / "ostiary.db")
    if request.param == "postgresql":
        made = create_database(request.getfixturevalue("postgres_server"))
        url = normal_url(made, folder)
    db = Database(url)
    await asyncio.to_thread(metadata.create_all, db.sync_engine)
    log = AuditLog(db)
    log.start()
    yield db, log
    log.close()
    await db.close()
    if request.param == "postgresql":
        drop_database(made)


@pytest.fixture
async def house(opened: tuple[Database, AuditLog]) -> House:
    db, log = opened
    async with db.write() as connection:
        for table in (audit, audit_heads, budgets, budget_alerts, api_keys, tenants):
            await connection.execute(delete(table))
    log._heads.clear()
    return House(db, log)


def refused(gateway: Budgets, call: Call) -> bool:
    try:
        gateway.check(call)
    except BudgetExceeded:
        return True
    return False


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("day", "2026-11-25", "2026-11-26"),
        ("week", "2026-11-23", "2026-11-30"),
        ("month", "2026-11-01", "2026-12-01"),
    ],
)
def test_periods_are_of_the_calendar_in_utc(period: Any, start: str, end: str) -> None:
    expected = [int(datetime.fromisoformat(d + "T00:00Z").timestamp()) for d in (start, end)]
    assert list(period_of(period, NOON)) == expected
    assert list(period_of(period, float(expected[0]))) == expected
    assert period_of(period, float(expected[1]))[0] == expected[1]


def test_december_is_followed_by_january_and_february_is_short() -> None:
    for at, end in (("2026-12-31", "2027-01-01"), ("2028-02-29", "2028-03-01")):
        until = period_of("month", datetime.fromisoformat(at + "T23:59Z").timestamp())[1]
        assert datetime.fromtimestamp(until, UTC).date().isoformat() == end


async def test_a_spent_budget_refuses_by_name_until_it_begins_anew(house: House) -> None:
    gateway = house.gateway()
    await gateway.create(house.budget("Apollo", 1.0))
    await house.spend(0.999999999, gateway)
    gateway.check(house.call())
    await house.spend(0.000000001, gateway)
    with pytest.raises(BudgetExceeded) as caught:
        gateway.check(house.call())
    assert "'Apollo' of 1.00 USD a day" in caught.value.message
    assert "2026-11-26T00:00:00Z" in caught.value.message
    assert caught.value.headers["retry-after"] == str(DAY_S // 2)
    assert not refused(gateway, house.call(tenant="t2"))
    house.now += DAY_S / 2  # before any look
    assert not refused(gateway, house.call())
    await gateway.look()
    assert not refused(gateway, house.call())


@pytest.mark.parametrize(
    "scope",
    [
        {"key_id": "k1"},
        {"model": "m"},
        {"route": "POST /v1/embeddings"},
        {"tags": {"project": "apollo"}},
        {"key_id": "k1", "model": "m", "tags": {"project": "apollo", "team": "search"}},
    ],
)
async def test_a_budget_counts_and_stops_the_calls_that_it_names_alone(
    house: House, scope: dict[str, Any]
) -> None:
    inside: dict[str, Any] = {
        "key": "k1",
        "model": "m",
        "route": "POST /v1/embeddings",
        "tags": {"project": "apollo", "team": "search"},
    }
    outside: dict[str, Any] = {
        "key": "k2",
        "model": "n",
        "route": "POST /v1/x",
        "tags": {"project": "gemini"},
    }
    gateway, other = house.gateway(), house.gateway()
    await gateway.create(house.budget(usd=1.0, **scope))
    await house.spend(5.0, gateway, **outside)
    await house.spend(0.6, gateway, **inside)
    await gateway.look()
    assert not refused(gateway, house.call(**inside))
    await house.spend(0.4, gateway, **inside)
    assert refused(gateway, house.call(**inside))
    assert not refused(gateway, house.call(**outside))
    (state,) = await other.states("t1")  # a restart, or another gateway
    assert state.spent_nano_usd == USD
    assert refused(other, house.call(**inside)) and not refused(other, house.call(**outside))


async def test_a_model_is_refused_when_it_is_named_and_not_before(house: House) -> None:
    gateway = house.gateway()
    await gateway.create(house.budget(usd=1.0, model="dear"))
    await house.spend(1.0, gateway, model="dear")
    call = house.call()
    call.budgets = gateway.check
    gateway.check(call)
    call.asks("cheap")
    with pytest.raises(BudgetExceeded):
        call.asks("dear")


async def test_what_other_gateways_spent_is_counted_once(house: House) -> None:
    one, two = house.gateway(), house.gateway()
    await one.create(house.budget(usd=1.0))
    await two.look()
    for _ in range(3):
        await house.spend(0.2, one)
        await house.spend(0.1, two)
        await one.look()
        await two.look()
    for gateway in (one, two):
        (state,) = await gateway.states("t1")
        assert state.spent_nano_usd == round(0.9 * USD)
        assert not refused(gateway, house.call())
    await house.spend(0.1, two)
    assert refused(two, house.call()) and not refused(one, house.call())
    await one.look()
    assert refused(one, house.call())


async def test_a_charge_beside_a_look_is_counted_and_soon_once(house: House) -> None:
    gateway = house.gateway()
    await gateway.create(house.budget(usd=1.0))
    call = await house.spend(0.6)  # durable; its gateway has not counted it
    await gateway.look()
    gateway.charge(call)
    assert refused(gateway, house.call())  # twice for a moment, never not at all
    await gateway.look()
    assert not refused(gateway, house.call())
    (state,) = await gateway.states("t1")
    assert state.spent_nano_usd == round(0.6 * USD)


async def test_each_level_is_told_once_a_period_by_whichever_gateway(house: House) -> None:
    told: list[Alert] = []

    async def tell(alert: Alert) -> None:
        told.append(alert)

    one, two = house.gateway(), house.gateway()
    one.on_alert = two.on_alert = tell
    await one.create(house.budget(usd=1.0, stop=False))
    await house.spend(0.49, one)
    await asyncio.gather(one.look(), two.look())
    assert told == []
    await house.spend(0.4, one)
    await asyncio.gather(one.look(), two.look())
    assert [a.level for a in told] == [50, 80]
    await house.spend(0.2, two)
    await asyncio.gather(one.look(), two.look())
    await house.gateway().look()
    assert [a.level for a in told] == [50, 80, 100] == house.levels
    assert told[-1].spent_nano_usd == round(1.09 * USD)
    assert not refused(one, house.call())  # it only tells
    (state,) = await one.states("t1")
    assert [a["level"] for a in state.alerts] == [50, 80, 100]
    house.now += DAY_S
    assert (await one.states("t1"))[0].alerts == []
    await house.spend(0.5, one)
    await one.look()
    assert [a.level for a in told] == [50, 80, 100, 50]


async def test_an_alert_that_nobody_took_is_told_again(house: House) -> None:
    told: list[int] = []

    async def fail(alert: Alert) -> None:
        raise ConnectionError

    async def tell(alert: Alert) -> None:
        told.append(alert.level)

    gateway = house.gateway()
    gateway.on_alert = fail
    await gateway.create(house.budget(usd=1.0))
    await house.spend(0.5, gateway)
    await gateway.look()
    gateway.on_alert = tell
    await gateway.look()
    assert told == []  # another gateway may be about it
    house.now += 61
    await gateway.look()
    await gateway.look()
    assert told == [50]
    async with house.db.read() as connection:
        rows = (await connection.execute(select(budget_alerts.c.told_at))).scalars().all()
    assert len(rows) == 1 and None not in rows


async def test_a_higher_amount_lets_calls_pass_and_tells_its_levels_anew(house: House) -> None:
    gateway = house.gateway()
    await gateway.create(house.budget(usd=1.0))
    await house.spend(1.0, gateway)
    await gateway.look()
    assert refused(gateway, house.call())
    state = await gateway.change("t1", "bdg_b", amount_nano_usd=round(1.9 * USD))
    assert (state.spent_nano_usd, [a["level"] for a in state.alerts]) == (USD, [50])
    assert not refused(gateway, house.call())
    await house.spend(0.9, gateway)
    await gateway.look()
    assert refused(gateway, house.call())
    assert house.levels == [50, 80, 100, 80, 100]
    await gateway.remove("t1", "bdg_b")
    assert not refused(gateway, house.call())
    assert await gateway.states("t1") == []


async def test_a_key_is_followed_through_its_rotations(house: House) -> None:
    values = {
        "tenant_id": "t1",
        "name": "k",
        "secret_hash": "x",
        "scopes": [],
        "created_at": 1.0,
    }
    async with house.db.write() as connection:
        await connection.execute(insert(tenants).values(id="t1", name="t1", created_at=1.0))
        for key, first in (("k1", None), ("k2", "k1"), ("k3", "k1"), ("other", None)):
            await connection.execute(insert(api_keys).values(id=key, first_id=first, **values))
    gateway = house.gateway()
    await gateway.create(house.budget(usd=1.0, key_id="k2"))
    await house.spend(0.5, gateway, key="k1")
    await house.spend(0.5, gateway, key="k3")
    await house.spend(0.5, gateway, key="other")
    await gateway.look()
    (state,) = await gateway.states("t1")
    assert state.spent_nano_usd == USD
    assert [refused(gateway, house.call(key=k)) for k in ("k1", "k2", "k3", "other")] == [
        *(True, True, True),
        False,
    ]


async def test_what_began_before_the_period_is_not_counted(house: House) -> None:
    await house.spend(5.0, at=NOON - DAY_S)
    await house.spend(0.25)
    gateway = house.gateway()
    await gateway.create(house.budget("day", 1.0))
    await gateway.create(house.budget("week", 9.0, period="week"))
    await gateway.create(house.budget("month", 9.0, period="month"))
    spent = {s.budget.name: s.spent_nano_usd / USD for s in await gateway.states("t1")}
    assert spent == {"day": 0.25, "week": 5.25, "month": 5.25}


async def test_names_are_a_tenants_own_and_budgets_of_the_platform_are_not_its_to_change(
    house: House,
) -> None:
    gateway = house.gateway()
    await gateway.create(house.budget("b", 1.0))
    with pytest.raises(Conflict):
        await gateway.create(house.budget("b", 2.0, id="bdg_2"))
    await gateway.create(house.budget("b", 1.0, id="bdg_3", tenant_id="t2", by_platform=True))
    with pytest.raises(NotFound):
        await gateway.get("t1", "bdg_3")
    assert (await gateway.get("t2", "bdg_3")).budget.by_platform
    for attempt in (gateway.change("t2", "bdg_3", stop=False), gateway.remove("t2", "bdg_3")):
        with pytest.raises(Forbidden):
            await attempt
    assert not (await gateway.change(None, "bdg_3", stop=False)).budget.stop


async def test_each_level_that_a_period_has_reached_is_an_alert_until_it_ends(house: House) -> None:
    gateway = house.gateway()
    schedule = Schedule(house.db, Jobs(house.db, "", "local"))
    alerts = alert_sources(DriftLooks(DriftMonitor(house.db)), schedule, gateway, 0.0)["budget"]
    await gateway.create(house.budget("search", 2.0))
    assert await alerts("t1") == []
    await house.spend(1.7, gateway)
    assert [(a.kind, a.subject) for a in await alerts("t1")] == [
        ("budget", "search@50"),
        ("budget", "search@80"),
    ]
    assert (await alerts("t1"))[0].details == {"spent_usd": 1.7, "amount_usd": 2.0}
    assert await alerts("t2") == []
    house.now += DAY_S
    assert await alerts("t1") == []
