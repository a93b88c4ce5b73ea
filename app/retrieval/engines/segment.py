"""One segment opened for search: exact where that is cheaper, through its index elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.retrieval.engines import recipes
from app.retrieval.engines.arrays import NOTHING
from app.retrieval.engines.base import AllBut, Files, Ids, SegmentInfo, Vectors
from app.retrieval.engines.segment_file import SegmentData

EXACT_MOST = 10_000  # rows that pass a filter and are compared one by one rather than selected


@dataclass(frozen=True)
class Segment:
    """Immutable: removing a file makes another one over the same mapped vectors.

    Attributes:
        index: a FAISS index whose ids are rows; None for an exact segment.
        dead: places in ``data.files`` of the files that were removed.
    """

    info: SegmentInfo
    data: SegmentData
    index: Any = None
    dead: frozenset[int] = frozenset()

    @cached_property
    def live(self) -> int:
        """The number of rows that can be found."""
        return len(self.data.numbers) - sum(self._rows(i) for i in self.dead)

    def _rows(self, place: int) -> int:
        return int(self.data.starts[place + 1] - self.data.starts[place])

    @cached_property
    def _alive(self) -> NDArray[np.bool_]:
        alive = np.ones(len(self.data.files), bool)
        alive[list(self.dead)] = False
        return alive

    def _wanted(self, files: Files | None) -> NDArray[np.bool_]:
        """Which of the segment's files are searched: bool array of shape (len(files),)."""
        if files is None:
            return self._alive
        if isinstance(files, AllBut):
            wanted = self._alive.copy()
            wanted[[p for f in files.hidden if (p := self.data.place.get(f)) is not None]] = False
            return wanted
        wanted = np.zeros(len(self.data.files), bool)
        if len(files) < len(self.data.files):
            wanted[[p for f in files if (p := self.data.place.get(f)) is not None]] = True
        else:
            wanted[[i for i, f in enumerate(self.data.files) if f in files]] = True
        return wanted & self._alive

    def without(self, file_id: str) -> Segment:
        """This segment without one file; itself when the file is not in it."""
        place = self.data.place.get(file_id)
        if place is None or place in self.dead:
            return self
        return replace(self, dead=self.dead | {place})

    def vectors_of(self, file_id: str) -> tuple[Ids, Vectors] | None:
        """The rows of one file; None when it is not in the segment, or removed."""
        place = self.data.place.get(file_id)
        if place is None or place in self.dead:
            return None
        rows = slice(int(self.data.starts[place]), int(self.data.starts[place + 1]))
        return self.data.numbers[rows], self.data.vectors[rows]

    def live_files(self) -> list[tuple[str, int, int]]:
        """(file id, first row, row behind the last) of the files that were not removed."""
        starts = self.data.starts.tolist()
        return [
            (f, starts[i], starts[i + 1])
            for i, f in enumerate(self.data.files)
            if i not in self.dead
        ]

    def search(self, query: Vectors, k: int, files: Files | None = None) -> tuple[Ids, Vectors]:
        """Return numbers and inner products of the at most ``k`` nearest, best first."""
        wanted = self._wanted(files)
        if wanted.all():
            if self.index is not None:
                return self._through_index(query, k)
            return self._exact(query, k, [(0, len(self.data.numbers))])
        rows = np.diff(self.data.starts)
        allowed = int(rows[wanted].sum())
        if self.index is not None and allowed > max(EXACT_MOST, self._taken(k)):
            return self._through_index(query, k, np.repeat(wanted, rows), allowed)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]])))
        places = self.data.starts[edges].reshape(-1, 2)  # neighbours are one range
        return self._exact(query, k, [(a, b) for a, b in places.tolist() if b > a])

    def _taken(self, k: int) -> int:
        return recipes.candidates(k, self.info.recipe, self.info.count)

    def _exact(self, query: Vectors, k: int, ranges: list[tuple[int, int]]) -> tuple[Ids, Vectors]:
        if not ranges:
            return NOTHING
        scores = np.concatenate([self.data.vectors[a:b] @ query for a, b in ranges])
        best = _best(scores, k)
        rows = best
        if len(ranges) > 1:
            rows = np.concatenate([np.arange(a, b) for a, b in ranges])[best]
        elif ranges[0][0]:
            rows = best + ranges[0][0]
        return self.data.numbers[rows], scores[best]

    def _through_index(
        self, query: Vectors, k: int, mask: NDArray[np.bool_] | None = None, allowed: int = 0
    ) -> tuple[Ids, Vectors]:
        import faiss

        selector = bits = None
        effort = self.info.effort
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg,arg-type]
            # what passes lies further apart: look at twice as many rows that pass
            most = getattr(self.index, "nlist", 1 << 14)
            effort = int(min(2 * effort * len(mask) / max(1, allowed), most))
        parameters = recipes.parameters(self.info.recipe, max(1, effort), selector)
        _, found = self.index.search(query[None, :], self._taken(k), params=parameters)
        rows = found[0][found[0] >= 0]
        rows, scores = recipes.refine(self.data.vectors, query, rows, k)
        return self.data.numbers[rows], scores


def _best(scores: Vectors, k: int) -> Ids:
    """The places of the ``k`` largest, best first; ties in order of place."""
    if k < len(scores):
        part = np.argpartition(-scores, k - 1)[:k]
        part.sort()
        return part[np.argsort(-scores[part], kind="stable")]
    return np.argsort(-scores, kind="stable")
