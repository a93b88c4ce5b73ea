"""Whether a build finds what is near, measured before anybody searches it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.retrieval.engines.base import VectorEngine

QUERIES, NEAREST = 100, 10
SAME = 1e-5  # inner products closer than this are a tie


def measured_recall(engine: VectorEngine, files: Sequence[str], dim: int) -> float | None:
    """Recall@10 of a build against exact search through everything it holds; blocking.

    The queries are up to 100 stored vectors of files from all over the collection; none counts
    as its own neighbour. What is as near as the tenth counts as found.

    Returns:
        The share in 0..1; None when there are no two vectors.
    """
    files = sorted(files)
    numbers, queries = _sampled(engine, files, dim)
    if not len(queries):
        return None
    best = np.full((len(queries), NEAREST), -np.inf, np.float32)
    for file_id in files:
        others, vectors = engine.vectors_of(file_id)
        near = queries @ vectors.T
        near[numbers[:, None] == others[None, :]] = -np.inf
        best = -np.sort(-np.hstack([best, near]), axis=1)[:, :NEAREST]
    found = wanted = 0
    for number, query, exact in zip(numbers, queries, best, strict=True):
        near_numbers, scores = engine.search(query, NEAREST + 1)
        reached = scores[near_numbers != number][:NEAREST]
        there = int(np.isfinite(exact).sum())
        wanted += there
        if there:
            found += min(there, int((reached >= exact[there - 1] - SAME).sum()))
    return round(found / wanted, 4) if wanted else None


def _sampled(
    engine: VectorEngine, files: Sequence[str], dim: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    random = np.random.default_rng(0)
    numbers, vectors = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    some = min(QUERIES, len(files))
    for place in random.permutation(len(files))[:some].tolist():
        own, held = engine.vectors_of(files[place])
        rows = random.permutation(len(own))[: -(-QUERIES // some)]
        numbers.append(own[rows])
        vectors.append(held[rows])
    return np.concatenate(numbers)[:QUERIES], np.concatenate(vectors)[:QUERIES]
