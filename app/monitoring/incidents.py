"""Incidents: opened by alerts, acknowledged, escalated and closed; one a subject at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.gateway.call import Call, Principal
from app.ids import new_id
from app.monitoring.alert_policies import AlertPolicies
from app.monitoring.alerts import Alert, AlertPolicy, Source, chosen, raised
from app.monitoring.incident import SYSTEM, Incident, opened, told
from app.store.db import Database
from app.store.models_incidents import incident_events, incidents, webhook_deliveries
from app.store.paging import Page, page_of

log = logging.getLogger("ostiary.incidents")
Govern = Callable[..., AbstractAsyncContextManager[Call]]
OVER = "The condition is over."
_I = incidents.c


class Incidents:
    """Follows the alerts of all tenants; as many gateways as there are may look at once.

    Each change is one transaction: the row as its version was, the line of the history and the
    webhook to send. The unique index on what is open lets one gateway open an incident.

    Args:
        sources: by kind, what gives the alerts that stand.
    """

    def __init__(
        self,
        db: Database,
        policies: AlertPolicies,
        sources: Mapping[str, Source],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self.policies, self._sources = db, policies, sources
        self.clock = clock
        self.govern: Govern | None = None  # set once by the wiring, before anything is looked at

    # -- what the doors call ------------------------------------------------------------

    async def get(self, tenant_id: str, incident_id: str) -> Incident:
        """Raises NotFound for an unknown id or another tenant's."""
        query = select(incidents).where(_I.id == incident_id, _I.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("incident", incident_id)
        return Incident.from_row(row)

    async def page(self, tenant_id: str, filters: dict[str, Any], **paging: Any) -> Page[Incident]:
        """One page of the tenant's incidents; ``filters`` by column, None: any."""
        query = select(incidents).where(_I.tenant_id == tenant_id)
        for name, value in filters.items():
            if value is not None:
                query = query.where(_I[name] == value)
        found = await page_of(self._db, query, _I.id, **paging)
        return Page([Incident.from_row(row) for row in found.rows], found.has_more)

    async def history(self, incident: Incident) -> list[dict[str, Any]]:
        """What happened, oldest first: change, by, at, details."""
        of = incident_events.c
        query = (
            select(of.change, of.by, of.at, of.details)
            .where(of.incident_id == incident.id)
            .order_by(of.at, of.id)
        )
        return [dict(row) for row in await self._db.rows(query)]

    async def acknowledge(self, call: Call, incident_id: str) -> Incident:
        """Take an incident on: it does not escalate any more. A second time changes nothing.

        Raises:
            NotFound: unknown, or another tenant's.
            Conflict: it is closed.
        """
        by, now = call.principal.subject, self.clock()
        values = {"state": "acknowledged", "acknowledged_at": now, "acknowledged_by": by}

        def change(found: Incident) -> dict[str, Any] | None:
            _require_open(found)
            return None if found.state == "acknowledged" else {**values, "escalates_at": None}

        return await self._asked(call, incident_id, "acknowledged", change)

    async def approve(self, call: Call, incident_id: str) -> Incident:
        """Let the action of an incident begin.

        Raises:
            NotFound: unknown, or another tenant's.
            Conflict: it is closed, or no action waits for approval.
        """

        def change(found: Incident) -> dict[str, Any] | None:
            _require_open(found)
            if found.action != "waiting":
                raise Conflict("No action of this incident waits for approval.")
            return {"action": "due"}

        return await self._asked(call, incident_id, "approved", change)

    async def close(self, call: Call, incident_id: str, reason: str) -> Incident:
        """Close an incident by hand; where its condition stands, the next look opens another.

        Raises:
            NotFound: unknown, or another tenant's.
            Conflict: it is closed already.
        """

        def change(found: Incident) -> dict[str, Any] | None:
            _require_open(found)
            return self._closing(found, call.principal.subject, reason)

        return await self._asked(call, incident_id, "closed", change, {"reason": reason})

    async def _asked(
        self,
        call: Call,
        incident_id: str,
        change: str,
        values_of: Callable[[Incident], dict[str, Any] | None],
        details: dict[str, Any] | None = None,
    ) -> Incident:
        """Make a change that a caller asks for, to the incident as it is then."""
        while True:
            found = await self.get(call.tenant_id, incident_id)
            values = values_of(found)
            if values is None:
                return found
            call.lineage["incident"] = {"id": found.id, "change": change}
            changed = await self.change(found, change, call.principal.subject, values, details)
            if changed is not None:  # else somebody else changed it meanwhile
                return changed

    # -- what the gateways do by themselves ---------------------------------------------

    async def look(self) -> None:
        """Open and close what the alerts say, and escalate what nobody acknowledged."""
        policies = await self.policies.all()
        rows = await self._db.rows(select(incidents).where(_I.closed_at.is_(None)))
        standing = [Incident.from_row(row) for row in rows]
        for kind, source in self._sources.items():
            tenants = {p.tenant_id for p in policies if p.rule.kind == kind}
            for tenant_id in sorted(tenants | {i.tenant_id for i in standing if i.kind == kind}):
                mine = [i for i in standing if (i.tenant_id, i.kind) == (tenant_id, kind)]
                try:
                    await self._meet(await source(tenant_id), mine, policies)
                except Exception:  # of one tenant: nothing of it is over while nobody knows
                    log.exception("alerts of %s could not be looked at", kind)
        await self._escalate()

    async def raise_alert(self, alert: Alert) -> None:
        """Open an incident for an alert at once, unless one is open or no policy covers it."""
        await self._open(alert, await self.policies.of(alert.tenant_id))

    async def _meet(
        self, alerts: list[Alert], mine: list[Incident], policies: list[AlertPolicy]
    ) -> None:
        now, known = self.clock(), {incident.subject: incident for incident in mine}
        stand = {alert.subject for alert in alerts}
        if seen := [known[subject].id for subject in stand & known.keys()]:
            async with self._db.write() as connection:
                await connection.execute(
                    update(incidents)
                    .where(_I.id.in_(seen), _I.alerted_at < now)
                    .values(alerted_at=now)
                )
        for alert in alerts:
            if alert.subject not in known:
                await self._open(alert, policies)
        for incident in mine:
            if incident.subject in stand:
                continue
            if now - incident.alerted_at >= incident.rule.close_after_s:
                values = self._closing(incident, SYSTEM, OVER)
                as_seen = _I.alerted_at == incident.alerted_at  # no other gateway saw it since
                await self.governed_change(incident, "closed", values, {"reason": OVER}, as_seen)

    async def _open(self, alert: Alert, policies: list[AlertPolicy]) -> None:
        policy = chosen(policies, alert)
        if policy is None:
            return
        now = self.clock()
        made = opened(new_id("inc_"), alert, policy, now)
        async with self.governed(made, "opened") as call:
            async with self._db.write() as connection:
                mine = await connection.scalar(
                    self._db.insert(incidents)
                    .values(**made.as_row())
                    .on_conflict_do_nothing()
                    .returning(_I.id)
                )
                if mine is not None:
                    await self._tell(connection, made, "opened", SYSTEM, now, {})
            call.lineage["incident"]["changed"] = mine is not None

    async def _escalate(self) -> None:
        now = self.clock()
        late = select(incidents).where(_I.state == "open", _I.escalates_at <= now)
        for row in await self._db.rows(late):
            found = Incident.from_row(row)
            rule, number = found.rule, found.escalations + 1
            owner = rule.escalate_to[number - 1] if rule.escalate_to else found.owner
            again = number < len(rule.escalate_to)
            values = {
                "escalations": number,
                "severity": raised(found.severity),
                "owner": owner,
                "escalates_at": now + (rule.acknowledge_within_s or 0) if again else None,
            }
            details = {"from": found.owner, "to": owner}
            await self.governed_change(found, "escalated", values, details)

    # -- each change --------------------------------------------------------------------

    @asynccontextmanager
    async def governed(self, incident: Incident, change: str) -> AsyncIterator[Call]:
        """A change that nobody asked for, as a governed call of the incident's tenant."""
        assert self.govern is not None
        principal = Principal(incident.tenant_id, SYSTEM, None, frozenset())
        async with self.govern("incident", f"incident:{change}", principal, duty=True) as call:
            call.lineage["incident"] = {"id": incident.id, "change": change}
            yield call

    async def governed_change(
        self,
        incident: Incident,
        change: str,
        values: dict[str, Any],
        details: dict[str, Any] | None = None,
        *conditions: ColumnElement[bool],
    ) -> Incident | None:
        """:meth:`change` by the gateway itself, audited."""
        async with self.governed(incident, change) as call:
            changed = await self.change(incident, change, SYSTEM, values, details, *conditions)
            call.lineage["incident"]["changed"] = changed is not None
            return changed

    async def change(
        self,
        incident: Incident,
        change: str | None,
        by: str,
        values: dict[str, Any],
        details: dict[str, Any] | None = None,
        *conditions: ColumnElement[bool],
    ) -> Incident | None:
        """Change an incident as it was seen; None where somebody else has changed it.

        A ``change`` without a name is a step on the way that nobody is told of.
        """
        async with self._db.write() as connection:
            return await self.change_in(
                connection, incident, change, by, values, details, *conditions
            )

    async def change_in(
        self,
        connection: AsyncConnection,
        incident: Incident,
        change: str | None,
        by: str,
        values: dict[str, Any],
        details: dict[str, Any] | None = None,
        *conditions: ColumnElement[bool],
    ) -> Incident | None:
        """:meth:`change` within a transaction."""
        done = await connection.execute(
            update(incidents)
            .where(_I.id == incident.id, _I.version == incident.version, *conditions)
            .values(**values, version=incident.version + 1)
        )
        if not done.rowcount:
            return None
        changed = replace(incident, **values, version=incident.version + 1)
        if change is not None:
            await self._tell(connection, changed, change, by, self.clock(), details or {})
        return changed

    async def _tell(
        self,
        connection: AsyncConnection,
        incident: Incident,
        change: str,
        by: str,
        now: float,
        details: dict[str, Any],
    ) -> None:
        line: dict[str, Any] = {"id": new_id("ie_"), "incident_id": incident.id, "change": change}
        line |= {"by": by, "at": now, "details": details}
        await connection.execute(insert(incident_events).values(**line))
        if incident.rule.webhook_id is None:
            return
        await connection.execute(
            insert(webhook_deliveries).values(
                id=new_id("msg_"),
                tenant_id=incident.tenant_id,
                webhook_id=incident.rule.webhook_id,
                incident_id=incident.id,
                event=f"incident.{change}",
                body=told(incident, change, by, now, details),
                status="pending",
                attempts=0,
                next_at=now,
                created_at=now,
            )
        )

    def _closing(self, incident: Incident, by: str, reason: str) -> dict[str, Any]:
        values = {"state": "closed", "closed_at": self.clock(), "closed_by": by, "reason": reason}
        if incident.action in ("waiting", "due"):
            values["action"] = "dropped"
        return {**values, "escalates_at": None}


def _require_open(incident: Incident) -> None:
    if incident.closed_at is not None:
        raise Conflict("This incident is closed. If its condition comes back, another one opens.")
