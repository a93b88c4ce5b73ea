"""Drives a bulk embedding run from its inputs to the manifest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from app.errors import MissingExtra, Unavailable
from app.ids import new_id
from pipelines.embeddings import keys
from pipelines.embeddings.chunking import Chunked, ChunkTask
from pipelines.embeddings.driving import Driver, Stopped
from pipelines.embeddings.embed_stage import EmbedStage
from pipelines.embeddings.job import EmbedJob, ModelSpec
from pipelines.embeddings.journal import Journal
from pipelines.embeddings.layout import Unit, write_errors
from pipelines.embeddings.lineage import Lineage
from pipelines.embeddings.matching import (
    Matched,
    MatchTask,
    Roll,
    refs_folder,
    roll,
    roll_name,
    split,
)
from pipelines.embeddings.model import ModelInfo, describe
from pipelines.embeddings.plan import (
    FailedFile,
    Plan,
    SurveyTask,
    claim,
    done_name,
    draw,
    history,
)
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.runners import Runner
from pipelines.embeddings.shards import EmbedTask
from pipelines.embeddings.sources import Source, Survey, expand
from pipelines.embeddings.storage import Folder


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended.

    ``state`` is ``complete``, ``incomplete`` where parts failed, or ``stopped``; ``shards`` and
    ``passages`` count the inputs as they are now, ``embedded`` what this run's model did.
    """

    state: str
    shards: int
    passages: int
    embedded: int
    copied: int
    errors: int
    failed: tuple[str, ...]  # what failed whole, and why
    seconds: float


@dataclass(frozen=True, slots=True)
class DescribeTask:
    """Loads the model in a worker, so that the driver never holds it."""

    spec: ModelSpec

    @property
    def label(self) -> str:
        return "load the model"

    def run(self) -> ModelInfo:
        return describe(self.spec)


