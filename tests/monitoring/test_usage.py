"""Costs: by component and tag, equal to the sum of audit records however they are grouped."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from app.errors import BadRequest
from app.gateway.call import Call, Principal
from app.monitoring import usage as usage_module
from app.monitoring.audit import AuditLog
from app.monitoring.cost import HourPrice, Prices
from app.monitoring.cost_parts import COMPONENTS, PartPrices
from app.monitoring.storage_cost import StorageCharges
from app.monitoring.usage import Usage
from app.monitoring.usage_check import as_table, check_usage
from app.monitoring.verification import verify
from app.monitoring.verifying import chain_hash
from app.retrieval.stored import Stored
from app.settings import normal_url
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import audit, audit_heads
from app.store.models_cost import storage_charges
from tests.conftest import create_database, drop_database

DAY_S = 86_400
NOON = 20_000 * DAY_S + DAY_S / 2
GROUPS = ("tenant_id", "key_id", "model", "route", "day", "component", "tag:project", "tag:team")


@dataclass
class House:
    """A database with its log, and everything that was ever written into it."""

    db: Database
    log: AuditLog
    calls: list[Call] = field(default_factory=list)

    async def write(self, calls: list[Call]) -> None:
        await asyncio.gather(*(self.log.commit(c, 200, 0.01, None) for c in calls))
        self.calls += calls


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("usage")
    url = normal_url(None, folder / "ostiary.db")
    if request.param == "postgresql":
        made = create_database(request.getfixturevalue("postgres_server"))
        url = normal_url(made, folder)
    db = Database(url)
    await asyncio.to_thread(migrate, db)
    log = AuditLog(db)
    log.start()
    yield House(db, log)
    log.close()
    await db.close()
    if request.param == "postgresql":
        drop_database(made)


def call_of(number: int, **fields: Any) -> Call:
    tenant, key = fields.get("tenant", "t1"), fields.get("key", "k1")
    made = Call(f"call_{number}", f"req_{number}", "rest", fields.get("route", "POST /v1/x"))
    made.principal = Principal(tenant, f"key:{key}", key, frozenset({"*"}))
    made.started = fields.get("at", NOON)
    made.model = fields.get("model", "m")
    made.tags = fields.get("tags", {})
    made.costs = {name: cost for name, cost in fields.get("costs", {}).items() if cost}
    made.cost_nano_usd = sum(made.costs.values())
    made.usage.prompt_tokens = fields.get("tokens", 7)
    return made


numbers = iter(range(10**9))
some_calls = st.builds(
    lambda **fields: call_of(next(numbers), **fields),
    tenant=st.sampled_from(["t1", "t2"]),
    key=st.sampled_from(["k1", "k2", None]),
    model=st.sampled_from(["m", "n", None]),
    route=st.sampled_from(["POST /v1/chat/completions", "job:ingest/index"]),
    at=st.floats(NOON - 3 * DAY_S, NOON + 3 * DAY_S),
    tags=st.dictionaries(
        st.sampled_from(["project", "team"]), st.sampled_from(["apollo", "a.b:c/d", "7"])
    ),
    costs=st.dictionaries(st.sampled_from(COMPONENTS), st.integers(0, 2**40)),
    tokens=st.integers(0, 10**6),
)


def expected(calls: list[Call], group_by: tuple[str, ...]) -> dict[tuple[Any, ...], int]:
    sums: dict[tuple[Any, ...], int] = defaultdict(int)
    for call in calls:
        values = {
            "tenant_id": call.tenant_id,
            "key_id": call.principal.key_id,
            "model": call.model,
            "route": call.route,
            "day": datetime.fromtimestamp(call.started, UTC).date().isoformat(),
            "tag:project": call.tags.get("project"),
            "tag:team": call.tags.get("team"),
        }
        parts = call.costs.items() if "component" in group_by else [("", call.cost_nano_usd)]
        for part, cost in parts:
            sums[tuple({**values, "component": part}[name] for name in group_by)] += cost
    return sums


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    calls=st.lists(some_calls, min_size=1, max_size=12),
    group_by=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=4, unique=True),
    whose=st.sampled_from([None, "t1", "t2"]),
)
async def test_totals_by_any_grouping_equal_the_sum_of_the_records(
    house: House, calls: list[Call], group_by: list[str], whose: str | None
) -> None:
    await house.write(calls)
    found = await Usage(house.db).totals(whose, group_by, 0.0)
    told = {tuple(t.groups[name] for name in group_by): t.cost_nano_usd for t in found}
    mine = [c for c in house.calls if whose in (None, c.tenant_id)]
    assert told == expected(mine, tuple(group_by))
    async with house.db.read() as connection:
        rows = await connection.execute(select(audit.c.tenant_id, audit.c.record))
        records = [orjson.loads(r.record) for r in rows if whose in (None, r.tenant_id)]
    assert sum(told.values()) == sum(r["cost_nano_usd"] for r in records)
    assert sum(told.values()) == sum(sum(r["costs"].values()) for r in records)
    if "component" not in group_by:
        assert sum(t.calls for t in found) == len(records)
        assert sum(t.prompt_tokens or 0 for t in found) == sum(r["prompt_tokens"] for r in records)


@pytest.fixture
async def log(house: House) -> AuditLog:
    """The log of the module's database, emptied."""
    async with house.db.write() as connection:
        for table in (audit, audit_heads, storage_charges):
            await connection.execute(delete(table))
    house.calls.clear()
    house.log._heads.clear()
    return house.log


