"""The audit records of one person: found, and parted from their bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import orjson
from sqlalchemy import select

from app.gateway.person import Person
from app.monitoring.removal import Removal
from app.monitoring.verification import with_bodies
from app.store.db import Database
from app.store.models import audit
from app.store.models_audit import audit_bodies


class PersonRecords:
    """Records stay, since the law asks for them; what was said in the calls goes."""

    def __init__(self, db: Database, removal: Removal) -> None:
        self._db, self._removal = db, removal

    async def count(self, person: Person) -> int:
        """Records that name the person."""
        return await asyncio.to_thread(lambda: sum(1 for _ in self._seqs(person, False)))

    async def count_bodies(self, person: Person) -> int:
        """Those with bodies."""
        return await asyncio.to_thread(lambda: sum(1 for _ in self._seqs(person, True)))

    async def remove_bodies(self, person: Person, reason: str) -> int:
        """Remove the bodies, with signed statements; returns how many records had them.

        Raises:
            Conflict: such a record is damaged.
        """
        return await asyncio.to_thread(self._remove_bodies, person, reason)

    def _remove_bodies(self, person: Person, reason: str) -> int:
        seqs = list(self._seqs(person, True))
        return self._removal.bodies_of(person.tenant_id, seqs, reason)

    def _seqs(self, person: Person, with_their_bodies: bool) -> Iterator[int]:
        query = with_bodies() if with_their_bodies else select(audit.c.seq, audit.c.record)
        if with_their_bodies:
            inside = audit.c.record.like('%"bodies":{%')
            query = query.where(audit_bodies.c.seq.is_not(None) | inside)
        query = query.where(audit.c.tenant_id == person.tenant_id).order_by(audit.c.seq)
        with self._db.sync_engine.connect() as connection, connection.begin():
            rows = connection.execution_options(yield_per=1000).execute(query)
            for row in rows.mappings():
                if person.made(orjson.loads(row["record"])):
                    yield int(row["seq"])