def embed(
    job: EmbedJob,
    runner: Runner,
    progress: Progress,
    *,
    lineage: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    grace_s: float = 20.0,
) -> Report:
    """Bring the output folder up to date with the inputs.

    What is there already is kept, whatever stopped the run that made it; the result is the
    same to the byte. The caller closes the runner.

    Args:
        lineage: where OpenLineage events go, see `Lineage`.
        stop: asked often; once true, no new shard is begun.
        grace_s: seconds that running shards then have to end.

    Raises:
        BadRequest, NotFound: the job or an input is wrong.
        Conflict: the output folder belongs to another model.
        Unavailable: another run has the folder, or the model cannot be loaded.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtra("Reading and writing Parquet", "pipelines")
    job.check()
    folder = Folder(job.output)
    with folder.owned():
        progress.start()
        run = _Run(job, folder, Driver(runner, progress, stop, grace_s), progress)
        try:
            return run.go(lineage)
        except Stopped:
            run.tell("ABORT")
            return run.report("stopped", None)
        except Exception as error:
            run.tell("FAIL", error=str(error))
            raise
        finally:
            progress.write()


class _Run:
    def __init__(self, job: EmbedJob, folder: Folder, driver: Driver, progress: Progress) -> None:
        self.job, self.folder, self.progress = job, folder, progress
        self._drive = driver.drive
        self._lineage: Lineage | None = None
        self._failed: list[dict[str, Any]] = []

    def tell(self, state: str, **facts: Any) -> None:
        if self._lineage is not None:
            self._lineage.tell(state, **facts)

    def go(self, lineage: str | None) -> Report:
        self.folder.sweep()
        model = self._describe()
        claim(self.folder, self.job, model)
        plan, resumed = self._plan(model)
        self._lineage = Lineage(lineage, self.job, str(uuid.UUID(hex=plan.lineage_id)))
        self.tell("RUNNING" if resumed else "START", rows_in=plan.rows)
        journal = Journal(self.folder)
        todo = [unit for unit in plan.units if unit.id not in journal.records]
        self.progress.units_total = len(plan.units)
        self.progress.units_done = len(plan.units) - len(todo)
        chunked = self._chunk(model, todo)
        known = self._enrol(plan, chunked, journal)
        todo = [unit for unit in todo if unit.id in chunked and unit.seq in known.ids]
        matched = self._match(plan, known) if todo else []
        stage = EmbedStage(self.job, model, plan.run, todo, chunked, matched)
        self._embed(stage, journal)
        return self._finish(plan, journal)

    def _describe(self) -> ModelInfo:
        for outcome in self._drive([DescribeTask(self.job.model)]):
            if outcome.error:
                raise Unavailable(outcome.error, code=outcome.code)
            model: ModelInfo = outcome.value
            return model
        raise Stopped

    def _plan(self, model: ModelInfo) -> tuple[Plan, bool]:
        past = history(self.folder)
        reading = self.job.reading(model.fingerprint)
        columns = tuple(self.job.columns.all())
        sizes = (self.job.shard_bytes, self.job.shard_rows)
        tasks = [
            SurveyTask(source, columns, *sizes, past.survey_of(source, reading, self.job))
            for source in expand(self.job.inputs)
        ]
        self.progress.enter("survey", len(tasks))
        surveys: list[tuple[Source, Survey]] = []
        failed: list[FailedFile] = []
        for outcome in self._drive(tasks):
            assert isinstance(outcome.task, SurveyTask)
            source = outcome.task.source
            if outcome.error:
                failed.append(FailedFile(source.name, outcome.code, outcome.error))
            else:
                surveys.append((source, outcome.value))
            self.progress.work_done += 1
        plan = draw(self.job, reading, past, surveys, failed, new_id(""))
        resumed = False
        if past.last is None or not plan.same_work(past.last):
            plan.save(self.folder)
        elif past.finished:  # nothing to do, which is a run of its own to whom it concerns
            plan = replace(past.last, lineage_id=plan.lineage_id)
        else:
            plan, resumed = past.last, True
        for file in plan.failed:
            self._failed.append({"source": file.name, "code": file.code, "reason": file.reason})
        return plan, resumed

    def _chunk(self, model: ModelInfo, todo: list[Unit]) -> dict[str, Chunked]:
        tasks: list[ChunkTask] = []
        for unit in todo:
            last = tasks[-1].units[-1] if tasks else None
            if last is not None and last.source == unit.source and not unit.source.seekable:
                tasks[-1] = ChunkTask(self.job, model, (*tasks[-1].units, unit))
            else:
                tasks.append(ChunkTask(self.job, model, (unit,)))
        rows = {unit.id: unit.span.rows for unit in todo}
        self.progress.enter("chunk", sum(rows.values()))
        chunked: dict[str, Chunked] = {}
        for outcome in self._drive(tasks):
            assert isinstance(outcome.task, ChunkTask)
            units = outcome.task.units
            self.progress.work_done += sum(rows[unit.id] for unit in units)
            if outcome.error:
                for unit in units:
                    self._fail(unit, outcome.code, outcome.error)
                continue
            for each in outcome.value:
                chunked[each.unit] = each
                self.progress.errors += each.errors
        return chunked

    def _enrol(self, plan: Plan, chunked: dict[str, Chunked], journal: Journal) -> Roll:
        """Fix which units are matched with which, once until this run ends."""
        if not self.folder.exists(roll_name(plan.run)):
            made = {n.removesuffix(".parquet") for n in self.folder.names("shards", ".parquet")}
            keyed = {n.removesuffix(".keys") for n in self.folder.names("keys", ".keys")}
            seqs = history(self.folder).seqs
            ids = {seq: unit for unit, seq in seqs.items() if unit in made & keyed}
            new = {u.seq: u.id for u in plan.units if u.id in chunked and u.id not in made}
            total = sum(chunked[unit].passages for unit in new.values())
            for unit in ids.values():
                known = journal.records.get(unit)
                total += known.passages if known else keys.count(self.folder, f"keys/{unit}.keys")
            self.folder.write(roll_name(plan.run), Roll(ids | new, frozenset(new), total).dump())
        enrolled = roll(self.job.output, plan.run)
        for late in plan.units:
            if late.id in chunked and late.seq not in enrolled.ids:
                reason = "It became readable after the others were matched. Run again."
                self._fail(late, "late", reason)
        return enrolled

    def _match(self, plan: Plan, known: Roll) -> list[Matched]:
        ranges = split(known.keys, self.job.buckets)
        tasks = [MatchTask(self.job.output, plan.run, first, last) for first, last in ranges]
        self.progress.enter("match", len(tasks))
        matched = []
        for outcome in self._drive(tasks):
            if outcome.error:  # without it nobody knows what to embed
                raise Unavailable(f"{outcome.task.label}: {outcome.error}", code=outcome.code)
            matched.append(outcome.value)
            self.progress.work_done += 1
        return matched

    def _embed(self, stage: EmbedStage, journal: Journal) -> None:
        progress = self.progress
        progress.enter("embed", stage.work)
        try:
            for outcome in self._drive(stage.tasks()):
                assert isinstance(outcome.task, EmbedTask)
                unit = outcome.task.unit
                progress.work_done += stage.work_of(unit)
                if outcome.error:
                    self._fail(unit, outcome.code, outcome.error)
                    for lost in stage.failed(unit):
                        reason = f"It copies from the shard of {unit.source.name}, which failed."
                        self._fail(lost, "owner_failed", reason)
                    continue
                stage.done(unit)
                journal.add(outcome.value)
                progress.units_done += 1
                progress.passages += outcome.value.passages
                progress.embedded += outcome.value.embedded
                progress.copied += outcome.value.passages - outcome.value.embedded
                progress.errors += outcome.value.errors
        finally:
            journal.flush()

    def _finish(self, plan: Plan, journal: Journal) -> Report:
        state = "incomplete" if self._failed else "complete"
        self.folder.sweep()  # killed workers left their halves
        journal.publish(plan.units)
        name = f"errors/failed-{plan.run:06d}.parquet"
        if self._failed:
            write_errors(self.folder, name, self._failed)
        else:
            self.folder.delete(name)
            done = json.dumps({"shards": len(plan.units)})
            self.folder.write(done_name(plan.run), done.encode())
        # an incomplete run is matched anew, then with those that failed now
        for refs in sorted(self.folder.names(refs_folder(plan.run))):
            self.folder.delete(f"{refs_folder(plan.run)}/{refs}")
        self.folder.delete(roll_name(plan.run))
        roll.cache_clear()
        journal.clear()
        if not self._failed:
            for left in sorted(self.folder.names("passages", ".parquet")):
                self.folder.delete(f"passages/{left}")
        report = self.report(state, journal, plan)
        records = [journal.records[u.id] for u in plan.units if u.id in journal.records]
        self.tell(
            "FAIL" if self._failed else "COMPLETE",
            rows_in=plan.rows,
            rows_out=report.passages,
            bytes_out=sum(r.bytes for r in records),
            files_out=len(records),
            error=f"{len(self._failed)} parts failed" if self._failed else None,
        )
        return report

    def _fail(self, unit: Unit, code: str, reason: str) -> None:
        self.progress.failed_units += 1
        told = {"source": unit.source.name, "row": unit.span.first, "code": code}
        self._failed.append({**told, "reason": reason})

    def report(self, state: str, journal: Journal | None, plan: Plan | None = None) -> Report:
        progress = self.progress
        passages = progress.passages
        if journal is not None and plan is not None:
            found = (journal.records.get(unit.id) for unit in plan.units)
            passages = sum(record.passages for record in found if record is not None)
        return Report(
            state,
            progress.units_done,
            passages,
            progress.embedded,
            progress.copied,
            progress.errors,
            tuple(f"{f['source']}: {f['reason']}" for f in self._failed),
            progress.clock() - progress.began,
        )


def prune(output: str) -> int:
    """Delete the shards of inputs that are gone or changed; return how many.

    What still counts keeps its own copy of every vector. Without the old shards, a passage
    that was only in them would be embedded again if it came back.

    Raises:
        Unavailable: a run is writing the folder, or its last run did not end.
    """
    folder = Folder(output)
    with folder.owned():
        past = history(folder)
        if past.last is None or not past.finished:
            raise Unavailable("The folder's last run did not end. Run it to its end first.")
        live = {unit.id for unit in past.last.units}
        gone = 0
        for place, suffix in (("shards", ".parquet"), ("keys", ".keys")):
            for name in sorted(folder.names(place, suffix)):
                if name.removesuffix(suffix) not in live:
                    folder.delete(f"{place}/{name}")
                    gone += place == "shards"
        for name in sorted(folder.names("errors", ".parquet")):
            if name.partition("-")[0] not in {*live, "failed"}:
                folder.delete(f"errors/{name}")
        for name in sorted(folder.names("runs")):
            if int(name[:6]) < past.last.run:
                folder.delete(f"runs/{name}")
        return gone
