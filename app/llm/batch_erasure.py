"""Batches of a person: counted, stopped and removed with what was answered."""

from __future__ import annotations

import contextlib

from sqlalchemy import ColumnElement, delete, func, select

from app.errors import Conflict, NotFound
from app.gateway.person import Person
from app.llm.batches import OVER, job_of
from app.store.db import Database
from app.store.jobs import Jobs
from app.store.models import batch_lines, batches


class BatchErasure:
    """Their files are files like others, and go as these do."""

    def __init__(self, db: Database, jobs: Jobs) -> None:
        self._db, self._jobs = db, jobs

    async def count_of(self, person: Person) -> int:
        """How many batches the person has, and answers to lines of them."""
        mine = select(batches.c.id).where(_of(person))
        lines = select(func.count()).where(batch_lines.c.batch_id.in_(mine))
        async with self._db.read() as connection:
            found = await connection.scalar(select(func.count()).where(_of(person))) or 0
            return int(found) + int(await connection.scalar(lines) or 0)

    async def erase_of(self, person: Person) -> int:
        """Stop those under way, then forget all; returns how many batches and answers.

        A line that is being asked at that moment finds no batch to keep its answer in.
        """
        rows = await self._db.rows(select(batches.c.id, batches.c.status).where(_of(person)))
        for row in rows:
            if row["status"] not in OVER:
                with contextlib.suppress(Conflict, NotFound):  # it is over, or never began
                    await self._jobs.cancel(person.tenant_id, job_of(row["id"]))
        mine = select(batches.c.id).where(_of(person))
        async with self._db.write() as connection:
            lines = await connection.execute(
                delete(batch_lines).where(batch_lines.c.batch_id.in_(mine))
            )
            gone = await connection.execute(delete(batches).where(_of(person)))
        return int(lines.rowcount) + int(gone.rowcount)


def _of(person: Person) -> ColumnElement[bool]:
    return (batches.c.tenant_id == person.tenant_id) & person.owns(batches.c.owner)
