"""How long the audit log is kept: by tenant and class of data, done by a durable job."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from sqlalchemy import delete, select

from app.gateway.call import Call, Principal
from app.ids import new_id
from app.monitoring.removal import Part, Removal
from app.store.db import Database
from app.store.jobs import Job, Jobs
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_retention

KIND = "audit_retention"
DAY_S = 86_400.0
PAUSE_S = 0.005  # between parts, so that calls commit in between
Govern = Callable[..., AbstractAsyncContextManager[Call]]


@dataclass(frozen=True, slots=True)
class Policy:
    """Days that records, and the bodies kept with them, stay; None: for ever.

    ``own`` tells that it is the tenant's, not the settings'.
    """

    records_days: float | None
    bodies_days: float | None
    own: bool = False


class Retention:
    """Removes what is older than a tenant's policy allows, once a day and when asked to.

    A job of two steps removes bodies, then records, in parts of some hundred. Each part is one
    transaction with its signed statement, so after a kill the job goes on where it was.
    """

    def __init__(self, db: Database, jobs: Jobs, removal: Removal, default: Policy) -> None:
        self._db, self._jobs, self._removal, self._default = db, jobs, removal, default
        self.govern: Govern | None = None  # set once by the wiring, before any job runs
        jobs.register(KIND, [("bodies", self._bodies), ("records", self._records)])

    # -- what the doors call ------------------------------------------------------------

    async def policy(self, tenant_id: str) -> Policy:
        """What holds for a tenant."""
        query = select(audit_retention).where(audit_retention.c.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            return self._default
        return Policy(row["records_days"], row["bodies_days"], True)

    async def set(self, tenant_id: str, policy: Policy | None) -> None:
        """Give a tenant a policy of its own; None: that of the settings again."""
        async with self._db.write() as connection:
            mine = audit_retention.c.tenant_id == tenant_id
            await connection.execute(delete(audit_retention).where(mine))
            if policy is not None:
                await connection.execute(
                    self._db.insert(audit_retention).values(
                        tenant_id=tenant_id,
                        records_days=policy.records_days,
                        bodies_days=policy.bodies_days,
                        updated_at=time.time(),
                    )
                )

    async def begin(self, tenant_id: str, subject: str, job_id: str | None = None) -> str:
        """Start removing what is too old by now; returns the id of the job."""
        policy, now = await self.policy(tenant_id), time.time()
        args = {
            "subject": subject,
            "bodies_before": _before(now, policy.bodies_days),
            "bodies_reason": f"bodies are kept {policy.bodies_days or 0:g} days",
            "records_before": _before(now, policy.records_days),
            "records_reason": f"records are kept {policy.records_days or 0:g} days",
        }
        return await self._jobs.submit(tenant_id, KIND, args, job_id or new_id("job_"))

    async def look(self) -> None:
        """Start the day's job of each tenant that has something too old."""
        own = await self._db.rows(select(audit_retention.c.tenant_id).limit(1))
        if not own and self._default == Policy(None, None):
            return  # nothing ever goes, so nothing is looked through
        now = time.time()
        first = select(audit.c.at).where(audit.c.tenant_id == audit_heads.c.tenant_id)
        oldest = first.order_by(audit.c.seq).limit(1).scalar_subquery()
        for row in await self._db.rows(select(audit_heads.c.tenant_id, oldest.label("at"))):
            tenant_id, policy = row["tenant_id"], await self.policy(row["tenant_id"])
            days = [d for d in (policy.records_days, policy.bodies_days) if d is not None]
            if days and row["at"] is not None and row["at"] < now - min(days) * DAY_S:
                await self.begin(tenant_id, "system:retention", _job_of(tenant_id, now))

    # -- the steps of the job -----------------------------------------------------------

    async def _bodies(self, job: Job) -> None:
        await self._remove(job, "bodies", self._removal.bodies)

    async def _records(self, job: Job) -> None:
        await self._remove(job, "records", self._removal.records)

    async def _remove(self, job: Job, data_class: str, remove: Callable[..., Part]) -> None:
        before: float | None = job.args[f"{data_class}_before"]
        if before is None:
            return
        assert self.govern is not None
        principal = Principal(job.tenant_id, job.args["subject"], None, frozenset())
        reason = job.args[f"{data_class}_reason"]
        async with self.govern("job", f"job:{KIND}/{data_class}", principal, duty=True) as call:
            call.lineage.update(job=job.id, removed=0)
            last = await asyncio.to_thread(self._removal.last_before, job.tenant_id, before)
            reached: int | None = 0
            while reached is not None:
                part = await asyncio.to_thread(remove, job.tenant_id, last, reason, reached)
                call.lineage["removed"] += part.removed
                reached = part.reached
                await asyncio.sleep(PAUSE_S)


def _before(now: float, days: float | None) -> float | None:
    return None if days is None else now - days * DAY_S


def _job_of(tenant_id: str, now: float) -> str:
    """One a tenant and day, whichever gateways look."""
    day = int(now // DAY_S)
    return f"job_{hashlib.sha256(f'{KIND}/{tenant_id}/{day}'.encode()).hexdigest()[:32]}"
