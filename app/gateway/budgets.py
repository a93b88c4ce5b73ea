"""Budgets as a resource: kept, counted from the audit log, told of, and stopping at their end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.errors import BudgetExceeded, Conflict, Forbidden, NotFound
from app.gateway.budget import LEVELS, Alert, Budget, Counted, State, period_of, usd
from app.gateway.call import Call
from app.monitoring.usage import DAY_S, Spent, spending
from app.store.db import Database
from app.store.models import api_keys, audit_heads
from app.store.models_cost import budget_alerts, budgets

log = logging.getLogger("ostiary.budgets")
MOST = 200  # of a tenant
AGAIN_S = 60.0  # what a gateway did not hand on in this time, another one does
OnAlert = Callable[[Alert], Awaitable[None]]


class Budgets:
    """Refuses calls of spent budgets, from memory; :meth:`look` keeps the memory current.

    What was spent is the sum of audit records, so it survives a kill and holds across gateways
    to within the calls between two looks; what this gateway charged meanwhile is counted at once.

    Attributes:
        on_alert: is told of each level of each period, once; again when it fails, or when a
            gateway dies over it, so it must take a second time.
    """

    def __init__(
        self,
        db: Database,
        *,
        count: Callable[[int], None] = lambda level: None,
        spent: Callable[[int], None] = lambda budgets: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._clock = db, clock
        self._count, self._count_spent = count, spent
        self.on_alert: OnAlert | None = None
        self._of: dict[str, list[Counted]] = {}  # by tenant
        self._seqs: dict[str, int] = {}  # of the last record counted
        self._looking = asyncio.Lock()

    # -- on the way of each call --------------------------------------------------------

    def check(self, call: Call) -> None:
        """Raise BudgetExceeded when a budget that the call falls under is spent."""
        counted = self._of.get(call.tenant_id)
        if counted is None:
            return
        key_id, now = call.principal.key_id, self._clock()
        for each in counted:
            of = each.budget
            if (
                of.stop
                and each.spent >= of.amount_nano_usd
                and now < each.until
                and each.holds(key_id, call.model, call.route, call.tags)
            ):
                anew = datetime.fromtimestamp(each.until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                raise BudgetExceeded(
                    f"The budget '{of.name}' of {usd(of.amount_usd)} a {of.period} is spent. It "
                    f"begins anew at {anew}; an administrator can change it before.",
                    headers={"retry-after": str(max(1, int(each.until - now)))},
                )

    def charge(self, call: Call) -> None:
        """Count what a call cost, once its record is durable."""
        counted = self._of.get(call.tenant_id)
        if counted is None or not call.cost_nano_usd:
            return
        for each in counted:
            if each.holds(call.principal.key_id, call.model, call.route, call.tags):
                each.charged += call.cost_nano_usd

    # -- beside it ----------------------------------------------------------------------

    async def look(self) -> None:
        """Take in what changed: budgets, periods, and records that any gateway wrote."""
        async with self._looking:
            rows = await self._db.rows(select(budgets).order_by(budgets.c.created_at))
            wanted: dict[str, list[Budget]] = {}
            for row in rows:
                wanted.setdefault(row["tenant_id"], []).append(Budget(**row))
            for gone in self._of.keys() - wanted.keys():
                del self._of[gone]
                self._seqs.pop(gone, None)
            if not wanted:
                self._count_spent(0)
                return
            by_key = any(of.key_id for found in wanted.values() for of in found)
            keys = await self._rotated() if by_key else {}
            query = select(audit_heads).where(audit_heads.c.tenant_id.in_(wanted))
            heads = {row["tenant_id"]: int(row["seq"]) for row in await self._db.rows(query)}
            for tenant_id, found in wanted.items():
                fresh = self._in_force(found, keys)
                if self._same(tenant_id, fresh):
                    await self._read_on(tenant_id, heads.get(tenant_id, 0))
                else:
                    await self._read_anew(tenant_id, fresh, heads.get(tenant_id, 0))
                await self._record_levels(self._of[tenant_id])
            await self._tell()
            every = [each for counted in self._of.values() for each in counted]
            self._count_spent(sum(e.read >= e.budget.amount_nano_usd for e in every))

    def _in_force(self, found: Sequence[Budget], keys: dict[str, set[str]]) -> list[Counted]:
        now = self._clock()
        return [
            Counted(
                of,
                frozenset(keys.get(of.key_id, {of.key_id}) if of.key_id else ()),
                *period_of(of.period, now),
            )
            for of in found
        ]

    def _same(self, tenant_id: str, fresh: list[Counted]) -> bool:
        def told(counted: list[Counted]) -> list[Any]:
            return [(e.budget, e.keys, e.start) for e in counted]

        return told(self._of.get(tenant_id, [])) == told(fresh)

    async def _rotated(self) -> dict[str, set[str]]:
        """The keys that budgets name, each with those that it came of or that came of it."""
        named = select(budgets.c.key_id).where(budgets.c.key_id.is_not(None))
        first = func.coalesce(api_keys.c.first_id, api_keys.c.id)
        lines = select(first).where(api_keys.c.id.in_(named))
        query = select(api_keys.c.id, first.label("first")).where(first.in_(lines))
        by_first: dict[str, set[str]] = {}
        for row in await self._db.rows(query):
            by_first.setdefault(row["first"], set()).add(row["id"])
        return {key_id: line for line in by_first.values() for key_id in line}

    async def _read_on(self, tenant_id: str, head: int) -> None:
        """Count the records since the last look."""
        counted, seq = self._of[tenant_id], self._seqs[tenant_id]
        marks = [each.charged for each in counted]  # of calls whose records are durable by now
        found: list[Spent] = []
        if head > seq:
            found, last = await self._spending(tenant_id, counted, seq)
            self._seqs[tenant_id] = max(last, head)
        for each, mark in zip(counted, marks, strict=True):
            each.read += _sum(each, found)
            each.charged -= mark

    async def _read_anew(self, tenant_id: str, fresh: list[Counted], head: int) -> None:
        """Count all records of the periods."""
        old = {(e.budget.id, e.start): e for e in self._of.get(tenant_id, [])}
        marks = {key: e.charged for key, e in old.items()}
        told = await self._told([each.budget.id for each in fresh])
        found, last = await self._spending(tenant_id, fresh, 0)
        self._seqs[tenant_id] = max(last, head)
        for each in fresh:
            key = (each.budget.id, each.start)
            each.read = _sum(each, found)
            each.told = {r["level"] for r in told if (r["budget_id"], r["period_start"]) == key}
            if key in old:  # charged while the records were read
                each.charged = old[key].charged - marks[key]
        self._of[tenant_id] = fresh

    async def _spending(
        self, tenant_id: str, counted: list[Counted], after_seq: int
    ) -> tuple[list[Spent], int]:
        since = float(min(each.start for each in counted))
        tags = sorted({name for each in counted for name in each.budget.tags})
        return await spending(self._db, tenant_id, since, after_seq, tags)

    # -- alerts -------------------------------------------------------------------------

    async def _record_levels(self, counted: list[Counted]) -> None:
        """Make durable, once a period, that a level was reached."""
        for each in counted:
            of = each.budget
            for level in LEVELS:
                if level in each.told or 100 * each.read < level * of.amount_nano_usd:
                    continue
                now = self._clock()
                row = {
                    "budget_id": of.id,
                    "period_start": each.start,
                    "level": level,
                    "tenant_id": of.tenant_id,
                    "spent_nano_usd": each.read,
                    "at": now,
                }
                new = self._db.insert(budget_alerts).values(row).on_conflict_do_nothing()
                async with self._db.write() as connection:
                    found = await connection.execute(new.returning(budget_alerts.c.level))
                    made = found.first()
                if made is not None:  # else another gateway was first
                    self._count(level)
                    await self._hand_on(Alert(of, level, each.read, each.start, now))
                each.told.add(level)

    async def _tell(self) -> None:
        """Hand on what was recorded and not handed on, as when a gateway died over it."""
        query = select(budget_alerts).where(
            budget_alerts.c.told_at.is_(None), budget_alerts.c.at < self._clock() - AGAIN_S
        )
        known = {e.budget.id: e.budget for counted in self._of.values() for e in counted}
        for row in await self._db.rows(query):
            if (of := known.get(row["budget_id"])) is not None:
                spent = int(row["spent_nano_usd"])
                start = int(row["period_start"])
                await self._hand_on(Alert(of, row["level"], spent, start, row["at"]))

    async def _hand_on(self, alert: Alert) -> None:
        of = alert.budget
        log.warning("budget %s of tenant %s is at %d%%", of.id, of.tenant_id, alert.level)
        if self.on_alert is not None:
            try:
                await self.on_alert(alert)
            except Exception:
                log.exception("the alert of budget %s was not taken; it is told again", of.id)
                return
        same = (
            budget_alerts.c.budget_id == of.id,
            budget_alerts.c.period_start == alert.period_start,
            budget_alerts.c.level == alert.level,
        )
        async with self._db.write() as connection:
            await connection.execute(
                update(budget_alerts).where(*same).values(told_at=self._clock())
            )

    async def _told(self, ids: Sequence[str]) -> Sequence[Any]:
        query = select(budget_alerts).where(budget_alerts.c.budget_id.in_(ids))
        return await self._db.rows(query.order_by(budget_alerts.c.at))

    # -- what the doors call ------------------------------------------------------------

    async def create(self, budget: Budget) -> State:
        """Raises Conflict when the tenant has one of this name, or as many as it may."""
        mine = budgets.c.tenant_id == budget.tenant_id
        count = select(func.count()).select_from(budgets).where(mine)
        try:
            async with self._db.write() as connection:
                if int((await connection.execute(count)).scalar_one()) >= MOST:
                    raise Conflict(f"The tenant has {MOST} budgets. Delete one first.")
                await connection.execute(insert(budgets).values(asdict(budget)))
        except IntegrityError:
            raise Conflict("A budget of this name exists. Choose another name.") from None
        return await self.get(budget.tenant_id, budget.id)

    async def states(self, tenant_id: str | None) -> list[State]:
        """The budgets of a tenant, None: of all, as they stand now, oldest first."""
        await self.look()
        counted = [
            each for of, found in self._of.items() for each in found if tenant_id in (None, of)
        ]
        told = await self._told([each.budget.id for each in counted])
        return [
            State(
                each.budget,
                each.read,
                each.start,
                each.until,
                [
                    {"level": r["level"], "at": r["at"], "spent_usd": r["spent_nano_usd"] / 1e9}
                    for r in told
                    if (r["budget_id"], r["period_start"]) == (each.budget.id, each.start)
                ],
            )
            for each in sorted(counted, key=lambda e: e.budget.created_at)
        ]

    async def get(self, tenant_id: str | None, budget_id: str) -> State:
        """Raises NotFound for an unknown budget and for another tenant's."""
        for state in await self.states(tenant_id):
            if state.budget.id == budget_id:
                return state
        raise NotFound("budget", budget_id)

    async def change(self, tenant_id: str | None, budget_id: str, **values: Any) -> State:
        """Change amount, period, stop or name; levels that it is under again are told anew.

        Raises:
            NotFound: as :meth:`get`.
            Forbidden: it is the platform's.
            Conflict: the tenant has one of this name.
        """
        before = self._changeable(tenant_id, await self.get(tenant_id, budget_id))
        after = replace(before.budget, **values, updated_at=self._clock())
        alerts = budget_alerts.c
        start = period_of(after.period, self._clock())[0]
        above = [n for n in LEVELS if 100 * before.spent_nano_usd < n * after.amount_nano_usd]
        try:
            async with self._db.write() as connection:
                await connection.execute(
                    update(budgets).where(budgets.c.id == budget_id).values(asdict(after))
                )
                await connection.execute(
                    delete(budget_alerts).where(
                        alerts.budget_id == budget_id,
                        alerts.period_start == start,
                        or_(alerts.level.in_(above), literal(after.period != before.budget.period)),
                    )
                )
        except IntegrityError:
            raise Conflict("A budget of this name exists. Choose another name.") from None
        return await self.get(tenant_id, budget_id)

    async def remove(self, tenant_id: str | None, budget_id: str) -> None:
        """Raises as :meth:`change`."""
        self._changeable(tenant_id, await self.get(tenant_id, budget_id))
        async with self._db.write() as connection:
            for table, column in ((budget_alerts, "budget_id"), (budgets, "id")):
                await connection.execute(delete(table).where(table.c[column] == budget_id))
        await self.look()

    def _changeable(self, tenant_id: str | None, state: State) -> State:
        if tenant_id is not None and state.budget.by_platform:
            raise Forbidden("This budget was set by the platform's administrators. Ask them.")
        return state


def _sum(counted: Counted, found: Sequence[Spent]) -> int:
    return sum(
        s.cost_nano_usd
        for s in found
        if s.day * DAY_S >= counted.start and counted.holds(s.key_id, s.model, s.route, s.tags)
    )
