"""Durable jobs: finished steps stay finished, and every job ends in a way its owner is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from app.errors import BudgetExceeded, Conflict, NotFound
from app.ids import new_id
from app.settings import normal_url
from app.store.db import Database
from app.store.jobs import FINAL, Job, JobRow, Jobs
from app.store.models import jobs as table
from app.store.models import metadata

TENANT = "t1"
Start = Callable[["Work"], Awaitable[Jobs]]


class Work:
    """A kind of job with two steps that the test holds up or lets fail."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.ended: list[tuple[str, str, str]] = []

    async def first(self, job: Job) -> None:
        self.ran["first"] += 1

    async def second(self, job: Job) -> None:
        self.ran["second"] += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.ran["second done"] += 1

    async def end(self, job: Job, status: str, message: str) -> None:
        self.ended.append((job.id, status, message))

    async def until_second(self) -> None:
        async with asyncio.timeout(20):
            while not self.ran["second"]:
                await asyncio.sleep(0.01)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    await asyncio.to_thread(metadata.create_all, opened.sync_engine)
    yield opened
    await opened.close()


@pytest.fixture
async def start(db: Database, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the jobs of one process; starting again is a restart after a graceful stop."""
    url = normal_url(None, tmp_path / "jobs.db") if db.is_sqlite else db.url
    running: list[Jobs] = []

    async def begin(work: Work) -> Jobs:
        while running:
            await running.pop().close()
        made = Jobs(db, url, "local", look_s=0.05)
        made.register("two_steps", [("first", work.first), ("second", work.second)], work.end)
        await made.start()
        running.append(made)
        await made.resume_lost()
        return made

    yield begin
    while running:
        await running.pop().close()


async def over(jobs: Jobs, job_id: str) -> JobRow:
    async with asyncio.timeout(30):
        while (row := await jobs.get(TENANT, job_id)).status not in FINAL:
            await asyncio.sleep(0.02)
    return row


async def test_a_job_runs_its_steps_in_order_and_tells_how_far_it_is(start: Start) -> None:
    work = Work()
    work.gate.clear()
    jobs = await start(work)
    job_id = await jobs.submit(TENANT, "two_steps", {})
    await work.until_second()
    row = await jobs.get(TENANT, job_id)
    assert (row.status, row.done, row.total) == ("running", 1, 2)
    work.gate.set()
    row = await over(jobs, job_id)
    assert (row.status, row.done, row.error) == ("completed", 2, None)
    assert work.ran == {"first": 1, "second": 1, "second done": 1}
    assert work.ended == []


async def test_a_step_that_fails_fails_the_job_and_says_so_without_a_value(start: Start) -> None:
    work = Work()
    work.error = ValueError("jane.roe@example.com")
    jobs = await start(work)
    job_id = await jobs.submit(TENANT, "two_steps", {})
    row = await over(jobs, job_id)
    told = {"code": "server_error", "message": "The job failed: ValueError."}
    assert (row.status, row.error) == ("failed", told)
    assert work.ended == [(job_id, "failed", told["message"])]


async def test_an_error_that_was_written_for_the_owner_is_told_as_it_is(start: Start) -> None:
    work = Work()
    work.error = BudgetExceeded("The budget is spent.")
    jobs = await start(work)
    row = await over(jobs, await jobs.submit(TENANT, "two_steps", {}))
    assert row.error == {"code": "budget_exceeded", "message": "The budget is spent."}


async def test_a_job_of_an_unknown_kind_fails(start: Start, db: Database) -> None:
    jobs = await start(Work())
    now = 1.0
    async with db.write() as connection:
        await connection.execute(
            insert(table).values(
                id="job_old",
                tenant_id=TENANT,
                kind="forgotten",
                status="queued",
                done=0,
                total=1,
                created_at=now,
                updated_at=now,
            )
        )
    await jobs.resume_lost()
    assert (await over(jobs, "job_old")).status == "failed"


async def test_a_cancelled_job_stops_before_its_next_step_and_cannot_be_cancelled_again(
    start: Start,
) -> None:
    work = Work()
    work.gate.clear()
    jobs = await start(work)
    running = await jobs.submit(TENANT, "two_steps", {})
    await work.until_second()
    assert (await jobs.cancel(TENANT, running)).status == "cancelled"
    work.gate.set()
    with pytest.raises(Conflict, match="cancelled already"):
        await jobs.cancel(TENANT, running)
    other = await jobs.submit(TENANT, "two_steps", {})
    assert (await over(jobs, other)).status == "completed"
    assert (await jobs.get(TENANT, running)).status == "cancelled"
    assert [(i, s) for i, s, _ in work.ended] == [(running, "cancelled")]
    with pytest.raises(Conflict, match="completed already"):
        await jobs.cancel(TENANT, other)


async def test_a_job_cancelled_before_a_crash_runs_no_step_after_it(
    start: Start, db: Database
) -> None:
    work = Work()
    work.gate.clear()
    jobs = await start(work)
    job_id = await jobs.submit(TENANT, "two_steps", {})
    await work.until_second()
    async with db.write() as connection:  # committed, and killed before DBOS was told
        await connection.execute(
            update(table).where(table.c.id == job_id).values(status="cancelled")
        )
    after = Work()
    jobs = await start(after)
    other = await jobs.submit(TENANT, "two_steps", {})
    await over(jobs, other)
    assert after.ran == {"first": 1, "second": 1, "second done": 1}  # the other job's


async def test_a_graceful_stop_breaks_a_job_off_and_it_goes_on_where_it_was(start: Start) -> None:
    work = Work()
    work.gate.clear()
    jobs = await start(work)
    job_id = await jobs.submit(TENANT, "two_steps", {"a": 1})
    await work.until_second()
    after = Work()
    jobs = await start(after)
    row = await over(jobs, job_id)
    assert (row.status, row.error) == ("completed", None)
    assert after.ran == {"second": 1, "second done": 1}  # the first step is not run again
    assert work.ran["second done"] == 0
    assert work.ended == after.ended == []


async def test_a_job_that_was_recorded_but_not_handed_over_begins_at_the_next_start(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = await start(Work())

    async def killed(job: Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "enqueue", killed)
    with pytest.raises(KeyboardInterrupt):
        await jobs.submit(TENANT, "two_steps", {"a": 1}, "job_lost")
    work = Work()
    jobs = await start(work)
    assert (await over(jobs, "job_lost")).status == "completed"
    await jobs.resume_lost()
    assert work.ran["second done"] == 1


async def test_a_job_that_is_over_for_the_engine_alone_ends_at_the_next_start(
    start: Start, db: Database
) -> None:
    work = Work()
    jobs = await start(work)
    done = await jobs.submit(TENANT, "two_steps", {})
    await over(jobs, done)
    work.error = ValueError()
    failed = await jobs.submit(TENANT, "two_steps", {})
    await over(jobs, failed)
    async with db.write() as connection:
        await connection.execute(update(table).values(status="running"))
    jobs = await start(Work())
    assert (await jobs.get(TENANT, done)).status == "completed"
    assert (await jobs.get(TENANT, failed)).status == "failed"


async def test_the_same_id_submitted_twice_is_one_job(start: Start) -> None:
    work = Work()
    jobs = await start(work)
    job_id = new_id("job_")
    await asyncio.gather(*(jobs.submit(TENANT, "two_steps", {}, job_id) for _ in range(4)))
    await over(jobs, job_id)
    assert work.ran["second done"] == 1


async def test_many_jobs_end_each_once(start: Start) -> None:
    work = Work()
    jobs = await start(work)
    ids = [await jobs.submit(TENANT, "two_steps", {"n": n}) for n in range(8)]
    rows = [await over(jobs, job_id) for job_id in ids]
    assert {row.status for row in rows} == {"completed"}
    assert work.ran["second done"] == 8


async def test_another_tenant_neither_sees_nor_stops_a_job(start: Start) -> None:
    work = Work()
    work.gate.clear()
    jobs = await start(work)
    job_id = await jobs.submit(TENANT, "two_steps", {})
    for call in (jobs.get("t2", job_id), jobs.cancel("t2", job_id), jobs.get(TENANT, "job_no")):
        with pytest.raises(NotFound):
            await call
    work.gate.set()
    assert (await over(jobs, job_id)).status == "completed"


async def test_a_finished_job_keeps_none_of_its_arguments(start: Start, db: Database) -> None:
    jobs = await start(Work())
    job_id = await jobs.submit(TENANT, "two_steps", {"secret": "x"})
    await over(jobs, job_id)
    async with db.read() as connection:
        kept: Any = await connection.scalar(select(table.c.result).where(table.c.id == job_id))
    assert kept is None
