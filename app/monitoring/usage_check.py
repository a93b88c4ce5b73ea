"""Compares the sums that bills and budgets are made of with the audit records themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import select

from app.monitoring.cost_parts import COMPONENTS, UNSPLIT
from app.store.db import Database
from app.store.models import audit
from app.store.models_cost import storage_charges

PAGE = 2_000


@dataclass(slots=True)
class Compared:
    """One tenant: what the ledger, which is the columns beside records, and the records say.

    Attributes:
        ledger, records: nano-USD by component.
        faults: what does not fit, in words.
    """

    tenant_id: str
    calls: int = 0
    ledger: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def check_usage(db: Database) -> list[Compared]:
    """Reckon every tenant's costs anew from its audit records; blocking.

    The records are what is hashed and signed; `ostiary audit verify` says whether they are whole.
    """
    engine = db.sync_engine
    if not db.is_sqlite:
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection, connection.begin():
        found = []
        tenants = connection.execute(select(audit.c.tenant_id).distinct()).scalars().all()
        for tenant_id in sorted(tenants):
            mine = storage_charges.c.tenant_id == tenant_id
            days = connection.execute(select(storage_charges.c.call_id).where(mine)).scalars()
            found.append(_compare(tenant_id, _rows(connection, tenant_id), set(days)))
        return found


def _rows(connection: Any, tenant_id: str) -> Iterator[Any]:
    last = 0
    query = select(audit.c.seq, audit.c.cost_nano_usd, audit.c.costs, audit.c.record)
    query = query.order_by(audit.c.seq).limit(PAGE)
    mine = audit.c.tenant_id == tenant_id
    while rows := connection.execute(query.where(mine, audit.c.seq > last)).all():
        yield from rows
        last = rows[-1].seq


def _compare(tenant_id: str, rows: Iterator[Any], storage: set[str]) -> Compared:
    found = Compared(tenant_id)
    for row in rows:
        record = orjson.loads(row.record)
        found.calls += 1
        held = None if row.costs is None else orjson.loads(row.costs)
        _add(found.ledger, held, row.cost_nano_usd)
        _add(found.records, record.get("costs"), record["cost_nano_usd"])
        if row.cost_nano_usd != record["cost_nano_usd"] or held != record.get("costs"):
            found.faults.append(f"record {row.seq}: the columns beside it say another cost")
        elif held is not None and sum(held.values()) != row.cost_nano_usd:
            found.faults.append(f"record {row.seq}: its components are not its cost")
        if "storage" in (record.get("costs") or {}) and record["call_id"] not in storage:
            found.faults.append(f"record {row.seq}: a day's storage that no day was charged for")
    return found


def _add(sums: Counter[str], costs: dict[str, int] | None, cost: int) -> None:
    split = costs or {}
    sums.update(split)
    sums[UNSPLIT] += cost - sum(split.values())


def as_table(found: list[Compared]) -> list[str]:
    """Lines of a table by tenant and component, in USD to the last digit."""
    lines = [f"{'tenant':<28}{'component':<12}{'ledger USD':>20}{'records USD':>20}{'differ':>8}"]
    for each in found:
        parts = [part for part in (*COMPONENTS, UNSPLIT) if each.ledger[part] or each.records[part]]
        lines += [_line(each.tenant_id, p, each.ledger[p], each.records[p]) for p in parts]
        total = each.ledger.total(), each.records.total()
        lines.append(_line(each.tenant_id, f"{each.calls:,} calls", *total))
    total = sum(e.ledger.total() for e in found), sum(e.records.total() for e in found)
    return [*lines, _line("all", f"{sum(e.calls for e in found):,} calls", *total)]


def _line(tenant_id: str, part: str, ledger: int, records: int) -> str:
    differ = "no" if ledger == records else "YES"
    return f"{tenant_id:<28}{part:<12}{_exact(ledger):>20}{_exact(records):>20}{differ:>8}"


def _exact(nano: int) -> str:
    return f"{'-' if nano < 0 else ''}{abs(nano) // 10**9:,}.{abs(nano) % 10**9:09}"
