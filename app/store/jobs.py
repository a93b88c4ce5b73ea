"""Durable jobs: DBOS runs their steps, our table tells their owner how far they are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update

from app.errors import Conflict, NotFound
from app.ids import new_id
from app.store.db import Database
from app.store.models import jobs

log = logging.getLogger("ostiary.jobs")
QUEUE = "ostiary"
# Recovery goes by this name: it changes only when the steps of a running job change meaning.
APPLICATION_VERSION = "ostiary-1"
FINAL = ("completed", "failed", "cancelled")

Step = Callable[["Job"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its steps and its owner see it."""

    id: str
    tenant_id: str
    kind: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobRow:
    id: str
    tenant_id: str
    kind: str
    status: str
    done: int
    total: int
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    created_at: float
    updated_at: float


class Jobs:
    """Kinds are named step lists; a finished step is never run again, also after kill -9.

    The steps are coroutines of the services and run in the gateway's event loop; DBOS's
    threads only wait for them. A step that was cut runs again, so each step is idempotent.
    """

    def __init__(self, db: Database, url: str, executor: str, *, concurrency: int = 2) -> None:
        self._db, self._url, self._executor = db, url, executor
        self._concurrency = concurrency
        self._kinds: dict[str, list[tuple[str, Step]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workflow: Any = None

    def register(self, kind: str, steps: list[tuple[str, Step]]) -> None:
        """Name the steps of a kind of job; before :meth:`start`."""
        self._kinds[kind] = steps

    async def start(self) -> None:
        """Launch DBOS and take up what was running when the process ended."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._launch)

    def _launch(self) -> None:
        from dbos import DBOS, DBOSConfig

        config: DBOSConfig = {
            "name": "ostiary",
            "system_database_url": self._url,
            "application_version": APPLICATION_VERSION,
            "executor_id": self._executor,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        DBOS(config=config)

        @DBOS.workflow(name="ostiary_job")
        def run_job(job_id: str, tenant_id: str, kind: str, args: dict[str, Any]) -> None:
            job = Job(job_id, tenant_id, kind, args)
            steps = self._kinds[kind]
            try:
                for number, (name, step) in enumerate(steps):
                    DBOS.run_step({"name": name}, self._run, step, job)
                    self._await(self._progress(job_id, "running", number + 1, len(steps)))
                self._await(self._finish(job_id, "completed", None))
            except Exception as error:
                log.exception("job %s failed", job_id)
                told = {
                    "code": "server_error",
                    "message": f"The job failed: {type(error).__name__}.",
                }
                self._await(self._finish(job_id, "failed", told))
                raise

        self._workflow = run_job
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=self._concurrency, polling_interval_sec=0.25)

    def _run(self, step: Step, job: Job) -> Any:
        return self._await(step(job))

    def _await(self, work: Any) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def close(self) -> None:
        """Stop taking jobs; what runs goes on at the next start."""
        from dbos import DBOS

        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)

    async def submit(self, tenant_id: str, kind: str, args: dict[str, Any]) -> str:
        """Begin a job and return its id; it is durable on return."""
        job_id = new_id("job_")
        now = time.time()
        async with self._db.write() as connection:
            await connection.execute(
                insert(jobs).values(
                    id=job_id,
                    tenant_id=tenant_id,
                    kind=kind,
                    status="queued",
                    done=0,
                    total=len(self._kinds[kind]),
                    created_at=now,
                    updated_at=now,
                    result={"args": args},
                )
            )
        await self.enqueue(Job(job_id, tenant_id, kind, args))
        return job_id

    async def enqueue(self, job: Job) -> None:
        """Hand a recorded job to DBOS; again for the same id changes nothing."""
        await asyncio.to_thread(self._enqueue, job)

    def _enqueue(self, job: Job) -> None:
        from dbos import DBOS, SetWorkflowID

        with SetWorkflowID(job.id):
            DBOS.enqueue_workflow(QUEUE, self._workflow, job.id, job.tenant_id, job.kind, job.args)

    async def resume_lost(self) -> None:
        """Enqueue jobs that were recorded but not handed over before a crash."""
        query = select(jobs).where(jobs.c.status == "queued")
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        for row in rows:
            args = (row["result"] or {}).get("args", {})
            await self.enqueue(Job(row["id"], row["tenant_id"], row["kind"], args))

    async def get(self, tenant_id: str, job_id: str) -> JobRow:
        """Raises NotFound for an unknown id or another tenant's."""
        query = select(jobs).where(jobs.c.id == job_id, jobs.c.tenant_id == tenant_id)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("job", job_id)
        return JobRow(**row)

    async def cancel(self, tenant_id: str, job_id: str) -> JobRow:
        """Cancel a job before its next step; raises Conflict when it is over."""
        from dbos import DBOS

        row = await self.get(tenant_id, job_id)
        if row.status in FINAL:
            raise Conflict(f"The job is {row.status} already, so it cannot be cancelled.")
        await asyncio.to_thread(DBOS.cancel_workflow, job_id)
        await self._finish(job_id, "cancelled", None)
        return await self.get(tenant_id, job_id)

    async def _progress(self, job_id: str, status: str, done: int, total: int) -> None:
        async with self._db.write() as connection:
            await connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.status.notin_(FINAL))
                .values(status=status, done=done, total=total, updated_at=time.time())
            )

    async def _finish(self, job_id: str, status: str, error: dict[str, Any] | None) -> None:
        async with self._db.write() as connection:
            await connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.status.notin_(FINAL))
                .values(status=status, error=error, result=None, updated_at=time.time())
            )
