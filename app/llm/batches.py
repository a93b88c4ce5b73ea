"""Batches: the lines of a file asked one by one, durably, each through the whole corridor."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

import orjson
from sqlalchemy import delete, func, insert, select, update

from app.errors import BadRequest, Conflict, NotFound, OstiaryError
from app.gateway.call import Call, Principal
from app.gateway.inside import Answer, Inside
from app.ids import new_id
from app.llm.batch_lines import ENDPOINTS, Fault, Line, faults_of, read, result
from app.retrieval.files import FileService
from app.store.db import Database
from app.store.jobs import Job, Jobs
from app.store.models import batch_lines, batches
from app.store.paging import Page, page_of

log = logging.getLogger("ostiary.batches")
KIND = "batch"
WINDOW_S = 24 * 3600.0
BATCHES_AT_ONCE = 4
READ_AT_ONCE = 500  # results
LOOK_S = 0.5  # between looks whether a batch was cancelled
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
BUDGET_PAUSE_S = 300.0  # at most, until a spent budget is tried again: it may have been raised
# what a later try may turn: the limits, and a part of the gateway that is down
AGAIN = frozenset({429, 502, 503, 504})
UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
OVER = ("completed", "failed", "expired", "cancelled")

Govern = Callable[..., AbstractAsyncContextManager[Call]]
StillValid = Callable[[Principal], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch; the counts grow while it runs."""

    id: str
    tenant_id: str
    owner: str
    principal: dict[str, Any]
    endpoint: str
    input_file_id: str
    metadata: dict[str, str] | None
    status: str
    errors: list[dict[str, Any]] | None
    total: int
    completed: int
    failed: int
    output_file_id: str | None
    error_file_id: str | None
    created_at: float
    expires_at: float
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    completed_at: float | None = None
    failed_at: float | None = None
    expired_at: float | None = None
    cancelling_at: float | None = None
    cancelled_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it: its files are there."""
        return self.status in OVER


class Batches:
    """Batches of a tenant, each seen by who started it and by those whom no list binds.

    A durable job checks the file, asks every line under an idempotency key of its own, and
    writes the files. After a crash it goes on: a line whose answer was kept is not asked again,
    and one that was answered, but not kept here, is replayed and not charged twice.
    """

    def __init__(
        self,
        db: Database,
        jobs: Jobs,
        files: FileService,
        inside: Inside,
        still_valid: StillValid,
        *,
        at_once: int,
        longest_line: int,
    ) -> None:
        self._db, self._jobs, self._files, self._inside = db, jobs, files, inside
        self._still_valid = still_valid
        self._at_once, self._longest = at_once, longest_line
        self.govern: Govern | None = None  # set once by the wiring, before any job runs
        steps = [("check", self._check), ("ask", self._ask), ("write", self._write)]
        jobs.register(KIND, steps, self._ended, apart=BATCHES_AT_ONCE)

    # -- what the doors call ------------------------------------------------------------

    async def create(
        self, call: Call, input_file_id: str, endpoint: str, metadata: dict[str, str] | None
    ) -> Batch:
        """Start a batch; it is durable on return.

        Raises:
            NotFound: the file does not exist, or is not for the caller to see.
            BadRequest: an endpoint that batches do not have, or a file of another purpose.
        """
        if endpoint not in ENDPOINTS:
            raise BadRequest(f"endpoint must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
        file = await self._files.get(call, input_file_id)
        if file.purpose != "batch":
            raise BadRequest(
                "The file was not uploaded for a batch. Upload it with the purpose 'batch'.",
                param="input_file_id",
            )
        now, who = time.time(), replace(call.principal, tags=tuple(call.tags.items()))
        batch = Batch(
            new_id("batch_"),
            call.tenant_id,
            who.owner,
            who.as_json(),
            endpoint,
            file.id,
            metadata,
            "validating",
            None,
            *(0, 0, 0, None, None),
            now,
            now + WINDOW_S,
        )
        async with self._db.write() as connection:
            await connection.execute(insert(batches).values(asdict(batch)))
        await self._jobs.submit(call.tenant_id, KIND, {"batch_id": batch.id}, job_of(batch.id))
        return batch

    async def resume(self) -> None:
        """Start what was recorded by a call that a crash cut."""
        query = select(batches.c.id, batches.c.tenant_id).where(batches.c.status == "validating")
        rows = await self._db.rows(query)
        known = await self._jobs.statuses([job_of(row["id"]) for row in rows])
        for row in rows:
            if job_of(row["id"]) not in known:
                args = {"batch_id": row["id"]}
                await self._jobs.submit(row["tenant_id"], KIND, args, job_of(row["id"]))

    async def get(self, call: Call, batch_id: str) -> Batch:
        """Raises NotFound for an unknown batch, and for one that is not the caller's."""
        found = await self._db.one_or_none(self._of(call).where(batches.c.id == batch_id))
        if found is None:
            raise NotFound("batch", batch_id)
        return await self._counted(Batch(**found))

    async def page(self, call: Call, *, limit: int, after: str | None) -> Page[Batch]:
        """One page of the caller's batches, newest first."""
        query = self._of(call)
        found = await page_of(self._db, query, batches.c.id, limit=limit, order="desc", after=after)
        return Page([await self._counted(Batch(**row)) for row in found.rows], found.has_more)

    async def cancel(self, call: Call, batch_id: str) -> Batch:
        """Ask no more lines; those under way are answered and kept.

        Raises:
            NotFound: as :meth:`get`.
            Conflict: the batch is over.
        """
        await self.get(call, batch_id)
        if not await self._move(batch_id, "cancelling", ("validating", "in_progress")):
            found = await self.get(call, batch_id)
            if found.status != "cancelling":
                raise Conflict(f"The batch is {found.status}, so it cannot be cancelled.")
        return await self.get(call, batch_id)

    def _of(self, call: Call) -> Any:
        query = select(batches).where(batches.c.tenant_id == call.tenant_id)
        who = call.principal
        return query if who.sees_all else query.where(batches.c.owner == who.owner)

    async def _counted(self, batch: Batch) -> Batch:
        if batch.over:
            return batch
        counts = await self._counts(batch.id)
        return replace(batch, completed=counts[True], failed=counts[False])

    async def _counts(self, batch_id: str) -> dict[bool, int]:
        query = (
            select(batch_lines.c.succeeded, func.count().label("lines"))
            .where(batch_lines.c.batch_id == batch_id)
            .group_by(batch_lines.c.succeeded)
        )
        found = {bool(r["succeeded"]): int(r["lines"]) for r in await self._db.rows(query)}
        return {True: found.get(True, 0), False: found.get(False, 0)}

    # -- the steps of the job -----------------------------------------------------------

    async def _load(self, batch_id: str) -> Batch:
        row = await self._db.one_or_none(select(batches).where(batches.c.id == batch_id))
        if row is None:
            raise NotFound("batch", batch_id)
        return Batch(**row)

    async def _move(
        self,
        batch_id: str,
        status: str,
        from_: Sequence[str],
        *,
        forget_lines: bool = False,
        **values: Any,
    ) -> bool:
        """Change the status, if it is one of ``from_`` still."""
        async with self._db.write() as connection:
            moved = await connection.execute(
                update(batches)
                .where(batches.c.id == batch_id, batches.c.status.in_(from_))
                .values({"status": status, f"{status}_at": time.time(), **values})
            )
            if forget_lines:
                lines = delete(batch_lines).where(batch_lines.c.batch_id == batch_id)
                await connection.execute(lines)
        return bool(moved.rowcount)

    async def _check(self, job: Job) -> None:
        batch = await self._load(job.args["batch_id"])
        try:
            stream = await self._open(batch)
        except (NotFound, FileNotFoundError):
            told = [Fault(None, "file_deleted", "The input file was deleted.")]
            total = 0
        else:
            total, told = await asyncio.to_thread(faults_of, stream, batch.endpoint, self._longest)
        if told:
            errors = [fault.as_dict() for fault in told]
            await self._move(batch.id, "failed", ("validating",), errors=errors)
        else:
            await self._move(batch.id, "in_progress", ("validating",), total=total)

    async def _open(self, batch: Batch) -> IO[bytes]:
        file = await self._files.row(batch.tenant_id, batch.input_file_id)
        return await asyncio.to_thread(self._files.blobs.open, file.blob)

    async def _ask(self, job: Job) -> None:
        batch = await self._load(job.args["batch_id"])
        if batch.status != "in_progress":
            return  # refused, cancelled, or asked before a crash
        query = select(batch_lines.c.line).where(batch_lines.c.batch_id == batch.id)
        done = {int(row["line"]) for row in await self._db.rows(query)}
        run = _Run(batch, Principal.from_json(batch.principal))
        stream = await self._open(batch)
        lines = read(stream, batch.endpoint, self._longest)
        workers = [asyncio.create_task(self._work(run, lines, done)) for _ in range(self._at_once)]
        watch = asyncio.create_task(self._watch(run))
        try:
            await asyncio.gather(*workers)
        finally:
            watch.cancel()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(watch, *workers, return_exceptions=True)
            stream.close()
        if run.refused is not None:
            error = Fault(None, run.refused.code, run.refused.message).as_dict()
            async with self._db.write() as connection:
                await connection.execute(
                    update(batches).where(batches.c.id == batch.id).values(errors=[error])
                )

    async def _watch(self, run: _Run) -> None:
        """Stop a run that was cancelled, is out of time, or whose caller is no longer let in."""
        while not run.stop.is_set():
            try:
                status = (await self._load(run.batch.id)).status
                await self._still_valid(run.principal)
            except OstiaryError as error:
                run.refused = error
                run.stop.set()
            except Exception:
                log.exception("batch %s could not be looked at", run.batch.id)
            else:
                if status != "in_progress" or time.time() >= run.batch.expires_at:
                    run.stop.set()
            await asyncio.sleep(LOOK_S)

    async def _work(self, run: _Run, lines: Iterator[Line | Fault], done: set[int]) -> None:
        while not run.stop.is_set():
            async with run.reading:
                line = await asyncio.to_thread(next, lines, None)
            if line is None:
                return
            if isinstance(line, Line) and line.number not in done:
                await self._one(run, line)

    async def _one(self, run: _Run, line: Line) -> None:
        """Ask a line until it has an answer that stays, and keep that."""
        batch, pause = run.batch, FIRST_PAUSE_S
        body = orjson.dumps(line.body)
        while not run.stop.is_set():
            key = f"{batch.id}:{line.number}"
            answer = await self._inside.post(run.principal, batch.endpoint, body, key)
            wait = _seconds(answer.headers.get("retry-after"), pause)
            spent = answer.status == 402  # and begins anew, but perhaps too late for this batch
            in_time = time.time() + wait < batch.expires_at
            if not (_may_turn(answer) or (spent and in_time)):
                await self._keep(batch, line, answer)
                return
            pause = min(2 * pause, LONGEST_PAUSE_S)
            longest = BUDGET_PAUSE_S if spent else LONGEST_PAUSE_S
            try:
                async with asyncio.timeout(min(max(wait, FIRST_PAUSE_S), longest)):
                    await run.stop.wait()
            except TimeoutError:
                continue

    async def _keep(self, batch: Batch, line: Line, answer: Answer) -> None:
        told = orjson.loads(answer.body) if answer.body else None
        good = 200 <= answer.status < 300
        error = None
        if not good:
            given = told.get("error") if isinstance(told, dict) else None
            given = given if isinstance(given, dict) else {}
            error = {"code": given.get("code"), "message": given.get("message")}
        request_id = answer.headers.get("x-request-id", "")
        row = {
            "batch_id": batch.id,
            "line": line.number,
            "succeeded": good,
            "result": result(line, answer.status, request_id, told, error),
        }
        async with self._db.write() as connection:
            await connection.execute(
                self._db.insert(batch_lines).values(**row).on_conflict_do_nothing()
            )

    async def _write(self, job: Job) -> None:
        """Make the files, then say that the batch is over."""
        batch = await self._load(job.args["batch_id"])
        if batch.over:
            return
        counts = await self._counts(batch.id)
        final = _final(batch, sum(counts.values()))
        if batch.output_file_id is None and batch.error_file_id is None:
            names = {
                "output_file_id": new_id("file-") if counts[True] else None,
                "error_file_id": (new_id("file-") if counts[False] or final == "expired" else None),
            }
            values = {} if batch.status == "cancelling" else {"status": "finalizing"}
            async with self._db.write() as connection:
                await connection.execute(
                    update(batches)
                    .where(batches.c.id == batch.id)
                    .values(**values, **names, finalizing_at=time.time())
                )
            batch = await self._load(batch.id)
        never = 0
        with tempfile.TemporaryFile() as good, tempfile.TemporaryFile() as bad:
            done = await self._collect(batch, good, bad)
            if final == "expired":
                never = await self._never_asked(batch, bad, done)
            if batch.output_file_id is not None:
                await self._store(batch, batch.output_file_id, "output", good)
            if batch.error_file_id is not None:
                await self._store(batch, batch.error_file_id, "error", bad)
        counted = {"completed": counts[True], "failed": counts[False] + never}
        # the files hold what the lines were answered
        await self._move(batch.id, final, UNDER_WAY, forget_lines=True, **counted)

    async def _store(self, batch: Batch, file_id: str, what: str, content: IO[bytes]) -> None:
        """Store an output or error file, unless it was stored before a crash."""
        try:
            await self._files.row(batch.tenant_id, file_id)
        except NotFound:
            assert self.govern is not None
            principal, name = Principal.from_json(batch.principal), f"{batch.id}_{what}.jsonl"
            # a duty: a budget that the last line spent takes nobody's answers away
            async with self.govern("batch", f"job {KIND}", principal, duty=True) as call:
                call.lineage["batch"] = batch.id
                await self._files.keep(call, name, "batch_output", content, file_id, batch.owner)

    async def _collect(self, batch: Batch, good: IO[bytes], bad: IO[bytes]) -> set[int]:
        """Write the results apart; returns the numbers of the lines that have one."""
        done, last = set[int](), 0
        while rows := await self._db.rows(
            select(batch_lines)
            .where(batch_lines.c.batch_id == batch.id, batch_lines.c.line > last)
            .order_by(batch_lines.c.line)
            .limit(READ_AT_ONCE)
        ):
            last = int(rows[-1]["line"])
            done.update(int(row["line"]) for row in rows)
            for row in rows:
                (good if row["succeeded"] else bad).write(f"{row['result']}\n".encode())
        return done

    async def _never_asked(self, batch: Batch, out: IO[bytes], done: set[int]) -> int:
        """Tell of each line without a result that its time was over; returns how many."""
        never = 0
        error = {
            "code": "batch_expired",
            "message": "The line was not asked before the completion window ended.",
        }
        with await self._open(batch) as stream:
            for line in read(stream, batch.endpoint, self._longest):
                if isinstance(line, Line) and line.number not in done:
                    out.write(result(line, None, "", None, error).encode() + b"\n")
                    never += 1
        return never

    async def _ended(self, job: Job, status: str, message: str) -> None:
        """The job failed, or was cancelled as a job."""
        batch_id = job.args["batch_id"]
        errors = [Fault(None, f"job_{status}", message).as_dict()]
        counts = await self._counts(batch_id)
        await self._move(
            batch_id,
            status,
            UNDER_WAY,
            errors=errors,
            completed=counts[True],
            failed=counts[False],
        )


class _Run:
    """What the workers of one batch share."""

    def __init__(self, batch: Batch, principal: Principal) -> None:
        self.batch, self.principal = batch, principal
        self.stop = asyncio.Event()
        self.reading = asyncio.Lock()
        self.refused: OstiaryError | None = None


def _final(batch: Batch, answered: int) -> str:
    """The status that a batch ends with that was asked as far as it was to be."""
    if batch.status == "cancelling":
        return "cancelled"
    if batch.errors:
        return "failed"  # its caller was no longer let in
    return "completed" if answered >= batch.total else "expired"


def job_of(batch_id: str) -> str:
    """The job of a batch."""
    return f"job_{batch_id}"


def _seconds(told: str | None, otherwise: float) -> float:
    """What ``retry-after`` tells in seconds; a model server may tell a date instead."""
    return float(told) if told is not None and told.isdigit() else otherwise


def _may_turn(answer: Answer) -> bool:
    """Whether the line is worth another try: a limit, a part that is down, or its own twin."""
    if answer.status in AGAIN:
        return True
    return answer.status == 409 and b"idempotency_in_progress" in answer.body
