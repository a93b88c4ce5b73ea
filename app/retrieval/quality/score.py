"""The scores of one ranker on a judged set, each question kept, and of two side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from app.retrieval.quality import metrics
from app.retrieval.quality.judged import JudgedQuery
from app.retrieval.quality.matching import Returned, match
from app.retrieval.quality.significance import Comparison, bootstrap_interval, compare

MAIN = "nDCG@10"
_Measure = Callable[[Sequence[str], metrics.Grades, int], float]
_MEASURES: dict[str, tuple[_Measure, int]] = {
    MAIN: (metrics.ndcg, 10),
    "recall@1": (metrics.recall, 1),
    "recall@5": (metrics.recall, 5),
    "recall@10": (metrics.recall, 10),
    "recall@20": (metrics.recall, 20),
    "precision@5": (metrics.precision, 5),
    "success@5": (metrics.success, 5),
    "MRR@10": (metrics.reciprocal_rank, 10),
    "MAP@10": (metrics.average_precision, 10),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One question: what was returned (best first), how it scored, and how long it took.

    ``first`` is the rank of the first right result, None where none was returned; a search
    that failed has an ``error`` and scores 0 everywhere.
    """

    query: JudgedQuery
    results: tuple[Returned, ...]
    scores: dict[str, float]
    first: int | None
    ms: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One ranker on a judged set; rows in the order of the questions."""

    name: str
    rows: tuple[Row, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures that the depth of the search allows."""
        return tuple(self.rows[0].scores)

    def values(self, measure: str, kind: str | None = None) -> list[float]:
        """The measure's value of every question, or of the questions of one kind."""
        return [r.scores[measure] for r in self.rows if kind is None or r.query.kind == kind]

    def mean(self, measure: str, kind: str | None = None) -> float:
        """The mean over the questions."""
        return fmean(self.values(measure, kind))

    def interval(self, measure: str) -> tuple[float, float]:
        """The 95 % bootstrap interval of the mean."""
        return bootstrap_interval(self.values(measure))

    @property
    def kinds(self) -> dict[str, int]:
        """How many questions there are of each kind, where kinds are told."""
        found: dict[str, int] = {}
        for row in self.rows:
            if row.query.kind:
                found[row.query.kind] = found.get(row.query.kind, 0) + 1
        return found

    @property
    def errors(self) -> tuple[Row, ...]:
        """The questions whose search failed."""
        return tuple(r for r in self.rows if r.error)


def row_of(
    query: JudgedQuery,
    results: Sequence[Returned],
    depth: int,
    ms: float = 0.0,
    error: str | None = None,
) -> Row:
    """Score what was returned for one question.

    Args:
        depth: how many results were asked for; measures that look deeper are left out.
        ms: how long the search took, milliseconds.
    """
    matched = match(query, results)
    scores = {
        name: measure(matched.ranking, matched.grades, k)
        for name, (measure, k) in _MEASURES.items()
        if k <= depth
    }
    if depth < 10:  # the main measure is always there, over what was asked for
        scores = {MAIN: metrics.ndcg(matched.ranking, matched.grades, 10), **scores}
    return Row(query, tuple(results), scores, matched.first, ms, error)


def compare_measured(first: Measured, second: Measured) -> dict[str, Comparison]:
    """Compare two rankers on the same questions, measure by measure.

    Raises:
        ValueError: they were not asked the same questions.
    """
    if [r.query.id for r in first.rows] != [r.query.id for r in second.rows]:
        raise ValueError("The two were not asked the same questions in the same order.")
    both = [m for m in first.measures if m in second.measures]
    return {m: compare(first.values(m), second.values(m)) for m in both}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie, the nearest that is among them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def as_dict(measured: Measured) -> dict[str, object]:
    """A ranker's scores for JSON: means with intervals, latency, and one object a question."""
    means: Mapping[str, object] = {
        m: {"mean": measured.mean(m), "interval": list(measured.interval(m))}
        for m in measured.measures
    }
    times = [r.ms for r in measured.rows]
    rows = [
        {
            "id": r.query.id,
            "question": r.query.text,
            "kind": r.query.kind,
            "first": r.first,
            "ms": round(r.ms, 1),
            "error": r.error,
            "files": [f.filename for f in r.results],
            **r.scores,
        }
        for r in measured.rows
    ]
    return {
        "name": measured.name,
        "questions": len(rows),
        "measures": means,
        "kinds": {
            kind: {"questions": n, MAIN: measured.mean(MAIN, kind)}
            for kind, n in measured.kinds.items()
        },
        "latency_ms": {"p50": percentile(times, 0.5), "p95": percentile(times, 0.95)},
        "rows": rows,
    }
