"""Constant-size mergeable summaries of what is observed: numbers, categories, embeddings."""

from __future__ import annotations

import heapq
import math
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

Kind = Literal["number", "category", "embedding"]
SKETCH_K = 320  # KLL: under 4 KB, each rank within 0.84 % with 99 % confidence
MOST_LABELS = 32  # of a category; what comes later is counted together
OTHER = "(other)"
SAMPLED = 256  # projections kept of a window
DIRECTIONS = 8
LARGEST = 3e38  # of 32-bit floats
_HEAD = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Steps:
    """A distribution function that steps up at the values.

    Attributes:
        values: float array of shape (m,), ascending.
        ranks: float array of shape (m + 1,), from 0 to 1; the share up to each value.
        count: of observations behind it.
        sigma: standard deviation of a rank that sketching adds; 0 where nothing was left out.
    """

    values: NDArray[np.float64]
    ranks: NDArray[np.float64]
    count: int
    sigma: float = 0.0

    @classmethod
    def of(
        cls,
        values: NDArray[np.floating[Any]],
        weights: NDArray[np.floating[Any]] | None = None,
        sigma: float = 0.0,
    ) -> Steps:
        """The steps of values, each of which stands for ``weights`` observations."""
        if weights is None:
            weights = np.ones(len(values))
        order = np.argsort(values, kind="stable")
        ranks = np.concatenate([[0.0], np.cumsum(weights[order], dtype=np.float64)])
        whole = ranks[-1]
        return cls(values[order].astype(np.float64), ranks / (whole or 1.0), int(whole), sigma)

    def share_up_to(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of observations that are at most ``at``; of its shape."""
        return self.ranks[np.searchsorted(self.values, at, side="right")]

    def quantiles(self, ranks: Iterable[float]) -> NDArray[np.float64]:
        """The values at ranks of 0 to 1."""
        places = np.searchsorted(self.ranks[1:], np.asarray(list(ranks)) - 1e-12)
        return self.values[np.minimum(places, len(self.values) - 1)]


class Numbers:
    """A KLL sketch (Karnin, Lang, Liberty 2016) of numbers, by Apache DataSketches."""

    kind: ClassVar[Kind] = "number"
    __slots__ = ("_kll",)

    def __init__(self, kll: Any = None, k: int = SKETCH_K) -> None:
        if kll is None:
            from datasketches import kll_floats_sketch

            kll = kll_floats_sketch(k)
        self._kll = kll

    @classmethod
    def read(cls, data: bytes) -> Numbers:
        """What :meth:`as_bytes` gave."""
        from datasketches import kll_floats_sketch

        return cls(kll_floats_sketch.deserialize(data))

    @property
    def count(self) -> int:
        """How many numbers were added."""
        return int(self._kll.n)

    def add(self, value: float) -> None:
        """Add a number; one that is none (NaN, infinite) is not counted."""
        if -LARGEST < value < LARGEST:
            self._kll.update(value)

    def add_all(self, values: NDArray[np.float32]) -> None:
        """Add finite numbers."""
        self._kll.update(values)

    def merge(self, other: Numbers) -> None:
        """Take in what another sketch has seen."""
        self._kll.merge(other._kll)

    def as_bytes(self) -> bytes:
        """The sketch in the format that DataSketches has in every language."""
        return bytes(self._kll.serialize())

    def steps(self) -> Steps:
        """Its distribution function."""
        pairs = np.array(list(self._kll), dtype=np.float64).reshape(-1, 2)
        # the error that is told holds with 99 % confidence
        sigma = self._kll.normalized_rank_error(False) / 2.576
        if not self._kll.is_estimation_mode():
            sigma = 0.0
        return Steps.of(pairs[:, 0], pairs[:, 1], sigma)


class Counts:
    """How often each label of a category was seen; yes and no are two of them."""

    kind: ClassVar[Kind] = "category"
    __slots__ = ("labels",)

    def __init__(self, labels: dict[str, int] | None = None) -> None:
        self.labels: dict[str, int] = labels or {}

    @classmethod
    def read(cls, data: bytes) -> Counts:
        """What :meth:`as_bytes` gave."""
        return cls(orjson.loads(data))

    @property
    def count(self) -> int:
        """How many labels were added."""
        return sum(self.labels.values())

    def add(self, value: str | bool, times: int = 1) -> None:
        """Count a label."""
        label = ("yes" if value else "no") if isinstance(value, bool) else value[:64]
        if label not in self.labels and len(self.labels) >= MOST_LABELS:
            label = OTHER
        self.labels[label] = self.labels.get(label, 0) + times

    def merge(self, other: Counts) -> None:
        """Take in what was counted elsewhere."""
        for label, times in other.labels.items():
            self.add(label, times)

    def as_bytes(self) -> bytes:
        """The counts as JSON."""
        return orjson.dumps(self.labels)


class Sample:
    """A uniform sample of projected embeddings: those that drew the least random numbers.

    So samples merge: the least of both are a uniform sample of all.
    """

    kind: ClassVar[Kind] = "embedding"
    __slots__ = ("_heap", "count")

    def __init__(self) -> None:
        self.count = 0
        self._heap: list[tuple[float, tuple[float, ...]]] = []  # the negative draws, least first

    @classmethod
    def read(cls, data: bytes) -> Sample:
        """What :meth:`as_bytes` gave."""
        found = cls()
        (found.count,) = _HEAD.unpack_from(data)
        rows = np.frombuffer(data, "<f4", offset=_HEAD.size).reshape(-1, 1 + DIRECTIONS)
        found._heap = [(row[0], tuple(row[1:])) for row in rows.tolist()]
        heapq.heapify(found._heap)
        return found

    def add(self, vector: NDArray[np.float32]) -> None:
        """Take part in the draw with an embedding of any length."""
        self.count += 1
        drawn = -random.random()  # noqa: S311
        if len(self._heap) < SAMPLED:
            heapq.heappush(self._heap, (drawn, _project(vector)))
        elif drawn > self._heap[0][0]:
            heapq.heapreplace(self._heap, (drawn, _project(vector)))

    def merge(self, other: Sample) -> None:
        """Take in another sample."""
        self.count += other.count
        self._heap = heapq.nlargest(SAMPLED, [*self._heap, *other._heap])
        heapq.heapify(self._heap)

    def as_bytes(self) -> bytes:
        """The count, then a row of draw and projection for each that is kept; 32-bit floats."""
        rows = np.array([(drawn, *row) for drawn, row in self._heap], "<f4")
        return _HEAD.pack(self.count) + rows.tobytes()

    def points(self) -> NDArray[np.float64]:
        """The projections that are kept; of shape (up to 256, 8)."""
        rows = [row for _, row in self._heap]
        return np.array(rows, dtype=np.float64).reshape(-1, DIRECTIONS)


Summary = Numbers | Counts | Sample
KINDS: dict[str, type[Numbers] | type[Counts] | type[Sample]] = {
    "number": Numbers,
    "category": Counts,
    "embedding": Sample,
}


def merged(kind: str, parts: Iterable[bytes]) -> Summary:
    """One summary of what several have seen; it has the size of one."""
    whole: Any = KINDS[kind]()
    for part in parts:
        whole.merge(KINDS[kind].read(part))
    found: Summary = whole
    return found


@lru_cache(maxsize=16)
def _directions(dim: int) -> NDArray[np.float32]:
    # this generator gives the same numbers in every release of NumPy, so that replicas agree
    drawn = np.random.RandomState(dim).standard_normal((dim, DIRECTIONS))
    return (drawn / math.sqrt(DIRECTIONS)).astype(np.float32)


def _project(vector: NDArray[np.float32]) -> tuple[float, ...]:
    """The vector on eight fixed random directions, which keep distances on the whole
    (Johnson, Lindenstrauss 1984)."""
    projected: list[float] = (vector @ _directions(len(vector))).tolist()
    return tuple(projected)
