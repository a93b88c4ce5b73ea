"""Erases a person's data by a durable job, and reports what was found and removed where."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update

from app.errors import Conflict, NotFound
from app.gateway.call import Call, Principal
from app.gateway.keys import KeyStore
from app.gateway.person import Person
from app.ids import new_id
from app.store.db import Database
from app.store.jobs import Job, Jobs
from app.store.models_audit import audit_erasures

KIND = "audit_erasure"
Govern = Callable[..., AbstractAsyncContextManager[Call]]
Count = Callable[[Person], Awaitable[int]]
Remove = Callable[[Person, str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where data of a person can lie; what is not removed has a reason to stay.

    ``left`` is asked afterwards in place of ``count``, where that counts what came since.
    """

    name: str
    told: str
    count: Count
    remove: Remove | None = None  # None: it stays
    left: Count | None = None


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure; the person's name is gone from it when it is over."""

    id: str
    tenant_id: str
    job_id: str
    user: str | None
    subject: str | None
    named_sha256: str
    report: dict[str, Any] | None
    created_at: float
    ended_at: float | None


class Erasures:
    """Two steps: remove from every place, then look into every place again.

    Args:
        places: in the order in which they are gone through.
        unfound: what cannot be found by person, in sentences for the report.
        sub_is_user: whether a token's ``sub`` is the user that access lists know.
    """

    def __init__(
        self,
        db: Database,
        jobs: Jobs,
        keys: KeyStore,
        places: Sequence[Place],
        unfound: Sequence[str],
        sub_is_user: bool,
    ) -> None:
        self._db, self._jobs, self._keys = db, jobs, keys
        self._places, self._unfound, self._sub_is_user = places, unfound, sub_is_user
        self.govern: Govern | None = None  # set once by the wiring, before any job runs
        jobs.register(KIND, [("remove", self._remove), ("check", self._check)], self._ended)

    # -- what the doors call ------------------------------------------------------------

    async def begin(self, call: Call, user: str | None, subject: str | None) -> Erasure:
        """Start an erasure for a user, or for the subject of a key or token; durable on return."""
        erasure_id = new_id("era_")
        named = hashlib.sha256(f"{erasure_id}\0{user or subject}".encode()).hexdigest()
        erasure = Erasure(
            erasure_id,
            call.tenant_id,
            new_id("job_"),
            user,
            subject,
            named,
            None,
            time.time(),
            None,
        )
        values = {name: getattr(erasure, name) for name in Erasure.__dataclass_fields__}
        async with self._db.write() as connection:
            await connection.execute(insert(audit_erasures).values(values))
        # the name itself is in no argument: the records of jobs stay
        args = {"erasure_id": erasure_id, "subject": call.principal.subject}
        await self._jobs.submit(call.tenant_id, KIND, args, erasure.job_id)
        return erasure

    async def get(self, tenant_id: str, erasure_id: str) -> Erasure:
        """Raises NotFound for an unknown id, or another tenant's."""
        table = audit_erasures.c
        query = select(audit_erasures).where(table.id == erasure_id, table.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("erasure", erasure_id)
        return Erasure(**row)

    async def resume(self) -> None:
        """Start what was recorded by a call that a crash cut."""
        rows = await self._db.rows(
            select(audit_erasures).where(audit_erasures.c.ended_at.is_(None))
        )
        known = await self._jobs.statuses([row["job_id"] for row in rows])
        for row in rows:
            if row["job_id"] not in known:
                args = {"erasure_id": row["id"], "subject": "system:resume"}
                await self._jobs.submit(row["tenant_id"], KIND, args, row["job_id"])

    async def person(self, erasure: Erasure) -> Person:
        """Who is meant, with all names that the person has in the tables."""
        tenant_id, user, sub, keys = erasure.tenant_id, erasure.user, None, list[str]()
        if user is not None:
            keys = await self._keys.keys_of(tenant_id, user)
            sub = user if self._sub_is_user else None
        elif erasure.subject is not None:
            kind, _, name = erasure.subject.partition(":")
            if kind == "key":
                keys = await self._keys.line_of(tenant_id, name)
            else:
                sub = name
                user = name if self._sub_is_user else None
        return Person.known(tenant_id, user, keys, sub)

    # -- the steps of the job -----------------------------------------------------------

    async def _remove(self, job: Job) -> None:
        async with self._governed(job, "remove") as call:
            erasure = await self.get(job.tenant_id, job.args["erasure_id"])
            report, person = erasure.report or {"places": {}}, await self._whom(erasure)
            for place in self._places:
                if place.remove is None:
                    continue
                told = report["places"].setdefault(place.name, {"told": place.told})
                now = await place.count(person)
                # what an attempt removed that a crash cut is not found any more
                told.setdefault("found", now)
                told["found"] = max(told["found"], now)
                await self._keep(erasure, report)
                told["removed"] = told["found"] - now
                told["removed"] += await place.remove(person, f"erasure {erasure.id}")
                await self._keep(erasure, report)
            call.lineage["removed"] = _sums(report, "removed")

    async def _check(self, job: Job) -> None:
        async with self._governed(job, "check") as call:
            erasure = await self.get(job.tenant_id, job.args["erasure_id"])
            report, person = erasure.report or {"places": {}}, await self._whom(erasure)
            report["kept"] = {}
            for place in self._places:
                if place.remove is None:
                    kept = await place.count(person)
                    report["kept"][place.name] = {"told": place.told, "count": kept}
                    continue
                told, look = report["places"][place.name], place.left or place.count
                left = await look(person)
                if left:  # written by a call that was under way
                    told["found"] += left
                    told["removed"] += await place.remove(person, f"erasure {erasure.id}")
                    left = await look(person)
                told["left"] = left
            report["not_found_by_person"] = list(self._unfound)
            report["complete"] = _sums(report, "left") == 0
            call.lineage["left"] = _sums(report, "left")
            await self._keep(erasure, report)
            if not report["complete"]:
                raise Conflict(
                    "Something of the person was written while it was removed. End the person's "
                    "calls, and ask for the erasure again.",
                    code="erasure_incomplete",
                )
            await self._over(erasure.id)

    async def _whom(self, erasure: Erasure) -> Person:
        """The person; keys are asked for once, since a later attempt finds them no more."""
        report = erasure.report or {}
        known = report.get("_person")
        if known is not None:
            subjects, owners = frozenset(known["subjects"]), frozenset(known["owners"])
            return Person(erasure.tenant_id, known["user"], subjects, owners)
        return await self.person(erasure)

    async def _keep(self, erasure: Erasure, report: dict[str, Any]) -> None:
        if "_person" not in report and not report.get("complete"):
            person = await self.person(erasure)
            report["_person"] = {
                "user": person.user,
                "subjects": sorted(person.subjects),
                "owners": sorted(person.owners),
            }
        async with self._db.write() as connection:
            mine = audit_erasures.c.id == erasure.id
            await connection.execute(update(audit_erasures).where(mine).values(report=report))

    async def _over(self, erasure_id: str) -> None:
        """The name goes from the erasure itself."""
        mine = audit_erasures.c.id == erasure_id
        async with self._db.write() as connection:
            report = await connection.scalar(select(audit_erasures.c.report).where(mine))
            shown = {name: value for name, value in (report or {}).items() if name != "_person"}
            await connection.execute(
                update(audit_erasures)
                .where(mine)
                .values(user=None, subject=None, report=shown or None, ended_at=time.time())
            )

    async def _ended(self, job: Job, status: str, message: str) -> None:
        await self._over(job.args["erasure_id"])

    def _governed(self, job: Job, step: str) -> AbstractAsyncContextManager[Call]:
        assert self.govern is not None
        principal = Principal(job.tenant_id, job.args["subject"], None, frozenset())
        return self.govern("job", f"job:{KIND}/{step}", principal, duty=True)


def _sums(report: dict[str, Any], what: str) -> int:
    return sum(place.get(what, 0) for place in report["places"].values())
