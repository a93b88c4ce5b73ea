"""Takes records and bodies out of an audit chain, with a signed statement in their place."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, delete, func, insert, select, text, update

from app.errors import Conflict
from app.ids import new_id
from app.monitoring.signing import AuditKeys, KeyRing, canonical
from app.monitoring.verification import ring_of, with_bodies
from app.monitoring.verifying import GENESIS, Broken, ChainCheck, digest
from app.store.db import Database
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_bodies, audit_checkpoints, audit_tombstones

AT_ONCE = 500  # records in one transaction: calls that commit meanwhile wait for it
APART_AT_ONCE = 100  # where each may be a statement of its own


class Part(NamedTuple):
    """How many were removed, and up to which record was looked; None: there is nothing left."""

    removed: int
    reached: int | None


class Removal:
    """Removes what was found whole; each transaction leaves a chain that verifies.

    Whatever is removed is verified in the same transaction, so that damage is never signed
    away: a broken part stays, and the work fails.
    """

    def __init__(self, db: Database, keys: AuditKeys) -> None:
        self._db, self._keys = db, keys

    def last_before(self, tenant_id: str, when: float) -> int:
        """The last record before the first whose call began at ``when`` or later; 0: none."""
        mine = audit.c.tenant_id == tenant_id
        with self._db.sync_engine.connect() as connection, connection.begin():
            first = connection.scalar(select(func.min(audit.c.seq)).where(mine, audit.c.at >= when))
            if first is not None:
                return int(first) - 1
            return int(connection.scalar(select(func.max(audit.c.seq)).where(mine)) or 0)

    def records(self, tenant_id: str, upto: int, reason: str, after: int = 0) -> Part:
        """Remove the oldest records up to this one, a part at a time.

        Raises:
            Conflict: that part of the chain is damaged.
        """
        with self._changing(tenant_id) as (connection, ring):
            oldest = select(func.min(audit.c.seq)).where(audit.c.tenant_id == tenant_id)
            first = int(connection.scalar(oldest) or upto + 1)
            last = min(upto, first + AT_ONCE - 1)
            if first > last:
                return Part(0, None)
            before = GENESIS if first == 1 else self._removed_upto(connection, tenant_id, first - 1)
            rows = self._whole(connection, ring, tenant_id, first, last, before)
            self._state(connection, "records", rows, reason)
            last = rows[-1]["seq"]
            for table in (audit, audit_bodies):
                mine = (table.c.tenant_id == tenant_id) & table.c.seq.between(first, last)
                connection.execute(delete(table).where(mine))
        return Part(len(rows), last)

    def bodies(self, tenant_id: str, upto: int, reason: str, after: int = 0) -> Part:
        """Remove the oldest bodies of records up to this one, a part at a time.

        Args:
            after: where the part before this one ended.

        Raises:
            Conflict: that part of the chain is damaged.
        """
        with self._changing(tenant_id) as (connection, ring):
            first = _first_bodies(connection, tenant_id, after, upto)
            if first is None:
                return Part(0, None)
            last = min(upto, first + AT_ONCE - 1)
            rows = self._whole(connection, ring, tenant_id, first, last)
            return Part(self._without_bodies(connection, rows, reason), last)

    def bodies_of(self, tenant_id: str, seqs: Sequence[int], reason: str) -> int:
        """Remove the bodies of these records, given in order; how many there were.

        Raises:
            Conflict: a record, or its bodies, is damaged.
        """
        removed = 0
        for start in range(0, len(seqs), APART_AT_ONCE):
            with self._changing(tenant_id) as (connection, ring):
                for first, last in _runs(seqs[start : start + APART_AT_ONCE]):
                    rows = self._whole(connection, ring, tenant_id, first, last)
                    removed += self._without_bodies(connection, rows, reason)
        return removed

    # -- within one transaction ---------------------------------------------------------

    @contextmanager
    def _changing(self, tenant_id: str) -> Iterator[tuple[Connection, KeyRing]]:
        """A transaction in which nobody else removes anything of the chain."""
        with self._db.sync_engine.connect() as connection:
            connection = connection.execution_options(ostiary_write=True)
            with connection.begin():
                if not self._db.is_sqlite:
                    lock = {"of": zlib.crc32(tenant_id.encode()) | 1 << 40}
                    connection.execute(text("SELECT pg_advisory_xact_lock(:of)"), lock)
                yield connection, ring_of(connection, self._keys.trusted)

    def _removed_upto(self, connection: Connection, tenant_id: str, seq: int) -> str:
        """The hash of the last record that was removed before."""
        table = audit_tombstones.c
        query = select(table.hash_after).where(
            table.tenant_id == tenant_id, table.to_seq == seq, table.data_class == "records"
        )
        found = connection.scalar(query.limit(1))
        if found is None:
            raise _damaged(f"record {seq} is missing")
        return str(found)

    def _whole(
        self,
        connection: Connection,
        ring: KeyRing,
        tenant_id: str,
        first: int,
        last: int,
        before: str | None = None,
    ) -> list[dict[str, Any]]:
        """The records from first to last, verified, with what was signed of them."""
        query = with_bodies().where(
            audit.c.tenant_id == tenant_id, audit.c.seq.between(first, last)
        )
        found = connection.execute(query.order_by(audit.c.seq)).mappings()
        rows = [dict(row) for row in found]
        if not rows:
            return rows
        check = ChainCheck(
            tenant_id,
            ring,
            first_seq=first,
            hash_before=before or rows[0]["prev_hash"],
            all_checkpoints=False,
        )
        signed, removed = audit_checkpoints.c, audit_tombstones.c
        points = select(audit_checkpoints).where(
            signed.tenant_id == tenant_id, signed.seq.between(first, rows[-1]["seq"])
        )
        stones = select(audit_tombstones).where(
            removed.tenant_id == tenant_id,
            removed.data_class == "bodies",
            removed.from_seq <= last,
            removed.to_seq >= first,
        )
        try:
            for point in connection.execute(points).mappings():
                check.anchor(point)
            for stone in connection.execute(stones).mappings():
                check.tombstone(stone)
            for row in rows:
                check.record(row)
        except Broken as broken:
            raise _damaged(broken.fault.told) from None
        return rows

    def _without_bodies(
        self, connection: Connection, rows: list[dict[str, Any]], reason: str
    ) -> int:
        apart = [row for row in rows if row["bodies"] is not None]
        if apart:
            part = [row for row in rows if apart[0]["seq"] <= row["seq"] <= apart[-1]["seq"]]
            self._state(connection, "bodies", part, reason)
            connection.execute(
                delete(audit_bodies).where(
                    audit_bodies.c.tenant_id == apart[0]["tenant_id"],
                    audit_bodies.c.seq.between(apart[0]["seq"], apart[-1]["seq"]),
                )
            )
        inside = [(row, orjson.loads(row["record"])) for row in rows]
        written = [(row, record) for row, record in inside if record.pop("bodies", None)]
        for row, record in written:
            anew = canonical(record)
            self._state(connection, "bodies", [row], reason, digest(anew))
            connection.execute(
                update(audit)
                .where(audit.c.tenant_id == row["tenant_id"], audit.c.seq == row["seq"])
                .values(record=anew)
            )
        return len(apart) + len(written)

    def _state(
        self,
        connection: Connection,
        data_class: str,
        rows: list[dict[str, Any]],
        reason: str,
        record_sha256: str | None = None,
    ) -> None:
        stated = {
            "id": new_id("ats_"),
            "tenant_id": rows[0]["tenant_id"],
            "data_class": data_class,
            "from_seq": rows[0]["seq"],
            "to_seq": rows[-1]["seq"],
            "hash_before": rows[0]["prev_hash"],
            "hash_after": rows[-1]["hash"],
            "record_sha256": record_sha256,
            "reason": reason,
            "at": time.time(),
        }
        connection.execute(insert(audit_tombstones).values(self._keys.signed("tombstone", stated)))


def _first_bodies(connection: Connection, tenant_id: str, after: int, upto: int) -> int | None:
    """The oldest of the records after one that has bodies, apart or in itself."""
    table = audit_bodies.c
    apart = select(func.min(table.seq)).where(
        table.tenant_id == tenant_id, table.seq > after, table.seq <= upto
    )
    inline = select(audit_heads.c.inline_until).where(audit_heads.c.tenant_id == tenant_id)
    found = [connection.scalar(apart)]
    until = int(connection.scalar(inline) or 0)
    if until:
        seq = audit.c.seq
        mine = (audit.c.tenant_id == tenant_id) & (seq > after) & (seq <= min(upto, until))
        oldest = select(func.min(seq)).where(mine, holds_bodies())
        found.append(connection.scalar(oldest))
    return min((int(seq) for seq in found if seq is not None), default=None)


def holds_bodies() -> Any:
    """Whether a record has bodies in itself, as those of before had."""
    return audit.c.record.like('%"bodies":{%')


def _runs(seqs: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers: the first and the last of each."""
    runs: list[tuple[int, int]] = []
    for seq in seqs:
        if runs and seq == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], seq)
        else:
            runs.append((seq, seq))
    return runs


def _damaged(told: str) -> Conflict:
    return Conflict(
        f"The audit chain is damaged, so nothing more of it is removed: {told}. Run "
        "`ostiary audit verify`, and keep the database as it is for those who look into it.",
        code="audit_damaged",
    )
