"""What retention takes out leaves a signed statement, and a chain that still shows all else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import create_engine, delete, func, select, update

from app.errors import Conflict
from app.monitoring import removal as module
from app.monitoring.audit import AuditLog
from app.monitoring.export_check import verify_export
from app.monitoring.verification import verify
from app.monitoring.verifying import chain_hash
from app.settings import normal_url
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import audit, audit_heads
from app.store.models_audit import audit_bodies, audit_checkpoints, audit_tombstones
from tests.api.calls import send
from tests.conftest import Gateway, wait_for
from tests.monitoring.chains import Chains, call


@pytest.fixture(autouse=True)
async def small_parts(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    yield


async def remove(part: Callable[..., module.Part], upto: int, tenant: str = "t1") -> int:
    removed = 0
    reached: int | None = 0
    while reached is not None:
        done = await asyncio.to_thread(part, tenant, upto, "a test", reached)
        removed, reached = removed + done.removed, done.reached
    return removed


async def kinds(chains: Chains) -> list[tuple[int, str]]:
    return [(f.seq, f.kind) for f in (await chains.verdict()).faults]


async def test_removed_records_leave_a_chain_that_verifies(chains: Chains, tmp_path: Path) -> None:
    assert await remove(chains.removal.records, 7) == 7
    assert await remove(chains.removal.records, 7) == 0
    verdict = await chains.verdict()
    assert (verdict.faults, verdict.records) == ([], 8)
    async with chains.db.read() as connection:
        assert await connection.scalar(select(func.count()).select_from(audit_bodies)) == 0
    for form in ("jsonl", "parquet"):
        path = await chains.export(tmp_path / f"a.{form}", form=form)
        exported = verify_export(path, trusted=chains.keys.trusted, checkpoints=chains.file)
        assert (exported.faults, exported.records) == ([], 5)
    await chains.fill(13, 14)
    await remove(chains.removal.records, 14)
    assert (await chains.verdict()).faults == []
    await chains.fill(15, 15)
    assert (await chains.verdict()).faults == []


DAMAGE: dict[str, tuple[Any, tuple[int, str]]] = {
    "a record after them": (delete(audit).where(audit.c.seq == 8), (8, "deleted")),
    "the statement": (
        delete(audit_tombstones).where(audit_tombstones.c.from_seq == 4),
        (4, "deleted"),
    ),
    "its range": (
        update(audit_tombstones).where(audit_tombstones.c.from_seq == 4).values(to_seq=8),
        (4, "statement_forged"),
    ),
    "its reason": (
        update(audit_tombstones).where(audit_tombstones.c.from_seq == 4).values(reason="law"),
        (4, "statement_forged"),
    ),
    "an edit after them": (
        update(audit).where(audit.c.seq == 8).values(status=500),
        (8, "columns_edited"),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_beside_what_was_removed_is_found(chains: Chains, name: str) -> None:
    await remove(chains.removal.records, 7)
    statement, found = DAMAGE[name]
    await chains.damage(statement)
    assert await kinds(chains) == [found]


async def test_records_that_come_back_are_found(chains: Chains) -> None:
    kept = await chains.snapshot()
    await remove(chains.removal.records, 7)
    rows = dict((table.name, rows) for table, rows in kept)["audit"]
    back = [row for row in rows if row["tenant_id"] == "t1" and row["seq"] == 7]
    await chains.damage(audit.insert().values(back))
    assert await kinds(chains) == [(7, "statement_untrue")]


async def test_damage_is_never_signed_away(chains: Chains) -> None:
    await chains.damage(update(audit).where(audit.c.seq == 5).values(record="{}"))
    with pytest.raises(Conflict, match="record 5 was changed"):
        await remove(chains.removal.records, 7)
    with pytest.raises(Conflict, match="record 5 was changed"):
        await remove(chains.removal.bodies, 7)
    assert await kinds(chains) == [(5, "edited")]


async def test_bodies_go_before_their_records(chains: Chains) -> None:
    assert await remove(chains.removal.bodies, 6) == 2
    verdict = await chains.verdict()
    assert (verdict.faults, verdict.records) == ([], 15)
    (kept,) = [r["seq"] for r in await chains.log.page("t1", limit=20) if "bodies" in r]
    assert kept == 7
    await chains.damage(delete(audit_bodies))
    assert await kinds(chains) == [(7, "bodies_deleted")]


async def test_bodies_within_records_of_before_go_too(chains: Chains) -> None:
    """Before revision 0013 a record held its bodies itself, and was hashed with them."""
    mine = audit.c.tenant_id == "t2"
    async with chains.db.write() as connection:
        rows = (
            await connection.execute(select(audit).where(mine).order_by(audit.c.seq))
        ).mappings()
        head = "0" * 64
        for row in rows.all():
            record = orjson.loads(row["record"]) | {"bodies": {"input": "Jane Roe"}}
            text = orjson.dumps(record, option=orjson.OPT_SORT_KEYS).decode()
            hashed = chain_hash(head, text)
            values = {"record": text, "prev_hash": head, "hash": hashed}
            await connection.execute(
                update(audit).where(mine, audit.c.seq == row["seq"]).values(values)
            )
            head = hashed
        old = update(audit_heads).where(audit_heads.c.tenant_id == "t2")
        await connection.execute(old.values(hash=head, inline_until=3))
        signed = audit_checkpoints.c.tenant_id == "t2"
        await connection.execute(delete(audit_checkpoints).where(signed))
    chains.file.unlink()
    await chains.sign("t2")
    assert (await chains.verdict()).faults == []
    assert (await chains.log.page("t2", limit=1))[0]["bodies"] == {"input": "Jane Roe"}
    assert await remove(chains.removal.bodies, 2, "t2") == 2
    assert (await chains.verdict()).faults == []
    async with chains.db.read() as connection:
        left = [str(r) for r in await connection.scalars(select(audit.c.record).where(mine))]
    assert sum("Jane" in record for record in left) == 1
    await chains.damage(update(audit).where(mine, audit.c.seq == 1).values(status=500))
    assert await kinds(chains) == [(1, "columns_edited")]


async def test_a_migrated_chain_stays_verifiable(database_url: str) -> None:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db, "0011")
    async with db.write() as connection:
        counts = {n: 0 for n in ("prompt_tokens", "completion_tokens", "embedding_tokens")}
        row = {
            **{"tenant_id": "t1", "seq": 1, "call_id": "c", "request_id": "r", "at": 1.5},
            **{"key_id": None, "route": "GET", "model": None, "status": 200, **counts},
            **{"cost_nano_usd": 0, "prev_hash": "0" * 64},
        }
        record = orjson.dumps(
            {n: v for n, v in row.items() if n != "prev_hash"} | {"bodies": {"input": "x"}},
            option=orjson.OPT_SORT_KEYS,
        ).decode()
        hashed = chain_hash("0" * 64, record)
        await connection.execute(audit.insert().values(**row, record=record, hash=hashed))
        await connection.exec_driver_sql(
            f"INSERT INTO audit_heads (tenant_id, seq, hash) VALUES ('t1', 1, '{hashed}')"
        )
    await asyncio.to_thread(migrate, db)
    verdict = await asyncio.to_thread(verify, db)
    assert (verdict.faults, verdict.records) == ([], 1)
    async with db.read() as connection:
        assert await connection.scalar(select(audit_heads.c.inline_until)) == 1
    await db.close()


@pytest.mark.slow
async def test_retention_that_was_killed_goes_on_and_the_chain_is_whole(
    new_gateway: Callable[..., Gateway],
) -> None:
    house = new_gateway(OSTIARY_AUDIT_RETENTION_DAYS="1", OSTIARY_EMBEDDED_RETRIEVAL="false")
    house.data_dir.mkdir(parents=True)
    db = Database(normal_url(None, house.data_dir / "ostiary.db"))
    await asyncio.to_thread(migrate, db)
    log = AuditLog(db)
    log.start()
    count = 4_000
    await asyncio.gather(
        *(log.commit(call(n, "default", text="said"), 200, 0.0, None) for n in range(count))
    )
    log.close()
    engine = create_engine(house.database_url)

    stated = select(func.max(audit_tombstones.c.to_seq)).where(
        audit_tombstones.c.data_class == "records"
    )

    def removed() -> int:
        with engine.connect() as connection:
            return int(connection.scalar(stated) or 0)

    house.start()
    wait_for(lambda: removed() > 0, what="the first part")
    house.kill()
    halfway = removed()
    assert 0 < halfway < count
    assert verify(db).faults == []
    house.start()
    wait_for(lambda: removed() == count, what="the rest")
    status, told, _ = send(house, "GET", "/v1/audit/verify")
    assert (status, told["valid"], told["faults"]) == (200, True, [])
    with engine.connect() as connection:
        oldest = connection.scalar(select(func.min(audit.c.seq)))
        assert connection.scalar(select(func.count()).select_from(audit_bodies)) == 0
    assert oldest == count + 1
    house.stop()
    engine.dispose()
    await db.close()


async def test_bodies_of_single_records_go_with_a_statement_for_each_run(chains: Chains) -> None:
    assert chains.removal.bodies_of("t1", [5, 7], "an erasure") == 2
    assert (await chains.verdict()).faults == []
    async with chains.db.read() as connection:
        stated = select(audit_tombstones.c.from_seq, audit_tombstones.c.to_seq)
        assert sorted(map(tuple, await connection.execute(stated))) == [(5, 5), (7, 7)]
    await chains.damage(delete(audit_bodies).where(audit_bodies.c.seq == 6))
    assert await kinds(chains) == [(6, "bodies_deleted")]
