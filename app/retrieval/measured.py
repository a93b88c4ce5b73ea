"""The points that were measured, from which plans are reckoned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from app.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Effort:
    """One measured point of a sweep."""

    effort: int
    recall: float
    p50_ms: float
    qps: float


@dataclass(frozen=True, slots=True)
class Point:
    """One index that was measured: built, held and searched at several efforts."""

    engine: str
    recipe: str
    vectors: int
    dim: int
    build_s: float
    build_cores: int
    memory_a_vector: float
    disk_a_vector: float
    efforts: tuple[Effort, ...]

    @property
    def label(self) -> str:
        """How a reader is told of it."""
        return f"{self.engine} {self.recipe}, {self.vectors:,} × {self.dim}"

    def reaching(self, recall: float) -> Effort | None:
        """The fastest effort with at least this recall."""
        good = [e for e in self.efforts if e.recall >= recall]
        return min(good, key=lambda e: e.p50_ms) if good else None


@dataclass(frozen=True, slots=True)
class Measured:
    """All points that plans start from."""

    machine: str
    points: tuple[Point, ...]
    texts_a_core_s: float
    embedder: str

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Measured:
        """The content of `measured.json`."""
        points = tuple(
            Point(**{**p, "efforts": tuple(Effort(**e) for e in p["efforts"])})
            for p in raw["points"]
        )
        embedding = raw["embedding"]
        per_core = embedding["texts_s"] / embedding["cores"]
        return cls(raw["machine"], points, per_core, embedding["model"])

    def reaches(self, engine: str, recipe: str, recall: float) -> bool:
        """Whether an index of this kind reached the recall at some size."""
        return any(
            (p.engine, p.recipe) == (engine, recipe) and p.reaching(recall) for p in self.points
        )

    def nearest(self, engine: str, recipe: str, vectors: int, recall: float) -> Point:
        """The measured index to start from: the largest of at most ``vectors``, or the smallest.

        Raises:
            BadRequest: no index of this kind reached the recall.
        """
        kind = [p for p in self.points if (p.engine, p.recipe) == (engine, recipe)]
        found = sorted((p for p in kind if p.reaching(recall)), key=lambda p: p.vectors)
        if not found:
            best = max((e.recall for p in kind for e in p.efforts), default=0.0)
            raise BadRequest(
                f"No measured {recipe} index of {engine} reached a recall of {recall:g}; the best "
                f"is {best:g}. Plan for less, or measure more effort with "
                "`python -m benchmarks.retrieval --points`.",
                param="recall",
            )
        below = [p for p in found if p.vectors <= vectors]
        return below[-1] if below else found[0]


@cache
def shipped() -> Measured:
    """The points that come with the package."""
    text = files("app.retrieval").joinpath("measured.json").read_text("utf-8")
    return Measured.read(json.loads(text))
