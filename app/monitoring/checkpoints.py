"""Signed checkpoints: what a chain's head was at a time, kept in SQL and in a file."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, select

from app.monitoring.signing import AuditKeys, canonical
from app.monitoring.verifying import CHECKPOINT, GENESIS, checkpoint_digest
from app.store.db import Database
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_checkpoints

log = logging.getLogger("ostiary.audit")


class BadCheckpointFile(ValueError):
    """The file cannot be read, or a line of it is no checkpoint."""


def read_file(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The checkpoints of a file by tenant, in the order of their lines.

    A last line without its end was cut by a crash while it was written, and is left out.

    Raises:
        BadCheckpointFile: it cannot be read, or a line is no checkpoint.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    break
                row = _checkpoint(line)
                if row is None:
                    raise BadCheckpointFile(f"line {number} of the checkpoint file is none")
                found.setdefault(row["tenant_id"], []).append(row)
    except OSError as error:
        raise BadCheckpointFile(
            f"the checkpoint file cannot be read ({error.strerror}); give its path, or mend it"
        ) from None
    return found


def _checkpoint(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or set(row) != set(CHECKPOINT):
        return None
    numbers = all(type(row[name]) is int for name in ("number", "seq"))
    texts = all(isinstance(row[n], str) for n in ("tenant_id", "hash", "previous", "signature"))
    return row if numbers and texts else None


class Checkpoints:
    """Takes checkpoints of the chains of one database.

    Args:
        path: the file that they are appended to besides; it may lie on another machine's disk.
        every_records: a chain gets one when it has grown by so many.
        every_s: or when its oldest record without one is so old, seconds.
        clock: Unix seconds.
    """

    def __init__(
        self,
        db: Database,
        keys: AuditKeys,
        path: Path,
        every_records: int,
        every_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._keys, self.path = db, keys, path
        self._every_records, self._every_s, self._clock = every_records, every_s, clock
        self._known: dict[str, int] = {}  # the seq of the newest checkpoint by tenant
        self._unwritten: list[bytes] = []  # lines that the file has not got yet
        self._taking = threading.Lock()

    async def look(self) -> None:
        """Take those that are due."""
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        self._keys.refresh()
        with self._db.sync_engine.connect() as connection, connection.begin():
            heads = connection.execute(select(audit_heads)).mappings().all()
            due = [str(h["tenant_id"]) for h in heads if self._is_due(connection, h)]
        if due or self._unwritten:
            self.take(due)

    def _is_due(self, connection: Connection, head: RowMapping) -> bool:
        tenant_id, seq = str(head["tenant_id"]), int(head["seq"])
        if tenant_id not in self._known:
            newest = _newest(connection, tenant_id)
            self._known[tenant_id] = 0 if newest is None else newest["seq"]
        last = self._known[tenant_id]
        if seq <= last:
            return False
        if seq - last >= self._every_records:
            return True
        first = select(audit.c.at).where(audit.c.tenant_id == tenant_id, audit.c.seq == last + 1)
        began = connection.scalar(first)
        return began is None or self._clock() - float(began) >= self._every_s

    def take(self, tenant_ids: list[str]) -> list[dict[str, Any]]:
        """Take a checkpoint of each of these chains; blocking.

        Returns the newest of each, which is an older one where nothing was added since. In SQL
        first, then in the file: what the file has, the database had.
        """
        found: list[dict[str, Any]] = []
        with self._taking:
            new: list[dict[str, Any]] = []
            with self._db.sync_engine.connect() as connection:
                connection = connection.execution_options(ostiary_write=True)
                with connection.begin():
                    for tenant_id in tenant_ids:
                        newest, made = self._one(connection, tenant_id)
                        found += [newest] if newest is not None else []
                        new += [newest] if newest is not None and made else []
            self._known.update({row["tenant_id"]: row["seq"] for row in found})
            self._unwritten += [canonical(row).encode() + b"\n" for row in new]
            self._write()
        return found

    def _one(self, connection: Connection, tenant_id: str) -> tuple[dict[str, Any] | None, bool]:
        """The newest checkpoint of a chain, and whether it was made now."""
        query = select(audit_heads).where(audit_heads.c.tenant_id == tenant_id)
        head = connection.execute(query).mappings().one_or_none()
        last = _newest(connection, tenant_id)
        if head is None or head["seq"] == 0 or (last is not None and last["seq"] == head["seq"]):
            return last, False
        stated = {
            "tenant_id": tenant_id,
            "number": 1 if last is None else last["number"] + 1,
            "seq": int(head["seq"]),
            "hash": str(head["hash"]),
            "previous": GENESIS if last is None else checkpoint_digest(last),
            "at": self._clock(),
        }
        row = self._keys.signed("checkpoint", stated)
        made = connection.execute(
            self._db.insert(audit_checkpoints)
            .values(row)
            .on_conflict_do_nothing()  # another gateway was quicker
            .returning(audit_checkpoints.c.number)
        )
        if made.first() is None:
            return _newest(connection, tenant_id), False
        return row, True

    def _write(self) -> None:
        """Append to the file what it has not got; tried again at the next look if it fails."""
        if not self._unwritten:
            return
        try:
            with self.path.open("a+b") as out:
                _drop_torn_line(out)
                out.write(b"".join(self._unwritten))
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            log.error("the checkpoint file cannot be written: %s", error.strerror)
            return
        self._unwritten.clear()

    async def page(
        self, tenant_id: str, *, limit: int, before: int | None = None
    ) -> list[dict[str, Any]]:
        """A tenant's checkpoints, newest first; ``before`` is a number."""
        table = audit_checkpoints.c
        query = select(audit_checkpoints).where(table.tenant_id == tenant_id)
        if before is not None:
            query = query.where(table.number < before)
        rows = await self._db.rows(query.order_by(table.number.desc()).limit(limit))
        return [dict(row) for row in rows]


def _newest(connection: Connection, tenant_id: str) -> dict[str, Any] | None:
    table = audit_checkpoints.c
    query = select(audit_checkpoints).where(table.tenant_id == tenant_id)
    row = connection.execute(query.order_by(table.number.desc()).limit(1)).mappings().first()
    return None if row is None else dict(row)


def _drop_torn_line(file: Any) -> None:
    """Cut off what a crash left of a line: its checkpoint is in SQL, later ones cover it."""
    end = file.seek(0, 2)
    kept = end
    while kept:
        start = max(0, kept - 4096)
        file.seek(start)
        found = file.read(kept - start).rfind(b"\n")
        if found >= 0:
            kept = start + found + 1
            break
        kept = start
    if kept != end:
        file.truncate(kept)
