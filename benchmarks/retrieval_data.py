"""Vectors for the retrieval benchmark, with the exact answers, kept in a cache.

Clusters of unequal size lie in a space of few dimensions, turned into ``dim`` dimensions, with
noise in all of them, at length 1. Queries are drawn as the vectors are, and are not among them.
The seed is fixed; the exact answers come from FAISS's exhaustive search.

The constants were set so that an index finds these vectors as hard as real ones. 20,000 passages
of the Django, PostgreSQL and CWE documents, embedded by bge-small, and as many of ours, 256
inverted lists, recall@10 at 1, 2, 4, 8, 16 and 32 lists visited: real 0.68, 0.81, 0.89, 0.93,
0.97, 0.99; ours 0.57, 0.77, 0.90, 0.95, 0.97, 0.98. The 100 best by 4-bit product codes hold
0.988 of the real ten nearest, and 0.996 of ours. Participation ratio of the spectrum: 57 and 63.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CACHE = Path(os.environ.get("OSTIARY_BENCH_CACHE", tempfile.gettempdir())) / "ostiary-retrieval"
SEED = 20_261_125
QUERIES, K = 500, 10
LATENT = 48  # independent dimensions
A_CLUSTER = 250  # vectors, on average
SPREAD = 1.25  # of a cluster, where the centres have 1
NOISE = 0.5  # length of what is added in all dimensions, relative to the rest
STEP = 50_000


@dataclass(frozen=True, slots=True)
class Mixture:
    """Where vectors are drawn from."""

    centres: Any  # float32 array of shape (clusters, LATENT)
    shares: Any  # float64 array of shape (clusters,), sum 1
    turn: Any  # float32 array of shape (LATENT, dim), orthonormal rows

    def draw(self, rng: np.random.Generator, count: int) -> Any:
        """A float32 array of shape (count, dim), rows of length 1."""
        clusters = rng.choice(len(self.shares), count, p=self.shares)
        latent = self.centres[clusters]
        latent = latent + SPREAD * rng.standard_normal(latent.shape, np.float32)
        made = latent @ self.turn
        noise = rng.standard_normal(made.shape, np.float32)
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        made += noise * (NOISE / np.sqrt(made.shape[1])) * lengths
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made.astype(np.float32)


def mixture(count: int, dim: int, seed: int = SEED) -> Mixture:
    """The mixture for so many vectors; sizes of clusters fall as in Zipf's law, mildly."""
    rng = np.random.default_rng(seed)
    clusters = max(8, count // A_CLUSTER)
    latent = min(LATENT, dim)
    shares = 1 / np.arange(10, clusters + 10) ** 0.5
    turn = np.linalg.qr(rng.standard_normal((dim, latent)))[0].T
    return Mixture(
        rng.standard_normal((clusters, latent), np.float32),
        shares / shares.sum(),
        np.ascontiguousarray(turn, np.float32),
    )


def prepared(count: int, dim: int) -> Path:
    """The folder with ``base.npy``, ``queries.npy`` and ``truth.npy``; made once."""
    folder = CACHE / f"data-{count}-{dim}-{SEED}"
    if (folder / "truth.npy").exists():
        return folder
    import faiss

    folder.mkdir(parents=True, exist_ok=True)
    source, rng = mixture(count, dim), np.random.default_rng(SEED + 1)
    base = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        folder / "base.npy", "w+", np.float32, (count, dim)
    )
    for start in range(0, count, STEP):
        part = base[start : start + STEP]
        part[:] = source.draw(rng, len(part))
    base.flush()
    queries = source.draw(rng, QUERIES)
    np.save(folder / "queries.npy", queries)
    _, near = faiss.knn(queries, base, K, faiss.METRIC_INNER_PRODUCT)
    np.save(folder / "truth.npy", near)  # last: it says that all is there
    return folder
