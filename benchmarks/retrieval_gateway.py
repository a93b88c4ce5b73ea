"""The whole search call through a real gateway, beside the bare FAISS call (G5, G6), and its start.

    python -m benchmarks.retrieval_gateway [--count 1000000]

A gateway makes an empty store; it is filled through the product's services while the gateway is
down, started again, and searched over one kept connection on the loopback interface. The API
embeds each question, so the added time of G5 is the whole call by vectors alone, less the median
time of the same embedder for the same questions in this process, less the bare FAISS call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.engines import recipes
from app.retrieval.engines.base import SegmentInfo
from app.retrieval.engines.faiss import FaissEngine
from benchmarks import retrieval_peer as peer
from benchmarks import rig
from benchmarks.client import Client
from benchmarks.retrieval_ingest import percentiles
from benchmarks.retrieval_report import SEEN
from benchmarks.retrieval_store import Filled, Source, source
from tests.retrieval.stores import House

ROUNDS = 5
RERANKED_ROUND = 20  # questions of one round that are reranked
SEED = 11
PATIENT = {"rerank_budget_ms": 60_000}
BY_VECTORS = {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}}


def _settings() -> dict[str, str]:
    return {**rig.LIMITS, "OSTIARY_LOG_LEVEL": "warning"}


def _made_store(folder: Path) -> str:
    with rig.gateway("new", folder, _settings()) as server:
        made = Client(server.url).post("/v1/vector_stores", {"name": "bench"})
    store_id: str = made["id"]
    return store_id


async def _fill(folder: Path, store_id: str, held: Source, count: int) -> float:
    """Fill the store in one go; returns the seconds it took."""
    data = folder / "data"
    with sqlite3.connect(data / "ostiary.db") as db:
        found = db.execute("SELECT tenant_id FROM vector_stores WHERE id = ?", (store_id,))
        tenant = str(found.fetchone()[0])
    house = House(f"sqlite:///{data / 'ostiary.db'}", f"sqlite:///{folder / 'j.db'}", data)
    began = time.perf_counter()
    await Filled(house, tenant, store_id).grow(np.random.default_rng(SEED), held, count)
    took = time.perf_counter() - began
    await house.close()
    return took


def _opened(folder: Path, store_id: str) -> tuple[FaissEngine, list[SegmentInfo], Path]:
    """The store's own segments, opened in this process."""
    names = list(SegmentInfo.__dataclass_fields__)
    with sqlite3.connect(folder / "data" / "ostiary.db") as db:
        rows = db.execute(
            f"SELECT {', '.join(names)} FROM segments WHERE vector_store_id = ?", (store_id,)
        ).fetchall()
    infos = [SegmentInfo(**dict(zip(names, row, strict=True))) for row in rows]
    vectors = folder / "data" / "indexes" / store_id / "vectors"
    engine = FaissEngine(str(vectors), infos[0].dim)
    engine.load(infos)
    return engine, infos, vectors


def _raw(infos: Sequence[SegmentInfo], vectors: Path) -> Callable[[Any], Any]:
    """The bare FAISS call on the very index of the store's largest segment."""
    import faiss

    largest = max(infos, key=lambda info: info.count)
    if not largest.index_bytes:
        raise RuntimeError("the store is too small to have an index; fill it with more")
    path = vectors / (largest.name.removesuffix(".vec") + ".idx")
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    given = recipes.parameters(largest.recipe, largest.effort)
    return lambda query: index.search(query[None, :], 10, params=given)


def _timed(work: Callable[[Any], Any], items: Sequence[Any]) -> list[float]:
    took = []
    for item in items:
        began = time.perf_counter()
        work(item)
        took.append(time.perf_counter() - began)
    return took


