"""The statements of the audit writer, rendered once for the database in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, Executable, bindparam, insert, select, true, update

from app.store.db import Database
from app.store.models import audit, audit_heads, idempotency
from app.store.models_audit import audit_bodies
from app.store.models_cost import storage_charges


class Statement:
    """SQL text for the driver and the order of its values; takes values by name.

    SQLAlchemy renders it, once. Rendering and binding anew took 600 µs for a group of one
    record against 90 µs in the driver, all of it holding the interpreter's lock.
    """

    def __init__(self, statement: Executable, db: Database) -> None:
        compiled = statement.compile(dialect=db.sync_engine.dialect)  # type: ignore[attr-defined]
        self._text = str(compiled)
        self._order: list[str] | None = compiled.positiontup if compiled.positional else None

    def _values(self, values: dict[str, Any]) -> Any:
        return values if self._order is None else [values[name] for name in self._order]

    def run(self, cursor: Any, values: dict[str, Any]) -> None:
        """Execute once."""
        cursor.execute(self._text, self._values(values))

    def run_many(self, cursor: Any, rows: Sequence[dict[str, Any]]) -> None:
        """Execute for each row.

        SQLite's driver lets the interpreter's lock go at each statement and may wait 5 ms to
        have it back, so there all rows are one statement.
        """
        if self._order is None:
            cursor.executemany(self._text, rows)
            return
        before, values, row = self._text.partition(" VALUES ")
        wanted = [value for r in rows for value in self._values(r)]
        cursor.execute(before + values + ", ".join([row] * len(rows)), wanted)


class Statements:
    """What moves chains on and adds records, their bodies and replies kept under a key."""

    def __init__(self, db: Database) -> None:
        heads = audit_heads.c
        known: BindParameter[int] = bindparam("known")
        of: BindParameter[str] = bindparam("of")
        self.lock_head = Statement(
            select(heads.seq, heads.hash).where(heads.tenant_id == of).with_for_update(), db
        )
        self.add_head = Statement(
            db.insert(audit_heads)
            .values({name: bindparam(name) for name in ("tenant_id", "seq", "hash")})
            .on_conflict_do_nothing(),
            db,
        )
        self.move_head = Statement(
            update(audit_heads)
            .where(heads.tenant_id == of, heads.seq == known)
            .values(seq=bindparam("to"), hash=bindparam("hashed")),
            db,
        )
        self.add_records = Statement(insert(audit), db)
        self.add_bodies = Statement(insert(audit_bodies), db)
        self.claim_day = Statement(db.insert(storage_charges).on_conflict_do_nothing(), db)
        table = idempotency.c
        self.keep_reply = Statement(
            update(idempotency)
            .where(
                table.tenant_id == of,
                table.key == bindparam("under"),
                table.owner == bindparam("by"),
            )
            .values(
                done=true(), **{name: bindparam(name) for name in ("status", "headers", "body")}
            ),
            db,
        )
