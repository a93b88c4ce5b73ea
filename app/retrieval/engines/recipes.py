"""Chooses, builds and tunes the index of one segment by its size and recall target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from app.errors import BadRequest
from app.retrieval.engines import gpu
from app.retrieval.engines.base import Ids, Vectors

Recipe = Literal["flat", "hnsw", "ivf_sq8", "ivf_pq", "ivf_pq_fine", "ivf_rabitq"]
RECIPES: tuple[str, ...] = get_args(Recipe)
AUTO = ("ivf_pq", "ivf_pq_fine", "ivf_sq8")  # what ``auto`` tries until the recall is reached

FLAT_MOST = 20_000  # vectors; an exact scan of so many takes 2 to 4 ms on one core
CANDIDATES = 10  # times k are taken from the index and compared with the full vectors
LEAST_CANDIDATES = 100
COARSE = ("ivf_pq", "ivf_pq_fine", "ivf_rabitq")  # codes of a quarter of a byte a number or less
A_CODE = {"ivf_pq": 4, "ivf_pq_fine": 2}  # numbers of a vector that share a code of 4 bits
COARSE_ENOUGH = 100_000  # vectors up to which the least candidates do for coarse codes
HELD_OUT = 200  # vectors that serve as queries when the effort is tuned
MOST_EFFORT = 4096  # lists visited, or nodes of a graph
LEVEL = 0.002  # recall that counts as no gain
TUNED_K = 10  # recall@10 is what targets speak of
_TRAIN_PER_LIST = 64
_SEED = 20_260_107


@dataclass(frozen=True, slots=True)
class Tuning:
    """The least effort that reached the target on held-out queries, and what it reached."""

    effort: int
    recall: float


def plan(count: int, wanted: str = "auto") -> tuple[str, ...]:
    """Return the recipes to try, in order, for a segment of ``count`` vectors.

    Up to 20,000 an exact scan is as fast as any index. Beyond, inverted lists of 4-bit product
    codes (Jégou, Douze, Schmid 2011; fast scan: André, Kermarrec, Le Scouarnec 2015), refined
    with the full vectors from disk, need the least memory at the same recall; see docs/scale.md.
    Where they miss the recall target, finer codes follow.

    Raises:
        BadRequest: ``wanted`` is no recipe.
    """
    if wanted != "auto" and wanted not in RECIPES:
        raise BadRequest(f"'{wanted}' is no index recipe. Use auto or one of {', '.join(RECIPES)}.")
    if count <= FLAT_MOST or wanted == "flat":
        return ("flat",)
    return AUTO if wanted == "auto" else (wanted,)


def lists_for(count: int) -> int:
    """The number of inverted lists: near 2 times the root of the count, a power of two."""
    return int(2 ** np.clip(round(np.log2(2 * np.sqrt(count))), 4, 16))


def factory(recipe: str, dim: int, lists: int) -> str:
    """FAISS's name of the index of a recipe, its codes not yet packed for the fast scan."""
    if recipe == "hnsw":
        return "HNSW32,SQ8"
    if recipe == "ivf_sq8":
        return f"IVF{lists},SQ8"
    if recipe == "ivf_rabitq":
        return f"IVF{lists},RaBitQ"
    most = max(1, dim // A_CODE[recipe])
    parts = next(m for m in range(most, 0, -1) if dim % m == 0)
    return f"IVF{lists},PQ{parts}x4"


@dataclass(frozen=True, slots=True)
class Lists:
    """The inverted lists of a segment before they hold codes: shared by every recipe tried.

    Attributes:
        centroids: float32 array of shape (lists, dim).
        nearest: int64 array of shape (n,), the list of each vector.
        sample: float32 array of shape (m, dim) that codes are trained with.
    """

    centroids: Vectors
    nearest: Ids
    sample: Vectors


def assign(vectors: Vectors, step: int = 65_536) -> Lists:
    """Find the centroids by k-means, and the nearest of each vector; on cards where there are some.

    This is most of the work of a build: the codes of a recipe cost little beside it.

    Args:
        vectors: float32 array of shape (n, dim), may be mapped from a file.
    """
    import faiss

    count, dim = vectors.shape
    lists = lists_for(count)
    rng = np.random.default_rng(_SEED)
    rows = rng.permutation(count)[: max(_TRAIN_PER_LIST * lists, 10_000)]
    sample = np.ascontiguousarray(vectors[np.sort(rows)])
    flat = faiss.IndexFlatIP(dim)
    index: Any = faiss.IndexIVFFlat(flat, dim, lists, faiss.METRIC_INNER_PRODUCT)
    # k-means asks this one for the nearest centroid, then hands the centroids to the lists
    index.clustering_index = gpu.on_cards(faiss.IndexFlatIP(dim))
    index.train(sample)
    index.clustering_index = None
    searched = gpu.on_cards(flat)
    nearest = np.empty(count, np.int64)
    for start in range(0, count, step):
        part = np.ascontiguousarray(vectors[start : start + step])
        nearest[start : start + len(part)] = searched.search(part, 1)[1][:, 0]
    return Lists(flat.reconstruct_n(0, lists), nearest, sample)


def build(recipe: str, vectors: Vectors, lists: Lists | None, step: int = 65_536) -> Any:
    """Make a FAISS index whose ids are the rows of ``vectors``.

    Args:
        vectors: float32 array of shape (n, dim), may be mapped from a file.
        lists: of these vectors; None for a graph.
    """
    import faiss

    count, dim = vectors.shape
    parts = ((s, np.ascontiguousarray(vectors[s : s + step])) for s in range(0, count, step))
    if lists is None:
        graph = faiss.index_factory(dim, factory(recipe, dim, 0), faiss.METRIC_INNER_PRODUCT)
        graph.train(vectors[: 10 * step])
        for _, part in parts:
            graph.add(part)
        return graph
    named = factory(recipe, dim, len(lists.centroids))
    index: Any = faiss.index_factory(dim, named, faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(lists.centroids)
    if isinstance(index, faiss.IndexIVFPQ):
        index.by_residual = False  # as in the fast-scan kind
    elif isinstance(index, faiss.IndexIVFRaBitQ):
        index.qb = 8
    index.train(lists.sample)  # the codes: the centroids are there
    for start, part in parts:
        nearest = lists.nearest[start : start + len(part)]
        index.add_core(len(part), faiss.swig_ptr(part), None, faiss.swig_ptr(nearest))
    packed: Any
    if isinstance(index, faiss.IndexIVFPQ):
        packed = faiss.IndexIVFPQFastScan(index)
    elif isinstance(index, faiss.IndexIVFRaBitQ):
        packed = faiss.IndexIVFRaBitQFastScan(index)
    else:
        return index
    index.own_fields, packed.own_fields = False, True  # the centroids go on with it
    return packed


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

    Where twice and four times the effort find nothing more, the codes are what limits, and the
    least effort that finds as much is returned.

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
    most = min(count if recipe == "hnsw" else index.nlist, MOST_EFFORT)
    taken = candidates(TUNED_K, recipe, count)
    effort = 16 if recipe == "hnsw" else 1
    seen: list[Tuning] = []
    while True:
        _, found = index.search(queries, taken + 1, params=parameters(recipe, effort))
        right = 0
        for query, rows, near, own_row in zip(queries, found, truth, own, strict=False):
            rows = rows[(rows >= 0) & (rows != own_row)]
            right += len(near & set(refine(vectors, query, rows, TUNED_K)[0]))
        reached = right / max(1, sum(len(near) for near in truth))
        seen.append(Tuning(effort, round(reached, 4)))
        if reached >= target:
            return seen[-1]
        level = [t for t in seen if t.recall > reached - LEVEL]
        if effort >= most or (len(level) > 2 and reached > 0):
            return level[0]
        effort = min(most, effort * 2)


def chosen(tried: Sequence[str], vectors: Vectors, target: float) -> tuple[str, Any, Tuning]:
    """The first recipe whose index reaches ``target``, else the one that comes nearest.

    Returns the recipe, its index and its tuning.
    """
    lists = None if "hnsw" in tried else assign(vectors)
    best: tuple[str, Any, Tuning] | None = None
    for recipe in tried:
        index = build(recipe, vectors, lists)
        tuning = tune(recipe, index, vectors, target)
        if best is None or tuning.recall > best[2].recall:
            best = (recipe, index, tuning)
        if tuning.recall >= target:
            break
    assert best is not None
    return best