def _measured(folder: Path, store_id: str, held: Source) -> dict[str, Any]:
    engine, infos, vectors = _opened(folder, store_id)
    raw = _raw(infos, vectors)
    embedder = OnnxEmbedder(packaged_bge_dir(), 2)
    questions = held.questions
    queries = [embedder.encode_query(q) for q in questions]
    path = f"/v1/vector_stores/{store_id}/search"
    with rig.gateway("serve", folder, _settings()) as server:
        client = Client(server.url)
        process = psutil.Process(server.pid)
        empty = process.memory_info().rss
        began = time.perf_counter()
        client.post(path, {"query": questions[0]})
        first_s = time.perf_counter() - began

        def call(question: str, **options: Any) -> None:
            client.post(path, {"query": question, **options})

        def by_vectors(question: str) -> None:
            call(question, ranking_options=BY_VECTORS)

        def reranked(question: str) -> None:
            call(question, ranking_options={"ranker": "cross-encoder"})

        def by_tokens(question: str) -> None:
            call(question, ranking_options={"ranker": "late-interaction"}, ostiary=PATIENT)

        parts: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
            "bare FAISS": (raw, queries),
            "engine, 10 results": (lambda q: engine.search(q, 10), queries),
            "engine, 50 results": (lambda q: engine.search(q, 50), queries),
            "call without a search (GET the store)": (
                lambda _: client.get(path.removesuffix("/search")),
                questions,
            ),
            "embedding": (embedder.encode_query, questions),
            "call, vectors": (by_vectors, questions),
            "call, hybrid": (call, questions),
            "call, hybrid and rerank": (reranked, questions[:RERANKED_ROUND]),
            SEEN: (by_tokens, questions[:RERANKED_ROUND]),
        }
        by_tokens(questions[-1])  # loads the model
        unseen = percentiles(_timed(by_tokens, questions[-1 - RERANKED_ROUND : -1]))
        for work, items in parts.values():
            _timed(work, items[:20])  # what is read for the first time
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in parts}
        for _ in range(ROUNDS):
            for name, (work, items) in parts.items():
                rounds[name].append(percentiles(_timed(work, items)))
        serving = process.memory_full_info()
    state = engine.state()
    sql = (folder / "data" / "ostiary.db").stat().st_size
    words = peer.size_of(vectors.parent / "words")
    latency = {
        name: {key: rig.median([r[key] for r in found], 3) for key in ("p50_ms", "p99_ms")}
        for name, found in rounds.items()
    }
    added = (
        latency["call, vectors"]["p50_ms"]
        - latency["embedding"]["p50_ms"]
        - latency["bare FAISS"]["p50_ms"]
    )
    return {
        "passages": state.vectors,
        "segments": [[i.recipe, i.count, i.effort, i.recall] for i in infos],
        "recall": state.recall,
        "ready_s": round(server.ready_after_s, 2),
        "first_search_s": round(first_s, 2),
        "rss_before_mb": round(empty / 1e6),
        "rss_serving_mb": round(serving.rss / 1e6),
        "own_serving_mb": round(serving.uss / 1e6),
        "index_bytes_a_vector": round(state.memory_bytes / state.vectors, 1),
        "disk_bytes_a_vector": round(state.disk_bytes / state.vectors, 1),
        "sql_bytes_a_passage": round(sql / state.vectors, 1),
        "words_bytes_a_passage": round(words / state.vectors, 1),
        "late_unseen_p50_ms": unseen["p50_ms"],
        "latency": latency,
        "added_ms": round(added, 3),
        "rounds": rounds,
    }


def run(count: int) -> dict[str, Any]:
    """Make, fill, start and search a store of ``count`` passages."""
    result: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 2)}

    def work(folder: Path) -> None:
        result["sync_ms"] = rig.sync_ms(folder / "sync")["p50"]
        held = source(folder / "words")
        store_id = _made_store(folder)
        took = asyncio.run(_fill(folder, store_id, held, count))
        result["fill_s"] = round(took, 1)
        result.update(_measured(folder, store_id, held))

    rig.in_scratch(work)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    print(json.dumps(run(parser.parse_args().count), indent=2))
