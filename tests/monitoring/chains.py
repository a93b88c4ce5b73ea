"""Audit chains of a real database, signed for, as a gateway would leave them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Executable, Table, delete, select, update

from app.gateway.call import Call, Principal
from app.monitoring.audit import AuditLog
from app.monitoring.checkpoints import Checkpoints
from app.monitoring.export import AuditExport, Format
from app.monitoring.removal import Removal
from app.monitoring.signing import AuditKeys, make_key_file
from app.monitoring.verification import Verdict, verify
from app.monitoring.verifying import GENESIS, chain_hash
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import audit, audit_heads
from app.store.models_audit import (
    audit_bodies,
    audit_checkpoints,
    audit_endorsements,
    audit_keys,
    audit_tombstones,
)

TABLES = (
    *(audit, audit_heads, audit_bodies, audit_checkpoints, audit_tombstones),
    *(audit_keys, audit_endorsements),
)


def call(number: int, tenant: str = "t1", *, user: str | None = None, text: str = "") -> Call:
    made = Call(f"call_{tenant}_{number}", f"req_{number}", "rest", "POST /v1/chat/completions")
    made.principal = Principal(tenant, "key:k", "k", frozenset({"*"}), user=user)
    made.started = 1_000_000.0 + number
    made.model = "m"
    made.usage.prompt_tokens = 7
    made.cost_nano_usd = 350
    if text:
        made.bodies["input"] = text
    return made


@dataclass
class Chains:
    """One database with its log, keys and checkpoint file."""

    db: Database
    log: AuditLog
    folder: Path
    keys: AuditKeys
    checkpoints: Checkpoints

    @classmethod
    async def open(cls, url: str, folder: Path) -> Chains:
        db = Database(url)
        await asyncio.to_thread(migrate, db)
        log = AuditLog(db)
        log.start()
        make_key_file(folder / "audit-signing.pem")
        return cls.on(db, log, folder)

    @classmethod
    def on(cls, db: Database, log: AuditLog, folder: Path) -> Chains:
        keys = AuditKeys(db, folder / "audit-signing.pem")
        keys.refresh()
        file = folder / "audit-checkpoints.jsonl"
        return cls(db, log, folder, keys, Checkpoints(db, keys, file, 1000, 600))

    def within(self, folder: Path) -> Chains:
        """The same database with the keys and the file of another folder."""
        return self.on(self.db, self.log, folder)

    @property
    def file(self) -> Path:
        return self.checkpoints.path

    @property
    def variables(self) -> dict[str, str]:
        """Of a command that works on them."""
        return {"OSTIARY_DATA_DIR": str(self.folder), "OSTIARY_DATABASE_URL": self.db.url}

    @property
    def removal(self) -> Removal:
        return Removal(self.db, self.keys)

    async def fill(self, first: int, last: int, tenant: str = "t1", **fields: str) -> None:
        """Add the records of these numbers, in their order."""
        for number in range(first, last + 1):
            await self.log.commit(call(number, tenant, **fields), 200, 0.01, None)

    async def sign(self, *tenants: str) -> None:
        await asyncio.to_thread(self.checkpoints.take, list(tenants))

    async def verdict(self, *, filed: bool = True, trusted: bool = True) -> Verdict:
        return await asyncio.to_thread(
            verify,
            self.db,
            trusted=self.keys.trusted if trusted else (),
            checkpoints=self.file if filed else None,
        )

    async def damage(self, *statements: Executable) -> None:
        """What somebody with the rights of the database does."""
        async with self.db.write() as connection:
            for statement in statements:
                await connection.execute(statement)

    async def snapshot(self) -> list[tuple[Table, list[dict[str, Any]]]]:
        """All rows and the file, to put back after a damage."""
        async with self.db.read() as connection:
            found = [(t, (await connection.execute(select(t))).mappings().all()) for t in TABLES]
        return [(table, [dict(row) for row in rows]) for table, rows in found]

    async def restore(self, kept: list[tuple[Table, list[dict[str, Any]]]]) -> None:
        async with self.db.write() as connection:
            for table, rows in kept:
                await connection.execute(delete(table))
                if rows:
                    await connection.execute(table.insert(), rows)
        self.log._heads.clear()

    async def export(self, path: Path, tenant: str = "t1", form: Format = "jsonl") -> Path:
        export = AuditExport(self.db, self.keys)
        begun = await export.begin(tenant, None, None)
        path.write_bytes(b"".join([piece async for piece in export.write(begun, form)]))
        return path

    async def close(self) -> None:
        self.log.close()
        await self.db.close()


def rewrite(connection: Connection, tenant: str, change: tuple[str, str]) -> None:
    """Change records and reckon all hashes and the head anew, as an attacker would."""
    head = GENESIS
    mine = audit.c.tenant_id == tenant
    for row in connection.execute(select(audit).where(mine).order_by(audit.c.seq)).mappings().all():
        record = str(row["record"]).replace(*change)
        following = chain_hash(head, record)
        connection.execute(
            update(audit)
            .where(mine, audit.c.seq == row["seq"])
            .values(record=record, prev_hash=head, hash=following)
        )
        head = following
    connection.execute(
        update(audit_heads).where(audit_heads.c.tenant_id == tenant).values(hash=head)
    )
