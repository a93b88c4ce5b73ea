"""The contract every vector engine keeps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AllBut:
    """Every file but these few: quicker to leave out than to list all the others."""

    hidden: frozenset[str]


Files = Collection[str] | AllBut  # that a search looks through


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One immutable file of vectors, as the SQL manifest records it."""

    name: str
    count: int
    dim: int
    sha256: str
    bytes: int
    recipe: str = "flat"  # how it is searched
    index_bytes: int = 0  # of the file that holds the trained index; 0 when there is none
    index_sha256: str = ""
    effort: int = 0  # lists or nodes visited, tuned to the collection's recall target
    recall: float = 1.0  # recall@10 that the effort reached on held-out queries
    version: int = 0  # of the store: removals up to it are not in the segment


@dataclass(frozen=True, slots=True)
class EngineState:
    """What a collection's vectors are like now; the API reports it."""

    engine: str  # "faiss" or "milvus"
    recipes: tuple[str, ...]
    vectors: int
    memory_bytes: int
    disk_bytes: int
    recall_target: float
    recall: float | None  # reached on held-out queries; None where it was not measured


class VectorEngine(Protocol):
    """Finds the nearest unit vectors of one collection by inner product.

    Blocking, called from pool threads: one caller at a time writes, any number search beside
    it and never wait for it. A passage has one ``number`` for its whole life; a file that is
    attached anew gets new numbers. SQL decides what is live: a number that SQL does not know
    may be returned, and the caller drops it.
    """

    @property
    def count(self) -> int:
        """The number of vectors that can be found."""
        ...

    def write(self, file_id: str, numbers: Ids, vectors: Vectors) -> SegmentInfo | None:
        """Make the vectors of one file durable; writing the same numbers again is harmless.

        They need not be found before ``publish``. An engine that keeps its own manifest
        returns None.

        Args:
            numbers: int64 array of shape (n,), unique, at least 0.
            vectors: float32 array of shape (n, dim), finite, unit norm.

        Raises:
            ValueError: wrong shape, a repeated or negative number, a value that is not finite.
            Unavailable: the engine cannot be reached or written.
        """
        ...

    def publish(self, info: SegmentInfo | None) -> None:
        """Let searches that begin from now on find what ``write`` returned ``info`` for."""
        ...

    def remove(self, file_id: str) -> None:
        """Forget the vectors of a file; an unknown one is ignored."""
        ...

    def search(self, vector: Vectors, k: int, files: Files | None = None) -> tuple[Ids, Vectors]:
        """Return the at most ``k`` nearest, best first.

        Args:
            vector: float32 array of shape (dim,), finite, unit norm.
            k: how many.
            files: search the vectors of these files only; all where None.

        Returns:
            numbers, int64 array of shape (m,), and inner products, float32 array of shape (m,).
        """
        ...

    def vectors_of(self, file_id: str) -> tuple[Ids, Vectors]:
        """Return what is stored of one file, to copy or to check it.

        Returns:
            numbers, int64 array of shape (n,), and vectors, float32 array of shape (n, dim), in
            any order; n is 0 for an unknown file.
        """
        ...

    def state(self) -> EngineState:
        """What the index is like now."""
        ...

    def destroy(self) -> None:
        """Delete everything of this collection, for good."""
        ...
