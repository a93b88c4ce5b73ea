"""Chooses, builds and tunes the index of one segment by its size and recall target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from app.errors import BadRequest
from app.retrieval.engines import gpu
from app.retrieval.engines.base import Ids, Vectors

Recipe = Literal["flat", "hnsw", "ivf_sq8", "ivf_pq", "ivf_rabitq"]
RECIPES: tuple[str, ...] = get_args(Recipe)

FLAT_MOST = 20_000  # vectors; an exact scan of so many takes 2 to 4 ms on one core
CANDIDATES = 10  # times k are taken from the index and compared with the full vectors
LEAST_CANDIDATES = 100
COARSE = ("ivf_pq", "ivf_rabitq")  # recipes whose codes have half a byte a number or less
COARSE_ENOUGH = 100_000  # vectors up to which the least candidates do for coarse codes
HELD_OUT = 200  # vectors that serve as queries when the effort is tuned
TUNED_K = 10  # recall@10 is what targets speak of
_TRAIN_PER_LIST = 64
_SEED = 20_260_107


@dataclass(frozen=True, slots=True)
class Tuning:
    """The least effort that reached the target on held-out queries, and what it reached."""

    effort: int
    recall: float


def plan(count: int, wanted: str = "auto") -> str:
    """Return the recipe for a segment of ``count`` vectors.

    Up to 20,000 an exact scan is as fast as any index. Beyond, inverted lists of 4-bit product
    codes (Jégou, Douze, Schmid 2011; fast scan: André, Kermarrec, Le Scouarnec 2015), refined
    with the full vectors from disk, need the least memory at the same recall; see docs/scale.md.

    Raises:
        BadRequest: ``wanted`` is no recipe.
    """
    if wanted != "auto" and wanted not in RECIPES:
        raise BadRequest(f"'{wanted}' is no index recipe. Use auto or one of {', '.join(RECIPES)}.")
    if count <= FLAT_MOST or wanted == "flat":
        return "flat"
    return "ivf_pq" if wanted == "auto" else wanted


def lists_for(count: int) -> int:
    """The number of inverted lists: near 2 times the root of the count, a power of two."""
    return int(2 ** np.clip(round(np.log2(2 * np.sqrt(count))), 4, 16))


def factory(recipe: str, dim: int, lists: int, packed: bool = True) -> str:
    """FAISS's name of the index of a recipe; coarse codes ``packed`` for the fast scan."""
    if recipe == "hnsw":
        return "HNSW32,SQ8"
    if recipe == "ivf_sq8":
        return f"IVF{lists},SQ8"
    fast = "fs" if packed else ""
    if recipe == "ivf_rabitq":
        return f"IVF{lists},RaBitQ{fast}"
    parts = next(m for m in range(max(1, dim // 4), 0, -1) if dim % m == 0)
    return f"IVF{lists},PQ{parts}x4{fast}"


def build(recipe: str, vectors: Vectors, step: int = 65_536) -> Any:
    """Train and fill a FAISS index whose ids are the rows of ``vectors``.

    Inverted lists are built with the help of graphics cards where FAISS can use some.

    Args:
        vectors: float32 array of shape (n, dim), may be mapped from a file.
    """
    import faiss

    count, dim = vectors.shape
    lists = lists_for(count)
    on_cards = recipe != "hnsw" and gpu.cards() > 0
    named = factory(recipe, dim, lists, packed=not on_cards)
    index = faiss.index_factory(dim, named, faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(_SEED)
    rows = rng.permutation(count)[: max(_TRAIN_PER_LIST * lists, 10_000)]
    sample = np.ascontiguousarray(vectors[np.sort(rows)])
    parts = (np.ascontiguousarray(vectors[s : s + step]) for s in range(0, count, step))
    if on_cards:
        return gpu.build(index, sample, parts)
    index.train(sample)
    for part in parts:
        index.add(part)
    return index


def parameters(recipe: str, effort: int, selector: Any = None) -> Any:
    """FAISS's search parameters for an effort: lists visited, or nodes of a graph."""
    import faiss

    made: Any
    if recipe == "hnsw":
        made = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
        made.efSearch = effort
    else:
        made = faiss.SearchParametersIVF()
        made.nprobe = effort
    if selector is not None:
        made.sel = selector
    return made


def refine(vectors: Vectors, query: Vectors, rows: Ids, k: int) -> tuple[Ids, Vectors]:
    """The ``k`` best of ``rows`` by the full vectors, best first, with their inner products."""
    rows = np.sort(rows)  # in the order of the file
    scores = vectors[rows] @ query
    best = np.argsort(-scores, kind="stable")[:k]
    return rows[best], scores[best]


def candidates(k: int, recipe: str, count: int) -> int:
    """How many rows are taken from the index of ``count`` vectors for ``k`` results.

    Codes of 4 bits and less tell the nearest from their neighbours less well the closer these lie,
    so above 100,000 vectors more are compared in full, in step with the root of the count. Measured
    at 1,000,000 clustered vectors of 384 dimensions with 512 lists visited: recall@10 0.919 with
    100 of them, 0.979 with 320, 0.983 with 640.
    """
    least = max(CANDIDATES * k, LEAST_CANDIDATES)
    if recipe not in COARSE or count <= COARSE_ENOUGH:
        return least
    return int(least * np.sqrt(count / COARSE_ENOUGH))


def tune(
    recipe: str, index: Any, vectors: Vectors, target: float, queries: Vectors | None = None
) -> Tuning:
    """Find the least effort whose recall@10 reaches ``target``.

    The queries are vectors of the segment itself, moved a little, with themselves left out of
    what is to be found: harder than it sounds, since a true query lies nearer to its passage.

    Args:
        queries: float32 array of shape (m, dim) to use instead.
    """
    import faiss

    count, dim = vectors.shape
    rng = np.random.default_rng(_SEED + 1)
    own = np.full(HELD_OUT, -1)
    if queries is None:
        own = rng.choice(count, min(HELD_OUT, count), replace=False)
        noise = rng.standard_normal((len(own), dim)).astype(np.float32) * (0.2 / np.sqrt(dim))
        queries = vectors[own] + noise
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    wanted = min(TUNED_K + 1, count)
    _, exact = faiss.knn(queries, vectors, wanted, faiss.METRIC_INNER_PRODUCT)
    truth = [set(row[row != own_row][:TUNED_K]) for row, own_row in zip(exact, own, strict=False)]
    most = count if recipe == "hnsw" else index.nlist
    taken = candidates(TUNED_K, recipe, count)
    effort, reached = 16 if recipe == "hnsw" else 1, 0.0
    while True:
        _, found = index.search(queries, taken + 1, params=parameters(recipe, effort))
        right = 0
        for query, rows, near, own_row in zip(queries, found, truth, own, strict=False):
            rows = rows[(rows >= 0) & (rows != own_row)]
            right += len(near & set(refine(vectors, query, rows, TUNED_K)[0]))
        reached = right / max(1, sum(len(near) for near in truth))
        if reached >= target or effort >= min(most, 4096):
            return Tuning(effort, round(reached, 4))
        effort = min(most, effort * 2)
