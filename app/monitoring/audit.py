"""The audit log: hash-chained per tenant, committed in groups before calls are answered."""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import PoolProxiedConnection

from app.gateway.call import Call
from app.monitoring.audit_sql import Statements
from app.monitoring.signing import canonical
from app.monitoring.verification import with_bodies
from app.monitoring.verifying import GENESIS, chain_hash, digest
from app.store.db import Database
from app.store.models import audit

log = logging.getLogger("ostiary.audit")
MAX_GROUP = 512
Watch = Callable[[int, float, bool], None]  # of each group: records, seconds, whether it failed


@dataclass(slots=True)
class _Entry:
    tenant_id: str
    row: dict[str, Any]
    record: dict[str, Any]
    stored: dict[str, Any] | None
    bodies: dict[str, str]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    once: dict[str, Any] | None = None
    chained: tuple[int, str] = (0, GENESIS)
    kept: bool = True  # False: what it may be once only was there before


class AuditLog:
    """Takes records from the event loop and commits them, many at once, in one thread.

    While one group is synced to disk the next one gathers, so under load a disk sync is
    shared by all waiting calls, and a single caller waits for one sync at most.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sql = Statements(db)
        self._connection: PoolProxiedConnection | None = None  # the writer thread's own
        self._heads: dict[str, tuple[int, str]] = {}  # its last commit: seq and hash by tenant
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.watch: Watch | None = None

    def start(self) -> None:
        """Start the writer thread."""
        self._thread = threading.Thread(target=self._run, name="ostiary-audit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Commit what is queued and stop."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=30)
            self._thread = None

    async def commit(
        self,
        call: Call,
        status: int,
        latency_s: float,
        stored: dict[str, Any] | None,
        once: dict[str, Any] | None = None,
    ) -> bool:
        """Return once the record of ``call`` is on disk.

        ``stored`` is the reply kept under an idempotency key; it is committed in the same
        transaction, so a keyed call is either audited and replayable or neither. So is ``once``,
        a row of ``storage_charges``: False when there was one before, and no record is written.
        """
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the audit writer is not running")
        loop = asyncio.get_running_loop()
        row, record = _describe(call, status, latency_s)
        entry = _Entry(
            call.tenant_id, row, record, stored, call.bodies, loop, loop.create_future(), once
        )
        self._queue.put(entry)
        await entry.done  # a caller that is cancelled here leaves the record to be written
        return entry.kept

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                break
            group = [first]
            closing = False
            while len(group) < MAX_GROUP:
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
                if entry is None:
                    closing = True
                    break
                group.append(entry)
            self._commit_group(group)
            if closing:
                break
        self._disconnect()

    def _commit_group(self, group: list[_Entry]) -> None:
        error: Exception | None = None
        began = time.perf_counter()
        try:
            if self._connection is None:
                self._connection = self._db.sync_engine.raw_connection()
            moved = self._append(self._connection, group)
            self._connection.commit()
            self._heads.update(moved)
        except Exception as caught:
            log.error("audit group of %d failed: %s", len(group), type(caught).__name__)
            error = caught
            self._disconnect()
        if self.watch is not None:
            self.watch(len(group), time.perf_counter() - began, error is not None)
        by_loop: dict[asyncio.AbstractEventLoop, list[_Entry]] = {}
        for entry in group:
            by_loop.setdefault(entry.loop, []).append(entry)
        for loop, entries in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, entries, error)

    def _disconnect(self) -> None:
        """Let go of the writer's connection; the next group opens another."""
        if self._connection is not None:
            self._heads.clear()
            self._connection.invalidate()  # closes it, which rolls back
            self._connection = None

    def _append(
        self, connection: PoolProxiedConnection, group: list[_Entry]
    ) -> dict[str, tuple[int, str]]:
        """Write the records; returns where each chain ends once this is committed."""
        by_tenant: dict[str, list[_Entry]] = {}
        sealed: list[tuple[_Entry, str]] = []
        moved: dict[str, tuple[int, str]] = {}
        # the driver's own cursor: this thread shares the interpreter with the event loop
        cursor = connection.cursor()
        try:
            if self._db.is_sqlite:  # PostgreSQL's driver begins by itself
                cursor.execute("BEGIN IMMEDIATE")
            group = self._claim(cursor, group)
            for entry in group:
                by_tenant.setdefault(entry.tenant_id, []).append(entry)
                if entry.bodies:
                    sealed.append((entry, _seal(entry.bodies)))
                    entry.record["bodies_sha256"] = digest(sealed[-1][1])
            for tenant_id in sorted(by_tenant):  # one lock order for all replicas
                entries = by_tenant[tenant_id]
                known = self._heads.pop(tenant_id, None)
                if known is None or not self._move_head(cursor, tenant_id, known, entries):
                    # not seen before, or another gateway was here: only the database knows
                    known = self._lock_head(cursor, tenant_id)
                    self._move_head(cursor, tenant_id, known, entries)
                moved[tenant_id] = entries[-1].chained
            if group:
                rows = [e.row for t in by_tenant.values() for e in t]
                self._sql.add_records.run_many(cursor, rows)
            if sealed:
                kept = [
                    {"tenant_id": e.tenant_id, "seq": e.chained[0], "bodies": bodies}
                    for e, bodies in sealed
                ]
                self._sql.add_bodies.run_many(cursor, kept)
            for entry in group:
                if entry.stored is not None:
                    self._sql.keep_reply.run(cursor, entry.stored)
        finally:
            cursor.close()
        return moved

    def _claim(self, cursor: Any, group: list[_Entry]) -> list[_Entry]:
        """Without the entries that may be once and were there before.

        In one order, and before any chain's head is locked: so no two gateways wait for each other.
        """
        claims = [e for e in group if e.once is not None]
        for entry in sorted(claims, key=lambda e: e.tenant_id):
            assert entry.once is not None
            self._sql.claim_day.run(cursor, entry.once)
            entry.kept = cursor.rowcount == 1
        return [e for e in group if e.kept] if claims else group

    def _move_head(
        self, cursor: Any, tenant_id: str, known: tuple[int, str], entries: list[_Entry]
    ) -> bool:
        """Chain the entries behind a head; False when the chain has gone on from there."""
        seq, head = known
        for entry in entries:
            seq += 1
            record = canonical({"tenant_id": tenant_id, "seq": seq, **entry.record})
            following = chain_hash(head, record)
            entry.row.update(
                tenant_id=tenant_id, seq=seq, record=record, prev_hash=head, hash=following
            )
            head = following
            entry.chained = (seq, head)
        values = {"of": tenant_id, "known": known[0], "to": seq, "hashed": head}
        self._sql.move_head.run(cursor, values)
        return bool(cursor.rowcount)

    def _lock_head(self, cursor: Any, tenant_id: str) -> tuple[int, str]:
        self._sql.lock_head.run(cursor, {"of": tenant_id})
        found = cursor.fetchone()
        if found is None:
            new = {"tenant_id": tenant_id, "seq": 0, "hash": GENESIS}
            self._sql.add_head.run(cursor, new)
            self._sql.lock_head.run(cursor, {"of": tenant_id})
            found = cursor.fetchone()
        return int(found[0]), str(found[1])

    async def page(
        self,
        tenant_id: str,
        *,
        limit: int,
        before_seq: int | None = None,
        request_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a tenant's records, newest first."""
        query = with_bodies().where(audit.c.tenant_id == tenant_id)
        if before_seq is not None:
            query = query.where(audit.c.seq < before_seq)
        if request_id is not None:
            query = query.where(audit.c.request_id == request_id)
        async with self._db.read() as connection:
            rows = await connection.execute(query.order_by(audit.c.seq.desc()).limit(limit))
            return [_shown(r.record, r.hash, r.bodies) for r in rows]


def _seal(bodies: dict[str, str]) -> str:
    """Bodies as they are kept and hashed.

    The salt goes when they go, so that the hash that stays in the record tells nothing of them.
    """
    return canonical({"salt": secrets.token_hex(16), "texts": bodies})


def _describe(call: Call, status: int, latency_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
    row = {
        "call_id": call.id,
        "request_id": call.request_id,
        "at": call.started,
        "key_id": call.principal.key_id,
        "route": call.route,
        "model": call.model,
        "status": status,
        "prompt_tokens": call.usage.prompt_tokens,
        "completion_tokens": call.usage.completion_tokens,
        "embedding_tokens": call.usage.embedding_tokens,
        "cost_nano_usd": call.cost_nano_usd,
    }
    record = {
        **row,
        "costs": call.costs,
        "door": call.door,
        "principal": call.principal.subject,
        "versions": call.versions,
        "findings": [
            {"direction": d, "entity": e, "action": a, "count": n}
            for (d, e, a), n in call.findings.items()
        ],
        "lineage": call.lineage,
        "degraded": call.degraded,
        "error_code": call.error_code,
        "latency_ms": round(latency_s * 1e3, 3),
        "outcome": "ok" if status < 400 else "cut" if status == 499 else "error",
        "committed_at": time.time(),
    }
    if call.principal.acting:
        acted_for = {"user": call.principal.user, "groups": sorted(call.principal.groups)}
        record["acting_for"] = acted_for
    elif call.principal.user is not None:
        record["user"] = call.principal.user
    if call.dry_run is not None:
        record["dry_run"] = call.dry_run.as_record()
    if call.work:
        record["work"] = call.work
    if call.tags:
        record["tags"] = call.tags
    # beside the record: what sums are by
    row["costs"] = canonical(call.costs)
    row["tags"] = canonical(call.tags) if call.tags else None
    return row, record


def _shown(record: str, hashed: str, bodies: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {**orjson.loads(record), "hash": hashed}
    if bodies is not None:
        shown["bodies"] = orjson.loads(bodies)["texts"]
    return shown


def _wake(entries: list[_Entry], error: Exception | None) -> None:
    for entry in entries:
        if entry.done.done():
            continue
        if error is None:
            entry.done.set_result(None)
        else:
            entry.done.set_exception(error)
