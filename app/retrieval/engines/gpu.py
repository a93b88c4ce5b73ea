"""Builds inverted lists with the help of graphics cards, where FAISS was built for them.

What takes the time is finding each vector's nearest centroid, in k-means and again when the vector
is added: cards do both. Codes and lists stay in the memory of the host, so the index is the same
kind of file, whoever built it. Searches stay on the processor: they come one at a time, with
filters, which FAISS's lists on a card do not take.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.retrieval.engines.base import Ids, Vectors


def cards() -> int:
    """How many cards FAISS can use: 0 with ``faiss-cpu``, or where no card is seen."""
    import faiss

    count = getattr(faiss, "get_num_gpus", None)
    return 0 if count is None else int(count())


def build(index: Any, sample: Vectors, parts: Iterable[Vectors]) -> Any:
    """Train and fill inverted lists, and pack coarse codes for the fast scan.

    Args:
        index: an empty ``faiss.IndexIVF`` that takes assignments: not of a fast-scan kind.
        sample: float32 array of shape (n, dim) to train with.
        parts: float32 arrays of shape (any, dim), in one piece each, in the order of their ids.

    Returns:
        What FAISS builds for the same recipe by itself: product codes and RaBitQ codes as their
        fast-scan kind, others as they are.
    """
    import faiss

    if isinstance(index, faiss.IndexIVFPQ):
        index.by_residual = False  # as in the fast-scan kind
    elif isinstance(index, faiss.IndexIVFRaBitQ):
        index.qb = 8
    # k-means asks this one for the nearest centroid, then hands the centroids to the lists
    index.clustering_index = _on_cards(faiss.IndexFlat(index.d, index.metric_type))
    index.train(sample)
    index.clustering_index = None
    centroids = _on_cards(index.quantizer)
    for part in parts:
        nearest: Ids = centroids.search(part, 1)[1]
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


def _on_cards(flat: Any) -> Any:
    """A flat index copied to all cards; itself where there is none."""
    import faiss

    return faiss.index_cpu_to_all_gpus(flat) if cards() else flat
