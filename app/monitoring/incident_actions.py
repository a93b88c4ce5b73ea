"""The actions of incidents: each begun once, under a cool-down, and followed to its end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import OstiaryError
from app.gateway.call import Call
from app.ids import new_id
from app.monitoring.incident import SYSTEM, Incident
from app.monitoring.incidents import Incidents
from app.store.db import Database
from app.store.jobs import FINAL, Jobs
from app.store.models_incidents import alert_cooldowns, incidents

log = logging.getLogger("ostiary.incidents")
LOST_S = 60.0  # after which an action whose gateway died is taken up
LONGEST_ERROR = 300
UNSURE = (
    "The gateway ended while the action was begun. It is not begun again by itself, since it may "
    "have been done: look, and do it by hand if not."
)
Begin = Callable[[Call, Incident, str], Awaitable[bool]]
_I = incidents.c


class _Cooling(Exception):
    """The cool-down of a target is not over."""


class IncidentActions:
    """Takes what is due to its job.

    A claim records the id of the job to come, with the cool-down, in one transaction: two
    gateways begin an action once, and a crash in between does not lose it.

    Args:
        begin: does the action of an incident for a call, by a job of this id where it takes
            one; returns whether it does.
    """

    def __init__(self, db: Database, jobs: Jobs, incidents: Incidents, begin: Begin) -> None:
        self._db, self._jobs, self._incidents, self._begin = db, jobs, incidents, begin

    async def look(self) -> None:
        """Begin what is due, take up what a crash left, and note what is over."""
        wanted = select(incidents).where(_I.action.in_(("due", "starting", "started")))
        rows = await self._db.rows(wanted)
        under_way = [row["job_id"] for row in rows if row["job_id"] is not None]
        statuses = await self._jobs.statuses(under_way)
        for row in rows:
            incident = Incident.from_row(row)
            try:
                await self._look_at(incident, statuses.get(incident.job_id or ""))
            except Exception:
                log.exception("the action of incident %s could not be looked at", incident.id)

    async def _look_at(self, incident: Incident, status: str | None) -> None:
        if incident.action == "due":
            await self._claim(incident)
        elif incident.action == "started":
            if status in FINAL:
                done = status == "completed"
                error = None if done else f"The job {status}; GET /v1/jobs tells why."
                await self._end(incident, error)
        elif status is not None:
            await self._note(incident, "action_started", {"action": "started"})
        elif (incident.action_at or 0.0) + LOST_S <= self._incidents.clock():
            await self._take_up(incident)

    async def _claim(self, incident: Incident) -> None:
        now, job_id = self._incidents.clock(), new_id("job_")
        values = {"action": "starting", "action_at": now, "job_id": job_id}
        try:
            async with self._db.write() as connection:
                claimed = await self._incidents.change_in(
                    connection, incident, None, SYSTEM, values
                )
                if claimed is None:
                    return  # another gateway's
                await self._cool(connection, incident, now)
        except _Cooling:
            return  # the next look tries again
        await self._do(claimed)

    async def _cool(self, connection: AsyncConnection, incident: Incident, now: float) -> None:
        """Begin the cool-down of the action's target; raises _Cooling while one is not over."""
        rule = incident.rule
        row: dict[str, Any] = {"tenant_id": incident.tenant_id, "action": rule.action}
        row |= {"target": rule.target(incident.subject), "at": now}
        taken = (
            self._db.insert(alert_cooldowns)
            .values(**row)
            .on_conflict_do_update(
                index_elements=["tenant_id", "action", "target"],
                set_={"at": now},
                where=alert_cooldowns.c.at <= now - rule.cooldown_s,
            )
            .returning(alert_cooldowns.c.at)
        )
        if await connection.scalar(taken) is None:
            raise _Cooling

    async def _take_up(self, incident: Incident) -> None:
        """A claim whose job nobody submitted: a job may be submitted again, a model's may not."""
        if incident.rule.model is not None:
            await self._end(incident, UNSURE)
            return
        values = {"action_at": self._incidents.clock()}
        again = await self._incidents.change(incident, None, SYSTEM, values)
        if again is not None:
            await self._do(again)

    async def _do(self, incident: Incident) -> None:
        assert incident.job_id is not None
        try:
            async with self._incidents.governed(incident, "action") as call:
                call.lineage["incident"] |= {
                    "action": incident.rule.action,
                    "target": incident.rule.target(incident.subject),
                }
                by_job = await self._begin(call, incident, incident.job_id)
        except OstiaryError as error:
            await self._end(incident, error.message)
            return
        if by_job:
            await self._note(incident, "action_started", {"action": "started"})
        else:
            await self._end(incident, None)

    async def _end(self, incident: Incident, error: str | None) -> None:
        error = None if error is None else error[:LONGEST_ERROR]
        values: dict[str, Any] = {"action_error": error}
        values["action"] = "completed" if error is None else "failed"
        if incident.action == "starting":
            values["job_id"] = None  # none was submitted
        change = f"action_{values['action']}"
        await self._note(incident, change, values, {} if error is None else {"error": error})

    async def _note(
        self,
        incident: Incident,
        change: str,
        values: dict[str, Any],
        details: dict[str, Any] | None = None,
    ) -> None:
        """Change the incident, also where somebody else changes it at the same moment."""
        found = incident
        while found.action == incident.action:
            if await self._incidents.governed_change(found, change, values, details) is not None:
                return
            found = await self._incidents.get(incident.tenant_id, incident.id)
