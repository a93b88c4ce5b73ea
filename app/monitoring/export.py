"""Exports a tenant's audit chain with all that is needed to verify it elsewhere, in pieces."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, func, select

from app.errors import MissingExtra
from app.monitoring.signing import AuditKeys, canonical, endorsements_of
from app.monitoring.verification import with_bodies
from app.monitoring.verifying import CHECKPOINT, GENESIS, TOMBSTONE
from app.store.db import Database
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_checkpoints, audit_tombstones

FORMAT = "ostiary-audit-1"
PAGE = 1000  # records read at a time
RECORD = ("seq", "record", "prev_hash", "hash", "bodies")
# what a Parquet file repeats of each record in columns of their own; the names of its types
COLUMNS = {
    "at": "float64",
    "call_id": "string",
    "request_id": "string",
    "key_id": "string",
    "route": "string",
    "model": "string",
    "status": "int64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "embedding_tokens": "int64",
    "cost_nano_usd": "int64",
}
Format = Literal["jsonl", "parquet"]
Line = dict[str, Any]


@dataclass(slots=True)
class Exported:
    """From where to where an export goes; it moves on while it is written."""

    tenant_id: str
    from_seq: int
    to_seq: int
    since: float | None
    until: float | None
    hash: str  # of the record before from_seq, then of the last one written
    seq: int
    records: int = 0


class AuditExport:
    """Writes exports of one database; an export holds one page of records in memory."""

    def __init__(self, db: Database, keys: AuditKeys) -> None:
        self._db, self._keys = db, keys

    async def begin(self, tenant_id: str, since: float | None, until: float | None) -> Exported:
        """Find the records of calls that began from ``since`` on and before ``until``.

        They are whole: records between the first and the last one that are outside of the
        times are part of it, since the chain goes through them.
        """
        return await asyncio.to_thread(self._begin, tenant_id, since, until)

    def _begin(self, tenant_id: str, since: float | None, until: float | None) -> Exported:
        mine = audit.c.tenant_id == tenant_id
        with self._db.sync_engine.connect() as connection, connection.begin():
            head = connection.scalar(
                select(audit_heads.c.seq).where(audit_heads.c.tenant_id == tenant_id)
            )
            last = int(head or 0)
            if until is not None:
                newest = select(func.max(audit.c.seq)).where(mine, audit.c.at < until)
                last = int(connection.scalar(newest) or 0)
            first, before = 1, GENESIS
            if since is not None:
                oldest = (
                    select(audit.c.seq, audit.c.prev_hash)
                    .where(mine, audit.c.at >= since, audit.c.seq <= last)
                    .order_by(audit.c.seq)
                    .limit(1)
                )
                row = connection.execute(oldest).first()
                first, before = (row.seq, row.prev_hash) if row is not None else (1, GENESIS)
                last = last if row is not None else 0
        return Exported(tenant_id, first, last, since, until, before, first - 1)

    async def write(self, export: Exported, form: Format) -> AsyncIterator[bytes]:
        """The bytes of the export, a page at a time.

        Raises:
            MissingExtra: Parquet is not installed.
        """
        pieces = self._parquet(export) if form == "parquet" else self._jsonl(export)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    def _jsonl(self, export: Exported) -> Iterator[bytes]:
        for page in self._pages(export):
            yield b"".join(canonical(line).encode() + b"\n" for line in page)

    def _parquet(self, export: Exported) -> Iterator[bytes]:
        pyarrow, parquet = parquet_modules()
        kinds = {"type": "string", "line": "string", "seq": "int64", **COLUMNS}
        kinds |= dict.fromkeys(RECORD[1:], "string")
        schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in kinds.items()])
        sink = _Drained()
        with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
            for page in self._pages(export):
                rows = [_as_row(line) for line in page]
                writer.write_table(pyarrow.Table.from_pylist(rows, schema), row_group_size=PAGE)
                yield sink.drain()
        yield sink.drain()

    def _pages(self, export: Exported) -> Iterator[list[Line]]:
        """The lines of the export: header, then records with what is signed of them, and end."""
        hashed = hashlib.sha256()
        for page in self._unsigned(export):
            for line in page:
                hashed.update(canonical(line).encode() + b"\n")
            yield page
        end = {
            "tenant_id": export.tenant_id,
            "records": export.records,
            "seq": export.seq,
            "hash": export.hash,
            "sha256": hashed.hexdigest(),
            "at": time.time(),
        }
        yield [{"type": "end", **self._keys.signed("export", end)}]

    def _unsigned(self, export: Exported) -> Iterator[list[Line]]:
        number = 0
        written = dict[str, int]()  # statements, which may reach over many pages, and how far
        header = True
        while True:
            page: list[Line] = []
            engine = self._db.sync_engine
            if not self._db.is_sqlite:  # a removal between two reads would look like a gap
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with engine.connect() as connection, connection.begin():
                if header:
                    page.append(self._header(connection, export))
                    header = False
                records = _records(connection, export)
                upto = records[-1]["seq"] if len(records) == PAGE else export.to_seq
                page += _tombstones(connection, export, upto, written)
                checkpoints = _checkpoints(connection, export, upto, number)
            number = checkpoints[-1]["number"] if checkpoints else number
            page += checkpoints
            export.records += len(records)
            if records:
                export.seq, export.hash = records[-1]["seq"], records[-1]["hash"]
            gaps = [g for g in page if g.get("data_class") == "records"]
            for gap in sorted(gaps, key=lambda g: g["from_seq"]):  # those at the end
                if gap["from_seq"] <= export.seq + 1 <= gap["to_seq"]:
                    export.seq, export.hash = gap["to_seq"], gap["hash_after"]
            yield page + records
            if len(records) < PAGE:
                return

    def _header(self, connection: Connection, export: Exported) -> Line:
        keys = [base64.b64encode(key).decode() for key in self._keys.trusted]
        return {
            "type": "header",
            "format": FORMAT,
            "tenant_id": export.tenant_id,
            "from_seq": export.from_seq,
            "to_seq": export.to_seq,
            "since": export.since,
            "until": export.until,
            "at": time.time(),
            "hash_before": export.hash,
            "keys": keys,
            "endorsements": endorsements_of(connection),
        }


def parquet_modules() -> tuple[Any, Any]:
    """Raises MissingExtra where Parquet is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("What reads and writes Parquet", "pipelines") from None
    return pyarrow, parquet


