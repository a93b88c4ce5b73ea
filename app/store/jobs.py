"""Durable jobs: DBOS runs their steps, our table tells their owner how far they are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound, OstiaryError
from app.ids import new_id
from app.store.db import Database
from app.store.models import jobs

log = logging.getLogger("ostiary.jobs")
QUEUE = "ostiary"
# Recovery goes by this name: it changes only when the steps of a running job change meaning.
APPLICATION_VERSION = "ostiary-1"
FINAL = ("completed", "failed", "cancelled")
CLOSE_S = 10.0
CHUNK = 500  # ids asked for at a time; SQLite takes at most 999 values in a statement

Step = Callable[["Job"], Coroutine[Any, Any, Any]]
Watch = Callable[["Job", str], AbstractContextManager[None]]  # of a job and its step
Ended = Callable[["Job", str, str], Awaitable[None]]  # job, "failed" or "cancelled", message


class _Interrupted(BaseException):
    """Ends a job's thread when the gateway closes.

    Not an ``Exception``: DBOS would record that as the outcome, and the job would not go on
    at the next start.
    """


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

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINAL


class Jobs:
    """Kinds are named step lists; a finished step is never run again, also after kill -9.

    The steps are coroutines of the services and run in the gateway's event loop; DBOS's
    threads only wait for them. A step that was cut runs again, so each step is idempotent.

    Args:
        look_s: seconds after which each queue is looked at again.
    """

    def __init__(
        self, db: Database, url: str, executor: str, *, concurrency: int = 2, look_s: float = 0.5
    ) -> None:
        self._db, self._url, self._executor = db, url, executor
        self._concurrency, self._look_s = concurrency, look_s
        self._kinds: dict[str, Sequence[tuple[str, Step]]] = {}
        self._apart: dict[str, int] = {}  # by kind: jobs at once in a queue of their own
        self._ended: dict[str, Ended] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workflow: Any = None
        self._closing = False
        self._running: set[asyncio.Task[Any]] = set()
        self.watch: Watch | None = None  # each step, from outside

    def register(
        self,
        kind: str,
        steps: Sequence[tuple[str, Step]],
        ended: Ended | None = None,
        *,
        apart: int | None = None,
    ) -> None:
        """Name the steps of a kind of job; before :meth:`start`.

        Args:
            apart: run so many of the kind at once, beside the others; None: they wait in one
                line with all jobs.

        ``ended`` is told, with a message for the owner, when a job fails or is cancelled; it
        may be told twice after a crash.
        """
        self._kinds[kind] = steps
        if ended is not None:
            self._ended[kind] = ended
        if apart is not None:
            self._apart[kind] = apart

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
            # nothing is waited for in this way, but the end waits for a thread that sleeps so long
            "notification_listener_polling_interval_sec": 0.1,
        }
        DBOS(config=config)

        @DBOS.workflow(name="ostiary_job")
        def run_job(job_id: str, tenant_id: str, kind: str, args: dict[str, Any]) -> None:
            job = Job(job_id, tenant_id, kind, args)
            try:
                steps = self._kinds[kind]
                for number, (name, step) in enumerate(steps):
                    DBOS.run_step({"name": name}, self._run, name, step, job)
                    self._await(self._progress(job_id, "running", number + 1, len(steps)))
                self._await(self._finish(job_id, "completed", None))
            except Exception as error:
                log.exception("job %s failed", job_id)
                self._await(self._fail(job, error))
                raise

        self._workflow = run_job
        DBOS.launch()
        queues = {QUEUE: self._concurrency}
        queues |= {self._queue_of(kind): most for kind, most in self._apart.items()}
        for name, most in queues.items():
            DBOS.register_queue(name, worker_concurrency=most, polling_interval_sec=self._look_s)

    def _queue_of(self, kind: str) -> str:
        return f"{QUEUE}-{kind}" if kind in self._apart else QUEUE

    def _run(self, name: str, step: Step, job: Job) -> Any:
        return self._await(self._step(name, step, job))

    async def _step(self, name: str, step: Step, job: Job) -> Any:
        """Run a step, unless the job was cancelled before a crash and DBOS not told."""
        async with self._db.read() as connection:
            status = await connection.scalar(select(jobs.c.status).where(jobs.c.id == job.id))
        if status not in FINAL:
            with nullcontext() if self.watch is None else self.watch(job, name):
                return await step(job)

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run ``work`` in the event loop and wait for it, from a thread of DBOS."""
        assert self._loop is not None
        if self._closing:
            work.close()
            raise _Interrupted
        try:
            return asyncio.run_coroutine_threadsafe(self._watched(work), self._loop).result()
        except Exception:
            if self._closing:  # what it needs is being closed
                raise _Interrupted from None
            raise

    async def _watched(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await work
        finally:
            self._running.discard(task)

    async def close(self) -> None:
        """Stop taking jobs and break off what runs; it goes on at the next start."""
        from dbos import DBOS

        self._closing = True
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=CLOSE_S)
        await asyncio.to_thread(DBOS.destroy, workflow_completion_timeout_sec=0)

    async def submit(
        self, tenant_id: str, kind: str, args: dict[str, Any], job_id: str | None = None
    ) -> str:
        """Begin a job and return its id; it is durable on return.

        A caller that recorded a ``job_id`` of its own may submit it again after a crash: the
        same id is one job.
        """
        job = Job(job_id or new_id("job_"), tenant_id, kind, args)
        async with self._db.write() as connection:
            await self.record(connection, job)
        await self.enqueue(job)
        return job.id

    async def record(self, connection: AsyncConnection, job: Job) -> None:
        """Record a job in its caller's transaction, who hands it over with :meth:`enqueue` then.

        A job that a crash left in between is begun at the next start.
        """
        now = time.time()
        await connection.execute(
            self._db.insert(jobs)
            .values(
                id=job.id,
                tenant_id=job.tenant_id,
                kind=job.kind,
                status="queued",
                done=0,
                total=len(self._kinds[job.kind]),
                created_at=now,
                updated_at=now,
                result={"args": job.args},
            )
            .on_conflict_do_nothing()
        )

    async def enqueue(self, job: Job) -> None:
        """Hand a recorded job to DBOS; again for the same id changes nothing."""
        await asyncio.to_thread(self._enqueue, job)

    def _enqueue(self, job: Job) -> None:
        from dbos import DBOS, SetWorkflowID

        with SetWorkflowID(job.id):
            DBOS.enqueue_workflow(
                self._queue_of(job.kind),
                self._workflow,
                job.id,
                job.tenant_id,
                job.kind,
                job.args,
            )

    async def resume_lost(self) -> None:
        """Set right what a crash left between our table and DBOS's.

        Jobs that were recorded but not handed over are enqueued; jobs that are over for DBOS
        but not for us end as failed.
        """
        query = select(jobs).where(jobs.c.status.notin_(FINAL))
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        states = await asyncio.to_thread(self._states, [row["id"] for row in rows])
        for row in rows:
            args = (row["result"] or {}).get("args", {})
            job = Job(row["id"], row["tenant_id"], row["kind"], args)
            state = states.get(job.id)
            if state is None:
                await self.enqueue(job)
            elif state == "SUCCESS":
                await self._finish(job.id, "completed", None)
            elif state not in ("PENDING", "ENQUEUED", "DELAYED"):
                await self._fail(job, RuntimeError(state))

    def _states(self, job_ids: list[str]) -> dict[str, str]:
        """What DBOS says of those jobs that it knows."""
        from dbos import DBOS

        found: dict[str, str] = {}
        for start in range(0, len(job_ids), CHUNK):
            part = job_ids[start : start + CHUNK]
            known = DBOS.list_workflows(workflow_ids=part, load_input=False, load_output=False)
            found.update({w.workflow_id: w.status for w in known})
        return found

    async def statuses(self, job_ids: Sequence[str]) -> dict[str, str]:
        """The status of each of the jobs; those that were never submitted are left out."""
        found: dict[str, str] = {}
        async with self._db.read() as connection:
            for start in range(0, len(job_ids), CHUNK):
                part = job_ids[start : start + CHUNK]
                query = select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(part))
                found.update({r.id: r.status for r in await connection.execute(query)})
        return found

    async def get(self, tenant_id: str, job_id: str) -> JobRow:
        """Raises NotFound for an unknown id or another tenant's."""
        query = select(jobs).where(jobs.c.id == job_id, jobs.c.tenant_id == tenant_id)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("job", job_id)
        return JobRow(**row)

    async def cancel(self, tenant_id: str, job_id: str) -> JobRow:
        """Cancel a job before its next step; raises Conflict when it is over."""
        from dbos import DBOS

        row = await self.get(tenant_id, job_id)
        # ours first: after a crash in between, the steps look here before they run
        if row.status in FINAL or not await self._finish(job_id, "cancelled", None):
            row = await self.get(tenant_id, job_id)
            raise Conflict(f"The job is {row.status} already, so it cannot be cancelled.")
        await asyncio.to_thread(DBOS.cancel_workflow, job_id)
        job = Job(job_id, tenant_id, row.kind, (row.result or {}).get("args", {}))
        await self._tell(job, "cancelled", "The job was cancelled.")
        return await self.get(tenant_id, job_id)

    async def open_counts(self) -> dict[tuple[str, str], int]:
        """How many jobs of all tenants are queued and running, by kind and status."""
        counts = {(kind, status): 0 for kind in self._kinds for status in ("queued", "running")}
        query = (
            select(jobs.c.kind, jobs.c.status, func.count())
            .where(jobs.c.status.notin_(FINAL), jobs.c.kind.in_(self._kinds))
            .group_by(jobs.c.kind, jobs.c.status)
        )
        async with self._db.read() as connection:
            rows = await connection.execute(query)
            return counts | {(kind, status): count for kind, status, count in rows}

    async def _fail(self, job: Job, error: Exception) -> None:
        """Tell the owner of a job why it failed; only our own errors are written for him."""
        told = {"code": "server_error", "message": f"The job failed: {type(error).__name__}."}
        if isinstance(error, OstiaryError):
            told = {"code": error.code, "message": error.message}
        await self._tell(job, "failed", told["message"])
        await self._finish(job.id, "failed", told)

    async def _tell(self, job: Job, status: str, message: str) -> None:
        ended = self._ended.get(job.kind)
        if ended is not None:
            await ended(job, status, message)

    async def _progress(self, job_id: str, status: str, done: int, total: int) -> None:
        async with self._db.write() as connection:
            await connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.status.notin_(FINAL))
                .values(status=status, done=done, total=total, updated_at=time.time())
            )

    async def _finish(self, job_id: str, status: str, error: dict[str, Any] | None) -> bool:
        """End a job; False when it was over already."""
        async with self._db.write() as connection:
            done = await connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.status.notin_(FINAL))
                .values(status=status, error=error, result=None, updated_at=time.time())
            )
        return bool(done.rowcount)
