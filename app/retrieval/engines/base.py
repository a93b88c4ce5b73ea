"""The contract every vector engine keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One immutable file of vectors, as the manifest records it."""

    name: str
    count: int
    dim: int
    sha256: str
    bytes: int


class VectorEngine(Protocol):
    """Finds the nearest unit vectors by inner product."""

    @property
    def count(self) -> int:
        """The number of vectors that can be found."""
        ...

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add vectors; a known id gets its new vector.

        Args:
            ids: int64 array of shape (n,), unique, at least 0.
            vectors: float32 array of shape (n, d), finite.
        """
        ...

    def remove(self, ids: Ids) -> None:
        """Forget ids, int64 array of shape (n,); unknown ones are ignored."""
        ...

    def search(self, query: Vectors, k: int, allowed: Ids | None = None) -> tuple[Ids, Vectors]:
        """Return the at most ``k`` nearest, best first.

        Args:
            query: float32 array of shape (d,), finite.
            k: how many.
            allowed: search only these ids; all where None.

        Returns:
            ids, int64 array of shape (m,), and inner products, float32 array of shape (m,).
        """
        ...
