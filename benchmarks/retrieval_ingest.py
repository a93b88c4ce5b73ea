"""Ingest against stored size, search beside it, and search under filters.

    python -m benchmarks.retrieval_ingest

The embedding is left out (`benchmarks/embedding.py` measures it): what is timed is what a stored
passage costs, in words, vectors, SQL and their syncs.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.retrieval.engines.faiss import FaissEngine
from benchmarks import retrieval_data as data
from benchmarks import retrieval_peer as peer
from benchmarks import retrieval_sweep as sweep
from benchmarks import rig
from benchmarks.retrieval_store import Filled, Source, source
from tests.retrieval.stores import House, made_call

LEVELS = (0, 25_000, 50_000, 100_000)
A_FILE, FILES = 500, 6  # passages of a file, files timed at each level
SEARCHES = 300
SELECTIVITY = (0.001, 0.01, 0.1, 1.0)
TENANT = "t_bench"
SEED = 7


def percentiles(took: Sequence[float]) -> dict[str, float]:
    """Milliseconds at the 50th and 99th percentile of seconds."""
    return {
        "p50_ms": round(float(np.percentile(took, 50)) * 1e3, 3),
        "p99_ms": round(float(np.percentile(took, 99)) * 1e3, 3),
    }


async def _rate(filled: Filled, held: Source, rng: np.random.Generator) -> list[float]:
    """Passages a second, one figure a file of ``A_FILE``."""
    rates = []
    for n in range(FILES):
        texts, vectors = held.draw(rng, A_FILE)
        ids = await filled.attach(f"timed{n}.md")
        began = time.perf_counter()
        await filled.add(*ids, texts, vectors)
        rates.append(round(A_FILE / (time.perf_counter() - began), 1))
    return rates


async def _searches(filled: Filled, held: Source, until: asyncio.Event | None) -> list[float]:
    """Seconds of hybrid searches one after the other, embedding included."""
    took: list[float] = []
    call = made_call(filled.tenant)
    while len(took) < SEARCHES or (until is not None and not until.is_set()):
        question = held.questions[len(took) % len(held.questions)]
        began = time.perf_counter()
        await filled.house.searches.hits(call, [filled.store_id], question, 10)
        took.append(time.perf_counter() - began)
    return took


async def _beside(filled: Filled, held: Source, rng: np.random.Generator) -> dict[str, Any]:
    """Search alone, and while files are added as fast as one writer can."""
    await _searches(filled, held, None)  # what is read for the first time
    alone = await _searches(filled, held, None)
    over, added, began = asyncio.Event(), 0, time.perf_counter()
    parts = [held.draw(rng, A_FILE) for _ in range(FILES)]

    async def ingest() -> None:
        nonlocal added
        while time.perf_counter() - began < 15:
            texts, vectors = parts[added % FILES]
            await filled.add(*await filled.attach("beside.md"), texts, vectors)
            added += 1
        over.set()

    writing = asyncio.create_task(ingest())
    beside = await _searches(filled, held, over)
    await writing
    took = time.perf_counter() - began
    return {
        "alone": percentiles(alone),
        "beside": percentiles(beside),
        "passages_s": round(added * A_FILE / took, 1),
    }


async def _store(folder: Path, levels: Sequence[int]) -> dict[str, Any]:
    held = source(folder / "words")
    rng = np.random.default_rng(SEED)
    house = House(f"sqlite:///{folder / 'o.db'}", f"sqlite:///{folder / 'jobs.db'}", folder)
    await house.create_tables()
    filled = await Filled.made(house, TENANT)
    await _rate(filled, held, rng)  # the first files open what is needed
    await filled.quiet()
    stored, found = FILES * A_FILE, []
    for level in levels:
        if level > stored:
            await filled.grow(rng, held, level - stored)
            stored = level
        found.append({"stored": stored, "passages_s": await _rate(filled, held, rng)})
        stored += FILES * A_FILE
        await filled.quiet()
    beside = {"stored": stored, **await _beside(filled, held, rng)}
    await filled.quiet()
    await house.close()
    return {"flat": found, "beside": beside}


def filtered(folder: Path, count: int, dim: int) -> list[dict[str, Any]]:
    """Recall and latency of our default recipe when files chosen at random pass a filter."""
    base = np.load(data.prepared(count, dim) / "base.npy", mmap_mode="r")
    queries = np.load(data.prepared(count, dim) / "queries.npy")
    engine = FaissEngine(str(folder), dim)
    sizes = sweep.files_of(count)
    engine.publish(engine.write_many(sizes, np.arange(count), base))
    rng, found = np.random.default_rng(SEED), []
    owner = np.arange(count) // sweep.A_FILE
    for share in SELECTIVITY:
        chosen = rng.permutation(len(sizes))[: max(1, round(share * len(sizes)))]
        files = None if share == 1 else {f"f{n}" for n in chosen.tolist()}
        rows = np.flatnonzero(np.isin(owner, chosen))
        near = rows[_nearest(base, rows, queries, peer.K)]

        def search(query: Any, files: set[str] | None = files) -> Any:
            return engine.search(query, peer.K, files)[0]

        peer.latencies(search, queries[:50], 0.0)
        took, answers = peer.latencies(search, queries, peer.POINT_S)
        reached = round(peer.recall(answers, near), 4)
        found.append({"share": share, "rows": len(rows), "recall": reached, **percentiles(took)})
    engine.destroy()
    return found


def _nearest(base: Any, rows: Any, queries: Any, k: int) -> Any:
    import faiss

    _, near = faiss.knn(queries, base[rows], k, faiss.METRIC_INNER_PRODUCT)
    return near


def run(count: int = 100_000, dim: int = 384, levels: Sequence[int] = LEVELS) -> dict[str, Any]:
    """Measure all of it."""
    result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 2)}
    rig.in_scratch(lambda folder: result.update(asyncio.run(_store(folder, levels))))
    rig.in_scratch(lambda folder: result.update(filters=filtered(folder, count, dim)))
    return result


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
