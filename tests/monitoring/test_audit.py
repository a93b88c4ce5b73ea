"""The audit log: durable before the reply, chained, and honest about every tampering."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import delete, text, update

from app.gateway.call import Call, Principal
from app.monitoring.audit import AuditLog
from app.monitoring.verification import Verdict, verify
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import audit, audit_heads


def call(number: int, tenant: str = "t1") -> Call:
    made = Call(f"call_{number}", f"req_{number}", "rest", "POST /v1/chat/completions")
    made.principal = Principal(tenant, "key:k", "k", frozenset({"*"}))
    made.model = "m"
    made.usage.prompt_tokens = 7
    made.cost_nano_usd = 350
    made.record_finding("EMAIL_ADDRESS", "mask", 2, "input")
    return made


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[AuditLog]:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db)
    opened = AuditLog(db)
    opened.start()
    yield opened
    opened.close()
    await db.close()


async def verified(log: AuditLog, tenant_id: str | None = None) -> Verdict:
    return await asyncio.to_thread(verify, log._db, tenant_id=tenant_id)


async def fill(log: AuditLog, count: int = 30) -> None:
    await asyncio.gather(*(log.commit(call(n, f"t{n % 3}"), 200, 0.01, None) for n in range(count)))


async def test_concurrent_calls_of_several_tenants_make_whole_chains(log: AuditLog) -> None:
    await fill(log)
    verdict = await verified(log)
    assert (verdict.fault, verdict.records, verdict.tenants) == (None, 30, 3)
    page = await log.page("t1", limit=100)
    assert [r["seq"] for r in page] == list(range(10, 0, -1))
    assert page[0]["findings"] == [
        {"direction": "input", "entity": "EMAIL_ADDRESS", "action": "mask", "count": 2}
    ]


async def test_two_gateways_on_one_database_append_to_one_chain(
    log: AuditLog, database_url: str
) -> None:
    other = AuditLog(Database(database_url))
    other.start()
    await asyncio.gather(
        *((log if n % 2 else other).commit(call(n), 200, 0.0, None) for n in range(60))
    )
    other.close()
    verdict = await verified(log, "t1")
    assert (verdict.fault, verdict.records) == (None, 60)


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        (
            update(audit)
            .where(audit.c.seq == 4)
            .values(record=text("replace(record, '200', '500')")),
            "record 4 was changed",
        ),
        (update(audit).where(audit.c.seq == 4).values(cost_nano_usd=1), "columns of record 4"),
        (delete(audit).where(audit.c.seq == 4), "record 4 is missing"),
        (delete(audit).where(audit.c.seq == 10), "the chain ends at 9"),
        (delete(audit_heads), "records without a chain head"),
    ],
    ids=["edit", "edit of a column", "deletion", "truncation", "deletion of the head"],
)
async def test_tampering_is_found(log: AuditLog, tampering, said: str) -> None:  # type: ignore[no-untyped-def]
    await fill(log)
    async with log._db.write() as connection:
        await connection.execute(tampering)
    verdict = await verified(log)
    assert verdict.fault is not None
    assert said in verdict.fault


async def test_swapped_records_are_found(log: AuditLog) -> None:
    await fill(log)
    async with log._db.write() as connection:
        for old, new in ((3, 100), (4, 3), (100, 4)):
            await connection.execute(
                update(audit).where(audit.c.tenant_id == "t1", audit.c.seq == old).values(seq=new)
            )
    assert "record 3 was changed" in str((await verified(log)).fault)


async def test_a_failed_commit_is_told_to_every_waiting_call(log: AuditLog) -> None:
    await log.commit(call(1), 200, 0.0, None)
    with pytest.raises(Exception, match=r"(?i)unique"):
        await log.commit(call(1), 200, 0.0, None)
    await log.commit(call(2), 200, 0.0, None)
    assert (await verified(log)).fault is None
