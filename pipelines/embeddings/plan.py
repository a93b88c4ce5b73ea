"""What a run will make, written down before any of it is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from app.errors import Conflict
from pipelines.embeddings.job import FORMAT, EmbedJob
from pipelines.embeddings.layout import FOLDER, Unit
from pipelines.embeddings.model import ModelInfo
from pipelines.embeddings.sources import Source, Span, Survey, fingerprint, survey
from pipelines.embeddings.storage import Folder


@dataclass(frozen=True, slots=True)
class FailedFile:
    """An input file that could not be read, and why."""

    name: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One run's units in the order of their rows, and the files that it leaves out."""

    run: int
    lineage_id: str  # UUID of the run's lineage events, the same after a restart
    reading: str
    sizes: tuple[int, int]  # shard_bytes and shard_rows that the spans were cut by
    units: tuple[Unit, ...]
    failed: tuple[FailedFile, ...] = ()

    @property
    def name(self) -> str:
        return _plan_name(self.run)

    @property
    def rows(self) -> int:
        return sum(unit.span.rows for unit in self.units)

    def same_work(self, other: Plan) -> bool:
        return [u.id for u in self.units] == [u.id for u in other.units] and (
            self.failed == other.failed
        )

    def save(self, folder: Folder) -> None:
        head = {
            "run": self.run,
            "lineage_id": self.lineage_id,
            "reading": self.reading,
            "sizes": self.sizes,
            "failed": [asdict(f) for f in self.failed],
        }
        lines = [head, *(_unit_line(unit) for unit in self.units)]
        data = "".join(json.dumps(line, sort_keys=True, default=str) + "\n" for line in lines)
        folder.write(self.name, data.encode())


def _plan_name(run: int) -> str:
    return f"runs/{run:06d}.plan.jsonl"


def done_name(run: int) -> str:
    return f"runs/{run:06d}.done.json"


def _unit_line(unit: Unit) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": unit.id,
        "seq": unit.seq,
        "url": unit.source.url,
        "name": unit.source.name,
        "first": unit.span.first,
        "rows": unit.span.rows,
        "offset": unit.span.offset,
        "fingerprint": unit.fingerprint,
    }
    if unit.source.constants:
        line["constants"] = unit.source.constants
    if unit.source.dropped:
        line["dropped"] = unit.source.dropped
    return line


def load(folder: Folder, run: int) -> Plan:
    """Read a plan back."""
    head, *lines = map(json.loads, folder.read(_plan_name(run)).splitlines())
    units = tuple(
        Unit(
            line["id"],
            line["seq"],
            Source(
                line["url"], line["name"], line.get("constants", {}), tuple(line.get("dropped", ()))
            ),
            Span(line["first"], line["rows"], line["offset"]),
            line["fingerprint"],
        )
        for line in lines
    )
    failed = tuple(FailedFile(**f) for f in head["failed"])
    return Plan(
        head["run"], head["lineage_id"], head["reading"], tuple(head["sizes"]), units, failed
    )


@dataclass(frozen=True, slots=True)
class History:
    """What earlier runs planned: the number of the last, and every unit's ``seq`` by id."""

    last: Plan | None = None
    finished: bool = True
    seqs: dict[str, int] = field(default_factory=dict)

    @property
    def next_seq(self) -> int:
        return max(self.seqs.values(), default=-1) + 1

    def survey_of(self, source: Source, reading: str, job: EmbedJob) -> Survey | None:
        """Return how the last run cut a file, which holds while the file does not change."""
        last = self.last
        if last is None or (last.reading, last.sizes) != (
            reading,
            (job.shard_bytes, job.shard_rows),
        ):
            return None
        mine = [unit for unit in last.units if unit.source == source]
        if not mine:
            return None
        spans = tuple(unit.span for unit in mine)
        return Survey(mine[0].fingerprint, spans, sum(s.rows for s in spans), 0)


def history(folder: Folder) -> History:
    """Read all that was planned in this folder."""
    names = folder.names("runs")
    runs = sorted(int(n[:6]) for n in names if n.endswith(".plan.jsonl"))
    if not runs:
        return History()
    seqs: dict[str, int] = {}
    plan = None
    for run in runs:
        plan = load(folder, run)
        seqs.update((unit.id, unit.seq) for unit in plan.units)
    return History(plan, done_name(runs[-1]).partition("/")[2] in names, seqs)


@dataclass(frozen=True, slots=True)
class SurveyTask:
    """Measures one file, or confirms that it is as it was."""

    source: Source
    columns: tuple[str, ...]
    shard_bytes: int
    shard_rows: int
    known: Survey | None

    @property
    def label(self) -> str:
        return f"survey {self.source.name}"

    def run(self) -> Survey:
        """Return the file's spans.

        Raises:
            Unavailable: the file cannot be read whole.
        """
        if self.known is not None and fingerprint(self.source) == self.known.fingerprint:
            return self.known
        return survey(self.source, list(self.columns), self.shard_bytes, self.shard_rows)


def draw(
    job: EmbedJob,
    reading: str,
    past: History,
    surveys: Iterable[tuple[Source, Survey]],
    failed: Iterable[FailedFile],
    lineage_id: str,
) -> Plan:
    """Return the plan of what was surveyed, with new units numbered after all old ones."""
    units = []
    seq = past.next_seq
    for source, found in sorted(surveys, key=lambda pair: pair[0].name):
        for span in found.spans:
            told = [reading, source.name, found.fingerprint, span.first, span.rows]
            name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
            known = past.seqs.get(name)
            units.append(
                Unit(name, seq if known is None else known, source, span, found.fingerprint)
            )
            seq += known is None
    run = past.last.run + 1 if past.last else 1
    left_out = tuple(sorted(failed, key=lambda f: f.name))
    sizes = (job.shard_bytes, job.shard_rows)
    return Plan(run, lineage_id, reading, sizes, tuple(units), left_out)


def claim(folder: Folder, job: EmbedJob, model: ModelInfo) -> None:
    """Bind an output folder to the model whose vectors it holds.

    Raises:
        Conflict: it holds another model's, or was laid out otherwise.
    """
    mine = {
        "format": FORMAT,
        "model": model.name,
        "fingerprint": model.fingerprint,
        "prefix": model.prefix,
        "dim": model.dim,
        "buckets": job.buckets,
    }
    if not folder.exists(FOLDER):
        folder.write(FOLDER, json.dumps(mine, sort_keys=True).encode())
        return
    held = json.loads(folder.read(FOLDER))
    for name, value in mine.items():
        if held.get(name) != value:
            raise Conflict(
                f"This output folder was made with {name} {held.get(name)!r}, this run has "
                f"{value!r}. Use another folder, or the same {name}.",
                code="other_output",
            )
