"""What every engine does with numbers and vectors: check them, and choose the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.retrieval.engines.base import Ids, Vectors

NOTHING: tuple[Ids, Vectors] = (np.empty(0, np.int64), np.empty(0, np.float32))


def checked(numbers: Ids, vectors: Vectors, dim: int) -> tuple[Ids, Vectors]:
    """Return int64 numbers of shape (n,) and float32 vectors of shape (n, dim).

    Raises:
        ValueError: wrong shape, a repeated or negative number, a value that is not finite.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    numbers = np.ascontiguousarray(numbers, dtype=np.int64)
    if vectors.shape != (len(numbers), dim) or numbers.ndim != 1:
        raise ValueError(
            f"need numbers of shape (n,) and vectors of shape (n, {dim}), "
            f"got {numbers.shape} and {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold a value that is not finite")
    if len(numbers) and numbers.min() < 0:
        raise ValueError("numbers must be at least 0")
    if len(np.unique(numbers)) != len(numbers):
        raise ValueError("numbers must not repeat")
    return numbers, vectors


def checked_query(vector: Vectors, dim: int) -> Vectors:
    """Return a query as a float32 array of shape (dim,).

    Raises:
        ValueError: it is not finite or not of length ``dim``.
    """
    query = np.ascontiguousarray(vector, dtype=np.float32)
    if query.shape != (dim,) or not np.isfinite(query).all():
        raise ValueError(f"vector must be finite and of length {dim}")
    return query


def best_of(parts: Sequence[tuple[Ids, Vectors]], k: int) -> tuple[Ids, Vectors]:
    """The ``k`` best of several results, best first; ties in the order given."""
    if not parts:
        return NOTHING
    numbers = np.concatenate([n for n, _ in parts])
    scores = np.concatenate([s for _, s in parts])
    best = np.argsort(-scores, kind="stable")[:k]
    return numbers[best], scores[best]