def _records(connection: Connection, export: Exported) -> list[Line]:
    query = with_bodies().where(
        audit.c.tenant_id == export.tenant_id,
        audit.c.seq > export.seq,
        audit.c.seq <= export.to_seq,
    )
    rows = connection.execute(query.order_by(audit.c.seq).limit(PAGE)).mappings()
    return [{"type": "record", **_named(row, RECORD)} for row in rows]


def _tombstones(
    connection: Connection, export: Exported, upto: int, written: dict[str, int]
) -> list[Line]:
    table = audit_tombstones.c
    query = select(audit_tombstones).where(
        table.tenant_id == export.tenant_id, table.from_seq <= upto, table.to_seq > export.seq
    )
    rows = connection.execute(query.order_by(table.from_seq, table.id)).mappings()
    new = [row for row in rows if row["id"] not in written]
    for done in [id_ for id_, last in written.items() if last <= export.seq]:
        del written[done]
    written.update((row["id"], row["to_seq"]) for row in new)
    return [{"type": "tombstone", **_named(row, TOMBSTONE)} for row in new]


def _checkpoints(connection: Connection, export: Exported, upto: int, after: int) -> list[Line]:
    table = audit_checkpoints.c
    query = select(audit_checkpoints).where(
        table.tenant_id == export.tenant_id,
        table.seq > export.seq,
        table.seq <= upto,
        table.number > after,
    )
    rows = connection.execute(query.order_by(table.number)).mappings()
    return [{"type": "checkpoint", **_named(row, CHECKPOINT)} for row in rows]


def _named(row: Mapping[Any, Any], names: tuple[str, ...]) -> Line:
    return {name: row[name] for name in names}


def _as_row(line: Line) -> Line:
    """A line of a Parquet file: a record in columns, anything else as its JSON."""
    if line["type"] != "record":
        return {"type": line["type"], "line": canonical(line)}
    return {**line, **_named(orjson.loads(line["record"]), tuple(COLUMNS))}


class _Drained:
    """What a Parquet writer writes into; the bytes are taken away as they come."""

    closed = False

    def __init__(self) -> None:
        self._bytes, self._at = bytearray(), 0

    def write(self, data: Any) -> int:
        """Take bytes in."""
        part = bytes(data)
        self._bytes += part
        self._at += len(part)
        return len(part)

    def tell(self) -> int:
        """How many bytes were written in all."""
        return self._at

    def flush(self) -> None:
        """Nothing lies elsewhere."""

    def close(self) -> None:
        """The last bytes are still to be taken."""
        self.closed = True

    def drain(self) -> bytes:
        """The bytes since the last time."""
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken
