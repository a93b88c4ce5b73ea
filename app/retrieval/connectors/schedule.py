"""When connectors sync: each sync is claimed once, begun as a job, and its end is recorded."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.ids import new_id
from app.retrieval.connectors.connector import Connector
from app.store.db import Database
from app.store.jobs import FINAL, Job, Jobs
from app.store.models import connector_items, connectors

KIND = "sync_connector"
AT_ONCE = 100  # connectors that one look begins
LEAST_S = 5.0  # between the end of a sync and one that a change brings forward
LOST_S = 30.0  # after which a claim whose job nobody submitted is taken up
_C = connectors.c
_IDLE = or_(_C.began_at.is_(None), _C.ended_at.is_not(None))
_RUNNING = and_(_C.began_at.is_not(None), _C.ended_at.is_(None))


class Schedule:
    """Claims and ends the syncs of all gateways on one database.

    A claim is one conditional UPDATE that records the id of the job to come, so that two
    gateways start it once, and a crash before it is submitted does not lose it.
    """

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db, self._jobs = db, jobs

    async def look(self) -> int:
        """Begin what is due and take up what a crash left; returns how many are not fresh."""
        now = time.time()
        await self._take_up(now)
        due = _is_due(now)
        async with self._db.read() as connection:
            query = select(_C.id).where(_IDLE, due).order_by(_C.next_sync_at).limit(AT_ONCE)
            found = list(await connection.scalars(query))
        for connector_id in found:
            await self.begin(connector_id, due)
        return await self._not_fresh(now)

    async def begin(
        self, connector_id: str, *conditions: ColumnElement[bool], allow_removal: bool = False
    ) -> str | None:
        """Claim a sync and submit its job; returns the job's id, None where one runs."""
        job_id, now = new_id("job_"), time.time()
        async with self._db.write() as connection:
            tenant_id = await connection.scalar(
                update(connectors)
                .where(_C.id == connector_id, _IDLE, *conditions)
                .values(
                    job_id=job_id,
                    began_at=now,
                    next_sync_at=now + _C.freshness_s / 2.0,
                    ended_at=None,
                    error=None,
                    counts=None,
                    removed=0,
                    allow_removal=allow_removal,
                )
                .returning(_C.tenant_id)
            )
        if tenant_id is None:
            return None
        await self._submit(tenant_id, connector_id, job_id)
        return job_id

    async def wake(self, source: str) -> None:
        """Bring forward the next sync of what follows a source: something has changed there.

        A change while a sync runs is for the next one, since its listing may have passed it by.
        Connectors that fail keep to their growing pauses.
        """
        now = time.time()
        soonest = case((_C.ended_at > now - LEAST_S, _C.ended_at + LEAST_S), else_=now)
        following = (_C.source == source, _C.enabled, _C.deleted_at.is_(None), _C.failures == 0)
        async with self._db.write() as connection:
            await connection.execute(
                update(connectors)
                .where(*following, _C.next_sync_at > soonest)
                .values(next_sync_at=soonest)
            )

    async def _submit(self, tenant_id: str, connector_id: str, job_id: str) -> None:
        args = {"connector_id": connector_id, "subject": f"connector:{connector_id}"}
        await self._jobs.submit(tenant_id, KIND, args, job_id)

    async def _take_up(self, now: float) -> None:
        """Submit claimed syncs whose gateway died, and end those whose end was not told."""
        query = select(_C.id, _C.tenant_id, _C.job_id).where(_RUNNING, _C.began_at < now - LOST_S)
        async with self._db.read() as connection:
            running = (await connection.execute(query)).all()
        status = await self._jobs.statuses([r.job_id for r in running])
        for connector_id, tenant_id, job_id in running:
            found = status.get(job_id)
            if found is None:
                await self._submit(tenant_id, connector_id, job_id)
            elif found in FINAL:
                job = Job(job_id, tenant_id, KIND, {"connector_id": connector_id})
                await self.ended(job, found, "The sync was broken off.")

    async def _not_fresh(self, now: float) -> int:
        query = select(func.count()).where(
            _C.enabled,
            _C.deleted_at.is_(None),
            or_(_C.whole_at.is_(None), _C.whole_at + _C.freshness_s < now),
        )
        async with self._db.read() as connection:
            return int(await connection.scalar(query) or 0)

    async def late(self, tenant_id: str) -> dict[str, list[str]]:
        """By vector store of a tenant, the connectors whose last whole sync is too old.

        One that was never synced whole is late when its freshness has passed since it was made.
        """
        whole_at = func.coalesce(_C.whole_at, _C.created_at)
        query = (
            select(_C.vector_store_id, _C.id)
            .where(_C.tenant_id == tenant_id, _C.enabled, _C.deleted_at.is_(None))
            .where(whole_at + _C.freshness_s < time.time())
            .order_by(_C.id)
        )
        found: dict[str, list[str]] = {}
        for row in await self._db.rows(query):
            found.setdefault(row["vector_store_id"], []).append(row["id"])
        return found

    # -- what a sync asks and tells -----------------------------------------------------

    async def current(self, job: Job) -> Connector | None:
        """The connector whose newest sync is this job; None where it is deleted, or over."""
        row = await self._db.one_or_none(select(connectors).where(_is_of(job)))
        return None if row is None else Connector(**row)

    async def goes_on(self, job: Job) -> bool:
        """Whether the sync is still wanted: neither cancelled nor its connector deleted."""
        connector = await self.current(job)
        if connector is None or connector.deleted_at is not None:
            return False
        return (await self._jobs.statuses([job.id])).get(job.id) not in FINAL

    async def note_error(self, job: Job, code: str, message: str) -> None:
        """Note why a sync is about to fail."""
        error = {"code": code, "message": message}
        async with self._db.write() as connection:
            await connection.execute(update(connectors).where(_is_of(job)).values(error=error))

    async def ended(self, job: Job, status: str, message: str) -> None:
        """A sync that failed or was cancelled: try again later, each time after longer."""
        async with self._db.write() as connection:
            row = (await connection.execute(select(connectors).where(_is_of(job)))).mappings()
            found = row.one_or_none()
            if found is None:
                return
            connector = Connector(**found)
            code = "cancelled" if status == "cancelled" else "sync_failed"
            now = time.time()
            await connection.execute(
                update(connectors)
                .where(_is_of(job))
                .values(
                    ended_at=now,
                    error=connector.error or {"code": code, "message": message},
                    failures=connector.failures + 1,
                    next_sync_at=now + connector.delay_s(),
                    counts=await _counts(connection, connector),
                )
            )

    async def completed(self, job: Job) -> dict[str, int] | None:
        """A sync that came to its end; returns its counts, None where it was deleted by then."""
        async with self._db.write() as connection:
            about = select(connectors).where(_is_of(job), _C.deleted_at.is_(None))
            row = (await connection.execute(about.with_for_update())).mappings().one_or_none()
            if row is None:
                return None
            connector, now = Connector(**row), time.time()
            counts = await _counts(connection, connector)
            # from beginning to beginning: half of the freshness is then left for the sync
            soon = (connector.began_at or now) + connector.freshness_s / 2
            if connector.next_sync_at is not None:
                soon = min(soon, connector.next_sync_at)  # a change brought it forward
            await connection.execute(
                update(connectors)
                .where(_is_of(job))
                .values(
                    ended_at=now,
                    whole_at=now,
                    error=None,
                    failures=0,
                    next_sync_at=max(now, soon),
                    counts=counts,
                )
            )
        return counts


def _is_of(job: Job) -> Any:
    return and_(_C.id == job.args["connector_id"], _C.job_id == job.id, _C.ended_at.is_(None))


def _is_due(now: float) -> ColumnElement[bool]:
    return and_(_C.next_sync_at <= now, or_(_C.enabled, _C.deleted_at.is_not(None)))


async def _counts(connection: AsyncConnection, connector: Connector) -> dict[str, int]:
    """What the newest listing found and what became of it, in documents."""
    table = connector_items.c
    query = (
        select(table.status, table.outcome, table.done_in, func.count())
        .where(table.connector_id == connector.id, table.listing == connector.listing)
        .group_by(table.status, table.outcome, table.done_in)
    )
    counts = dict.fromkeys(("found", "added", "changed", "removed", "failed", "unchanged"), 0)
    counts["removed"] = connector.removed
    if connector.listed != connector.listing:
        return counts
    for status, outcome, done_in, count in await connection.execute(query):
        counts["found"] += count
        if status == "failed":
            counts["failed"] += count
        elif status == "completed":
            counts[outcome if done_in == connector.listing else "unchanged"] += count
    return counts
