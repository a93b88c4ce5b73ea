"""Whatever is done to an audit chain behind the gateway's back is found, and told what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import delete, func, literal, select, update
from typer.testing import CliRunner

from app.cli import cli
from app.monitoring.signing import AuditKeys, make_key_file, pem_of, rotate
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_bodies, audit_checkpoints, audit_tombstones
from tests.monitoring.chains import Chains, rewrite


async def test_what_nobody_touched_is_whole(chains: Chains) -> None:
    verdict = await chains.verdict()
    assert (verdict.faults, verdict.records, verdict.tenants) == ([], 15, 2)
    assert verdict.checkpoints == 4


def at(seq: int) -> Any:
    return (audit.c.tenant_id == "t1") & (audit.c.seq == seq)


def point(number: int) -> Any:
    return (audit_checkpoints.c.tenant_id == "t1") & (audit_checkpoints.c.number == number)


def beyond(seq: int, hashed_as: int) -> tuple[Any, ...]:
    """Cut the end of the chain off and set its head back."""
    hashed = select(audit.c.hash).where(at(hashed_as)).scalar_subquery()
    head = update(audit_heads).where(audit_heads.c.tenant_id == "t1")
    return (
        head.values(seq=hashed_as, hash=hashed),
        delete(audit_bodies).where(audit_bodies.c.tenant_id == "t1", audit_bodies.c.seq > seq),
        delete(audit).where(audit.c.tenant_id == "t1", audit.c.seq > seq),
    )


UNSEEN = func.replace(audit.c.record, '"status":200', '"status":500')
MOVED = [update(audit).where(at(old)).values(seq=new) for old, new in ((3, 99), (4, 3), (99, 4))]
DAMAGE: dict[str, tuple[Sequence[Any], int, str | None]] = {
    "an edit": ([update(audit).where(at(6)).values(record=UNSEEN)], 6, "edited"),
    "an edit that is no JSON": ([update(audit).where(at(6)).values(record="{")], 6, "edited"),
    "an edit of a column": (
        [update(audit).where(at(6)).values(cost_nano_usd=1)],
        6,
        "columns_edited",
    ),
    "a deletion": ([delete(audit).where(at(6))], 6, "deleted"),
    "a deletion of the first": ([delete(audit).where(at(1))], 1, "deleted"),
    "a new order": (MOVED, 3, "reordered"),
    "a cut end": ([delete(audit).where(at(12))], 12, "truncated"),
    "a cut end that was not signed for, with its head": (beyond(11, 11), 11, None),
    "a cut end with its head": (beyond(7, 7), 8, "truncated"),
    "a cut end with its head and checkpoints": (
        (*beyond(7, 7), delete(audit_checkpoints).where(audit_checkpoints.c.number > 1)),
        8,
        "checkpoint_missing",
    ),
    "a deleted chain": (
        (
            delete(audit_bodies),
            delete(audit).where(audit.c.tenant_id == "t1"),
            delete(audit_heads).where(audit_heads.c.tenant_id == "t1"),
            delete(audit_checkpoints).where(audit_checkpoints.c.tenant_id == "t1"),
        ),
        4,
        "checkpoint_missing",
    ),
    "a deleted head": (
        [delete(audit_heads).where(audit_heads.c.tenant_id == "t1")],
        1,
        "head_missing",
    ),
    "a forged checkpoint": (
        [update(audit_checkpoints).where(point(2)).values(hash="0" * 64)],
        8,
        "checkpoint_forged",
    ),
    "a checkpoint dated back": (
        [update(audit_checkpoints).where(point(2)).values(at=1.5)],
        8,
        "checkpoint_forged",
    ),
    "a missing checkpoint": (
        [delete(audit_checkpoints).where(point(2))],
        10,
        "checkpoint_missing",
    ),
    "a missing last checkpoint": (
        [delete(audit_checkpoints).where(point(3))],
        10,
        "checkpoint_missing",
    ),
    "an edit of bodies": (
        [update(audit_bodies).where(audit_bodies.c.seq == 6).values(bodies="{}")],
        6,
        "bodies_edited",
    ),
    "a deletion of bodies": (
        [delete(audit_bodies).where(audit_bodies.c.seq == 6)],
        6,
        "bodies_deleted",
    ),
    "bodies that were put in": (
        [
            audit_bodies.insert().from_select(
                ["tenant_id", "seq", "bodies"], select(literal("t1"), literal(2), literal("{}"))
            )
        ],
        2,
        "bodies_edited",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_found_with_its_place_and_kind(chains: Chains, name: str) -> None:
    statements, seq, kind = DAMAGE[name]
    await chains.damage(*statements)
    faults = (await chains.verdict()).faults
    if kind is None:  # the newest records were not signed for yet: this is the limit
        assert faults == []
        return
    assert [(f.tenant_id, f.seq, f.kind) for f in faults] == [("t1", seq, kind)]


async def test_a_chain_that_was_rewritten_with_all_its_hashes_is_found(chains: Chains) -> None:
    async with chains.db.write() as connection:
        await connection.run_sync(rewrite, "t1", ("POST", "GET "))
        statement = update(audit).where(audit.c.tenant_id == "t1")
        await connection.execute(statement.values(route="GET  /v1/chat/completions"))
    (fault,) = (await chains.verdict(filed=False)).faults
    assert (fault.seq, fault.kind) == (4, "rewritten")
    async with chains.db.write() as connection:
        await connection.execute(delete(audit_checkpoints))
    (fault, _) = (await chains.verdict()).faults
    assert fault.kind == "checkpoint_missing"  # by the file alone


async def test_a_rewritten_chain_with_checkpoints_of_another_key_is_found(
    chains: Chains, tmp_path: Path
) -> None:
    make_key_file(tmp_path / "thief.pem")
    thief = AuditKeys(chains.db, tmp_path / "thief.pem")
    thief.refresh()  # publishes its key beside ours
    async with chains.db.write() as connection:
        await connection.run_sync(rewrite, "t1", ('"cost_nano_usd":350', '"cost_nano_usd":35'))
        await connection.execute(update(audit).values(cost_nano_usd=35))
        await connection.execute(delete(audit_checkpoints))
    chains.checkpoints._keys = thief
    await chains.sign("t1")
    assert (await chains.verdict(filed=False, trusted=False)).faults[0].tenant_id == "t2"
    fault = (await chains.verdict(filed=False)).faults[0]
    assert (fault.tenant_id, fault.kind) == ("t1", "checkpoint_forged")


async def test_every_tenant_with_a_fault_is_told(chains: Chains) -> None:
    await chains.damage(delete(audit).where(audit.c.seq == 2))
    faults = (await chains.verdict()).faults
    assert [(f.tenant_id, f.seq, f.kind) for f in faults] == [
        ("t1", 2, "deleted"),
        ("t2", 2, "deleted"),
    ]


async def test_checkpoints_stay_verifiable_after_the_key_was_rotated(
    chains: Chains, tmp_path: Path
) -> None:
    path = chains.folder / "audit-signing.pem"
    old = chains.keys.current
    await asyncio.to_thread(rotate, path)
    await chains.sign("t1")
    chains.keys.refresh()
    new = chains.keys.current
    assert new.id != old.id and oct(path.stat().st_mode & 0o777) == "0o600"
    await chains.fill(13, 13)
    await chains.sign("t1")
    assert (await chains.verdict()).faults == []
    for only in (old, new):  # each vouches for the other
        (tmp_path / "only.pem").write_text(pem_of(only.public))
        chains.keys._keys = [only]
        assert (await chains.verdict()).faults == []


async def test_a_line_that_a_crash_tore_is_left_out_and_mended(chains: Chains) -> None:
    with chains.file.open("ab") as out:
        out.write(b'{"number":9')
    assert (await chains.verdict()).faults == []
    await chains.sign("t1")
    assert (await chains.verdict()).faults == []
    assert len(chains.file.read_bytes().splitlines()) == 5


async def test_a_forged_line_of_the_file_is_found(chains: Chains) -> None:
    lines = [orjson.loads(line) for line in chains.file.read_bytes().splitlines()]
    lines[0]["seq"] = 3
    chains.file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    assert [f.kind for f in (await chains.verdict()).faults] == ["checkpoint_forged"]
    chains.file.write_bytes(b"no checkpoint\n")
    assert [f.kind for f in (await chains.verdict()).faults] == ["checkpoint_forged"]


async def test_checkpoints_are_taken_by_number_and_by_age(chains: Chains) -> None:
    due = chains.checkpoints
    await due.look()
    assert len(await due.page("t1", limit=10)) == 4  # record 11 is old, by its call
    await chains.fill(13, 14)
    due._clock = lambda: 1_000_014.0
    await due.look()
    assert len(await due.page("t1", limit=10)) == 4
    due._every_records = 2
    await due.look()
    assert [p["seq"] for p in await due.page("t1", limit=10)] == [14, 12, 10, 8, 4]


async def test_the_command_tells_each_fault_and_fails(chains: Chains) -> None:
    assert run(chains) == (
        0,
        "15 records of 2 tenants verified, 4 checkpoints, the checkpoint file.\n",
    )
    await chains.damage(delete(audit).where(at(6)), delete(audit_tombstones))
    status, told = run(chains)
    assert status == 1
    assert told == "FAULT: t1: record 6 is missing [tenant t1, seq 6, deleted]\n"


def run(chains: Chains, *arguments: str) -> tuple[int, str]:
    """The command, as an operator calls it."""
    done = CliRunner().invoke(cli, ["audit", "verify", *arguments], env=chains.variables)
    return done.exit_code, done.stdout