async def test_a_report_takes_the_calls_of_its_time_alone(log: AuditLog) -> None:
    for n, at in enumerate((NOON - 1, NOON, NOON + 9, NOON + 10)):
        await log.commit(call_of(n, at=at, costs={"model": 10**n}), 200, 0.0, None)
    (total,) = await Usage(log._db).totals("t1", ["model"], NOON, NOON + 10)
    assert (total.calls, total.cost_nano_usd) == (2, 110)


async def test_more_groups_than_a_report_holds_are_refused(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        await log.commit(call_of(n, tags={"run": str(n)}), 200, 0.0, None)
    monkeypatch.setattr(usage_module, "MOST_ROWS", 3)
    with pytest.raises(BadRequest, match="group by less"):
        await Usage(log._db).totals("t1", ["tag:run"], 0.0)
    assert len(await Usage(log._db).totals("t1", ["model"], 0.0)) == 1


async def as_from_before(log: AuditLog, number: int, cost: int) -> None:
    """A record of before there were components: neither in it nor beside it."""
    call = call_of(number)
    call.cost_nano_usd = cost
    await log.commit(call, 200, 0.0, None)
    async with log._db.write() as connection:
        row = (await connection.execute(select(audit).order_by(audit.c.seq.desc()))).first()
        assert row is not None
        record = row.record.replace('"costs":{},', "")
        hashed = chain_hash(row.prev_hash, record)
        mine = audit.c.seq == row.seq
        await connection.execute(
            update(audit).where(mine).values(record=record, hash=hashed, costs=None)
        )
        await connection.execute(update(audit_heads).values(hash=hashed))
    log._heads.clear()


async def test_records_from_before_components_verify_and_count_as_unsplit(log: AuditLog) -> None:
    await as_from_before(log, 1, 350)
    await log.commit(call_of(2, costs={"model": 5, "embedding": 2}), 200, 0.0, None)
    verdict = await asyncio.to_thread(verify, log._db)
    assert (verdict.fault, verdict.records) == (None, 2)
    found = await Usage(log._db).totals("t1", ["component"], 0.0)
    assert {t.groups["component"]: (t.calls, t.cost_nano_usd) for t in found} == {
        "unsplit": (1, 350),
        "model": (1, 5),
        "embedding": (1, 2),
    }
    (checked,) = await asyncio.to_thread(check_usage, log._db)
    assert not checked.faults and checked.ledger == checked.records
    assert checked.records["unsplit"] == 350


@pytest.mark.parametrize(
    "changed", [{"costs": '{"model":4}'}, {"tags": '{"project":"other"}'}, {"tags": None}]
)
async def test_changed_costs_and_tags_beside_a_record_are_found(
    log: AuditLog, changed: dict[str, Any]
) -> None:
    await log.commit(call_of(1, costs={"model": 5}, tags={"project": "p"}), 200, 0.0, None)
    assert (await asyncio.to_thread(verify, log._db)).fault is None
    async with log._db.write() as connection:
        await connection.execute(update(audit).values(changed))
    (fault,) = (await asyncio.to_thread(verify, log._db)).faults
    assert fault.kind == "columns_edited"


async def test_the_check_tells_a_ledger_that_differs_from_its_records(log: AuditLog) -> None:
    for n in range(3):
        await log.commit(call_of(n, costs={"model": 1_500_000_000, "guardrails": 1}), 200, 0, None)
    found = await asyncio.to_thread(check_usage, log._db)
    assert [f.faults for f in found] == [[]]
    table = "\n".join(as_table(found))
    assert "4.500000003" in table and "YES" not in table
    async with log._db.write() as connection:
        await connection.execute(
            update(audit).where(audit.c.seq == 2).values(cost_nano_usd=1, costs='{"model":1}')
        )
    (damaged,) = await asyncio.to_thread(check_usage, log._db)
    assert len(damaged.faults) == 1 and "record 2" in damaged.faults[0]
    assert "YES" in "\n".join(as_table([damaged]))


def test_a_call_costs_what_each_part_of_it_costs() -> None:
    parts = PartPrices(
        search=0.5, retrieval_hour=3.6, reranking=0.1, guardrails_hour=7.2, storage=0.02
    )
    prices = Prices(1.0, 2.0, 0.5, parts=parts)
    call = call_of(1, model="m")
    call.usage.prompt_tokens, call.usage.completion_tokens = 10, 20
    call.usage.embedding_tokens, call.usage.searches, call.usage.reranked = 4, 1, 30
    call.cpu_s = [("retrieval", 0.5), ("guardrails", 0.25), ("guardrails", 0.25)]
    costs, work = prices.costs(call)
    assert costs == {
        "model": 50_000,
        "embedding": 2_000,
        "retrieval": 500_000 + 500_000,
        "reranking": 3_000_000,
        "guardrails": 1_000_000,
    }
    assert work == {
        "retrieval_cpu_s": 0.5,
        "guardrails_cpu_s": 0.5,
        "searches": 1,
        "reranked": 30,
    }
    assert prices.cost_usd(call) == sum(costs.values()) / 1e9
    assert parts.storage_nano_usd(10**9) == 20_000_000


def test_a_model_priced_by_the_hour_costs_seconds_of_its_card() -> None:
    prices = Prices(1.0, 2.0, 0.5)
    prices.set("m", HourPrice(3.6, 100.0))
    call = call_of(1, model="m")
    call.usage.prompt_tokens, call.usage.completion_tokens = 150, 50
    costs, work = prices.costs(call)
    assert costs == {"gpu": pytest.approx(2_000_000, rel=1e-3)}
    assert work == {"gpu_s": pytest.approx(2.0, rel=1e-3)}


def test_what_is_not_priced_is_not_measured_and_costs_nothing() -> None:
    call = call_of(1)
    assert call.timed("guardrails", len) is len
    call.usage.searches = call.usage.reranked = 3
    assert Prices(0.0, 0.0, 0.0).costs(call)[0] == {}
    call.times = PartPrices(guardrails_hour=1.0).timed
    assert call.timed("retrieval", len) is len
    assert call.timed("guardrails", sorted)([2, 1]) == [1, 2]
    assert [part for part, _ in call.cpu_s] == ["guardrails"]
    with pytest.raises(TypeError):
        call.timed("guardrails", len)(3)  # type: ignore[arg-type]
    assert len(call.cpu_s) == 2


async def test_a_days_storage_is_charged_once_over_gateways_and_restarts(log: AuditLog) -> None:
    charged: list[Call] = []
    now = [NOON]
    beside = AuditLog(log._db)  # another gateway on the database
    beside.start()

    async def stored() -> dict[str, Stored]:
        return {"t1": Stored(10**9, 5 * 10**8, 1), "t2": Stored(0, 0, 0)}

    def charges(on: AuditLog) -> StorageCharges:
        return StorageCharges(on, PartPrices(storage=0.02), stored, charged.append, lambda: now[0])

    one, two = charges(log), charges(beside)
    await asyncio.gather(one.look(), two.look(), one.look(), two.look())
    await charges(log).look()  # a restart
    (call,) = charged
    assert call.cost_nano_usd == round(0.02 * 1_500_000_001)
    now[0] += DAY_S
    await asyncio.gather(two.look(), one.look())
    assert len(charged) == 2
    beside.close()
    found = await Usage(log._db).totals("t1", ["day", "component"], 0.0)
    assert [(t.groups["day"], t.groups["component"]) for t in found] == [
        ("2024-10-04", "storage"),
        ("2024-10-05", "storage"),
    ]
    async with log._db.read() as connection:
        rows = (await connection.execute(select(audit.c.call_id))).scalars().all()
        days = (await connection.execute(select(storage_charges.c.call_id))).scalars().all()
    assert sorted(rows) == sorted(days) == sorted(c.id for c in charged)
    assert (await asyncio.to_thread(verify, log._db)).fault is None


async def test_free_storage_leaves_no_record(log: AuditLog) -> None:
    async def stored() -> dict[str, Stored]:
        raise AssertionError("nothing is to be measured")

    await StorageCharges(log, PartPrices(), stored, lambda call: None).look()
    assert await log.page("t1", limit=1) == []
