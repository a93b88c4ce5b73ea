"""Sums of what calls used and cost, grouped as asked, from the columns beside audit records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, select, text
from sqlalchemy.dialects.postgresql import JSONB

from app.errors import BadRequest
from app.monitoring.cost_parts import COMPONENTS, UNSPLIT
from app.store.db import Database
from app.store.models import audit

DAY_S = 86_400
COLUMNS = ("key_id", "tenant_id", "model", "route")
TOKENS = ("prompt_tokens", "completion_tokens", "embedding_tokens")
MOST_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Total:
    """One group: the value of each thing it is grouped by, and its sums.

    Tokens are None by component, as the components of a call share them.
    """

    groups: dict[str, str | None]
    calls: int
    cost_nano_usd: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    embedding_tokens: int | None = None


def day_of(db: Database) -> ColumnElement[int]:
    """The day (UTC, since 1970) on which a call began."""
    days = audit.c.at / DAY_S
    return cast(days if db.is_sqlite else func.floor(days), BigInteger)  # SQLite's cast cuts


def in_json(db: Database, column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    """The value of a name in a column that holds a JSON object as text."""
    if db.is_sqlite:
        return func.json_extract(column, f'$."{name}"')
    found: ColumnElement[Any] = cast(column, JSONB)[name].astext
    return found


class Usage:
    """Reports of one database, read when they are asked for."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def totals(
        self,
        tenant_id: str | None,
        group_by: Sequence[str],
        since: float,
        until: float | None = None,
    ) -> list[Total]:
        """Sum what calls used and cost that began from ``since`` on and before ``until``.

        Args:
            tenant_id: whose calls; None: everybody's.
            group_by: any of key_id, tenant_id, model, route, day, component and tag:NAME.

        Raises:
            BadRequest: there are more groups than a report holds.
        """
        by_component = "component" in group_by
        named = [name for name in group_by if name != "component"]
        groups = [self._group(name).label(f"g{n}") for n, name in enumerate(named)]
        query = select(
            *groups,
            func.count().label("calls"),
            func.coalesce(func.sum(audit.c.cost_nano_usd), 0).label("cost"),
            *(func.coalesce(func.sum(audit.c[name]), 0).label(name) for name in TOKENS),
            *(self._parts() if by_component else ()),
        ).where(audit.c.at >= since)
        if tenant_id is not None:
            query = query.where(audit.c.tenant_id == tenant_id)
        if until is not None:
            query = query.where(audit.c.at < until)
        if groups:
            query = query.group_by(*(text(f"g{n}") for n in range(len(groups))))
        rows = await self._db.rows(query.limit(MOST_ROWS + 1))
        if len(rows) > MOST_ROWS:
            raise BadRequest(
                f"These are more than {MOST_ROWS:,} groups. Ask for less time, or group by less.",
                param="group_by",
            )
        found = [total for row in rows if row["calls"] for total in _totals(row, named, group_by)]
        return sorted(found, key=lambda t: [(v is not None, v or "") for v in t.groups.values()])

    def _group(self, name: str) -> ColumnElement[Any]:
        if name == "day":
            return day_of(self._db)
        if name.startswith("tag:"):
            return in_json(self._db, audit.c.tags, name.removeprefix("tag:"))
        if name not in COLUMNS:
            raise ValueError(f"nothing is grouped by {name!r}")
        return audit.c[name]

    def _parts(self) -> Iterator[ColumnElement[Any]]:
        for part in COMPONENTS:
            cost = cast(in_json(self._db, audit.c.costs, part), BigInteger)
            yield func.coalesce(func.sum(cost), 0).label(f"cost_{part}")
            yield func.count(cost).label(f"calls_{part}")
        yield (func.count() - func.count(audit.c.costs)).label(f"calls_{UNSPLIT}")


def _totals(row: Mapping[Any, Any], named: Sequence[str], group_by: Sequence[str]) -> list[Total]:
    """The totals of a row of SQL, which are several by component."""
    values = {name: _shown(name, row[f"g{n}"]) for n, name in enumerate(named)}
    calls, cost = int(row["calls"]), int(row["cost"])
    if "component" not in group_by:
        groups = {name: values[name] for name in group_by}
        # PostgreSQL sums bigints to a Decimal
        return [Total(groups, calls, cost, *(int(row[name]) for name in TOKENS))]
    parts = {part: (int(row[f"calls_{part}"]), int(row[f"cost_{part}"])) for part in COMPONENTS}
    rest = cost - sum(c for _, c in parts.values())
    parts[UNSPLIT] = (int(row[f"calls_{UNSPLIT}"]), rest)
    return [
        Total({name: {**values, "component": part}[name] for name in group_by}, of, cost)
        for part, (of, cost) in parts.items()
        if cost
    ]


def _shown(name: str, value: Any) -> str | None:
    if name == "day":
        return datetime.fromtimestamp(int(value) * DAY_S, UTC).date().isoformat()
    return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls of one kind cost on one day."""

    day: int
    key_id: str | None
    model: str | None
    route: str
    tags: dict[str, str]
    cost_nano_usd: int


async def spending(
    db: Database, tenant_id: str, since: float, after_seq: int, tags: Sequence[str]
) -> tuple[list[Spent], int]:
    """What a tenant's calls cost since then, after that record, and the last record seen.

    Args:
        tags: the names by which calls are told apart besides key, model, route and day.
    """
    named = [in_json(db, audit.c.tags, name).label(f"t{n}") for n, name in enumerate(tags)]
    query = select(
        day_of(db).label("day"),
        *(audit.c.key_id, audit.c.model, audit.c.route),
        *named,
        func.sum(audit.c.cost_nano_usd).label("cost"),
        func.max(audit.c.seq).label("seq"),
    ).where(audit.c.at >= since)
    if after_seq:
        query = query.where(audit.c.tenant_id == tenant_id, audit.c.seq > after_seq)
    else:  # as app/gateway/limits.py: by the index of `at`, not through the whole history
        query = query.where(audit.c.tenant_id.concat("") == tenant_id)
    kinds = ["day", "key_id", "model", "route", *(f"t{n}" for n in range(len(tags)))]
    rows = await db.rows(query.group_by(*(text(name) for name in kinds)))
    found = [
        Spent(
            int(row["day"]),
            row["key_id"],
            row["model"],
            row["route"],
            {name: row[f"t{n}"] for n, name in enumerate(tags) if row[f"t{n}"] is not None},
            int(row["cost"]),
        )
        for row in rows
    ]
    return found, max((int(row["seq"]) for row in rows), default=after_seq)
