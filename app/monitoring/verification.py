"""Verifies the audit chains of a database, against a file of checkpoints where there is one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, and_, select

from app.monitoring.checkpoints import BadCheckpointFile, read_file
from app.monitoring.signing import KeyRing, endorsements_of, known_keys
from app.monitoring.verifying import Broken, ChainCheck, Fault, checkpoint_digest
from app.store.db import Database
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_bodies, audit_checkpoints, audit_tombstones

FileRows = dict[str, list[dict[str, Any]]]


@dataclass(slots=True)
class Verdict:
    """The outcome of a verification; ``faults`` has the first of each chain."""

    records: int = 0
    tenants: int = 0
    checkpoints: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def fault(self) -> str | None:
        """The first fault in words; None: all is whole."""
        return str(self.faults[0]) if self.faults else None


def with_bodies() -> Select[Any]:
    """The records with what was kept of their bodies."""
    mine = and_(audit_bodies.c.tenant_id == audit.c.tenant_id, audit_bodies.c.seq == audit.c.seq)
    return select(audit, audit_bodies.c.bodies).outerjoin(audit_bodies, mine)


def verify(
    db: Database,
    *,
    trusted: Sequence[bytes] = (),
    checkpoints: Path | None = None,
    tenant_id: str | None = None,
) -> Verdict:
    """Walk the chains, of one tenant or all; blocking.

    Args:
        trusted: public keys; without any, those that the database itself names are believed.
        checkpoints: a file of checkpoints that the chains must agree with.
    """
    verdict, filed = Verdict(), FileRows()
    if checkpoints is not None:
        # before the snapshot of the database, which so has all that the file has
        try:
            filed = read_file(checkpoints)
        except BadCheckpointFile as error:
            verdict.faults.append(Fault("-", 0, "checkpoint_forged", str(error)))
    engine = db.sync_engine
    if not db.is_sqlite:  # else a commit between head and rows looks like a fault
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection, connection.begin():
        ring = ring_of(connection, trusted)
        wanted = [tenant_id] if tenant_id is not None else _tenants(connection, filed)
        for each in wanted:
            _verify_chain(connection, each, ring, filed.get(each, []), verdict)
    return verdict


def ring_of(connection: Connection, trusted: Sequence[bytes]) -> KeyRing:
    """The keys that are believed."""
    if not trusted:
        trusted = [base64.b64decode(row["public_key"]) for row in known_keys(connection)]
    return KeyRing(trusted, endorsements_of(connection))


def _tenants(connection: Connection, filed: FileRows) -> list[str]:
    """Whoever has a chain, or has had one."""
    found = set(filed)
    for table in (audit_heads, audit_checkpoints, audit_tombstones, audit, audit_bodies):
        found.update(connection.scalars(select(table.c.tenant_id).distinct()))
    return sorted(found)


def _verify_chain(
    connection: Connection,
    tenant_id: str,
    ring: KeyRing,
    filed: list[dict[str, Any]],
    verdict: Verdict,
) -> None:
    check = ChainCheck(tenant_id, ring)
    verdict.tenants += 1
    try:
        verdict.checkpoints += _signed(connection, check, filed)
        _walk(connection, check)
    except Broken as broken:
        verdict.faults.append(broken.fault)
    verdict.records += check.records


def _signed(connection: Connection, check: ChainCheck, filed: list[dict[str, Any]]) -> int:
    """Give the check what was signed; returns how many checkpoints there are."""
    kept: dict[int, str] = {}
    table = audit_checkpoints
    mine = select(table).where(table.c.tenant_id == check.tenant_id)
    for row in connection.execute(mine.order_by(table.c.number)).mappings():
        check.checkpoint(row)
        kept[row["number"]] = checkpoint_digest(row)
    for each in filed:
        number = check.anchor(each)
        if kept.get(number) != checkpoint_digest(each):
            told = f"checkpoint {number} of record {each['seq']} is in the file only"
            raise check.broken(each["seq"], "checkpoint_missing", told)
    tombs = select(audit_tombstones).where(audit_tombstones.c.tenant_id == check.tenant_id)
    for row in connection.execute(tombs.order_by(audit_tombstones.c.from_seq)).mappings():
        check.tombstone(row)
    return len(kept)


def _walk(connection: Connection, check: ChainCheck) -> None:
    tenant_id = check.tenant_id
    head = (
        connection.execute(select(audit_heads).where(audit_heads.c.tenant_id == tenant_id))
        .mappings()
        .one_or_none()
    )
    rows = connection.execution_options(yield_per=1000).execute(
        with_bodies().where(audit.c.tenant_id == tenant_id).order_by(audit.c.seq)
    )
    for row in rows.mappings():
        if head is None:
            raise check.broken(row["seq"], "head_missing", "records without a chain head")
        check.record(row)
    check.end(*((head["seq"], head["hash"]) if head is not None else (check.seq, check.hash)))
    orphan = (
        select(audit_bodies.c.seq)
        .outerjoin(
            audit,
            and_(audit.c.tenant_id == audit_bodies.c.tenant_id, audit.c.seq == audit_bodies.c.seq),
        )
        .where(audit_bodies.c.tenant_id == tenant_id, audit.c.seq.is_(None))
    )
    seq = connection.scalar(orphan.order_by(audit_bodies.c.seq).limit(1))
    if seq is not None:
        raise check.broken(seq, "bodies_edited", f"there are bodies of a record {seq} that is not")
