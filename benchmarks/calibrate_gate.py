"""Fits the constants of app/llm/gate.py on the calibration questions and on judged searches.

Needs a data directory with the sample knowledge base (``make up``) and no gateway running on
it: ``ostiary down && python -m benchmarks.calibrate_gate``. Prints the constants to copy into
gate.py, and how often questions left out of the fit (leave-one-out) are judged wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from app.gateway.call import Call, Principal
from app.llm.gate import JUDGED, measure, rare_words, shown
from app.pools import Pool
from app.retrieval.collections import VectorStores
from app.retrieval.embedding import (
    CrossEncoder,
    OnnxEmbedder,
    packaged_bge_dir,
    packaged_reranker_dir,
)
from app.retrieval.engines.choice import Engines
from app.retrieval.search import Searches
from app.retrieval.types import Hit
from app.settings import Settings
from app.store.db import Database
from app.store.models import vector_stores
from app.up import SAMPLE_STORE

QUESTIONS = Path("app/samples/calibration.jsonl")
SEARCHES = Path("app/samples/judged/django.jsonl")  # all can be answered
INVENTED = 1.0  # cost of answering what cannot be answered; a needless refusal costs 1
SEARCHED = 0.25  # weight of a judged search: keywords more often than a question
RIDGE = 1.0
SEED = 0
Floats = NDArray[np.float64]


async def measure_all(questions: list[dict[str, object]]) -> Floats:
    """The features of each question, array of shape (n, 2, 4).

    First as the whole collection gives them, then as a small one would: the most relevant
    passage beside the best ones of two other questions.
    """
    settings = Settings()
    db = Database(settings.sql_url)
    pool = Pool("query", settings.cpu_threads)
    embedder = OnnxEmbedder(settings.embedding_dir or packaged_bge_dir(), settings.cpu_threads)
    scorer = CrossEncoder(settings.reranker_dir or packaged_reranker_dir(), settings.cpu_threads)
    models = {settings.embedding_model: embedder}
    stores = VectorStores(db, models, pool, pool, settings.data_dir / "indexes", Engines())
    searches = Searches(db, stores, pool)
    query = select(vector_stores.c.id, vector_stores.c.tenant_id).where(
        vector_stores.c.name == SAMPLE_STORE
    )
    async with db.read() as connection:
        store_id, tenant_id = (await connection.execute(query)).one()
    principal = Principal(tenant_id, "calibration", None, frozenset("*"))
    call = Call("calibration", "calibration", "cli", "calibration", principal)
    asked = [str(item["question"]) for item in questions]
    found = [await searches.hits(call, [store_id], question, JUDGED) for question in asked]
    rare = [rare_words(*await searches.frequencies(call, [store_id], q)) for q in asked]
    chosen = np.random.default_rng(SEED)
    rows = []
    for question, hits, words in zip(asked, found, rare, strict=True):
        whole, scores = measure(scorer, question, hits, words)
        others = [found[i][0] for i in chosen.integers(len(found), size=2)]
        small = near(embedder, question, [hits[int(scores.argmax())], *others])
        rows.append((whole, measure(scorer, question, small, set())[0]))
    await stores.close()
    await db.close()
    pool.close()
    return np.array(rows)


def near(embedder: OnnxEmbedder, question: str, hits: list[Hit]) -> list[Hit]:
    """The hits with their cosine to this question."""
    vectors = embedder.encode_passages([shown(h.passage) for h in hits])
    cosines = vectors @ embedder.encode_query(question)
    return [replace(h, dense=float(c)) for h, c in zip(hits, cosines, strict=True)]


def fit(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Ridge logistic regression with balanced classes by Newton's method.

    Args:
        x: array of shape (n, d).
        y: array of shape (n,), 1 for answerable.
        counts: array of shape (n,), what each row counts.

    Returns:
        Array of shape (d + 1,): the weights of the raw features, then the bias.
    """
    mean, spread = x.mean(0), x.std(0)
    z = np.c_[(x - mean) / spread, np.ones(len(x))]
    answerable = np.average(y, weights=counts)
    balance = np.where(y > 0, 0.5 / answerable, INVENTED * 0.5 / (1 - answerable))
    weight = counts * balance
    ridge = np.diag([RIDGE] * x.shape[1] + [0.0])
    w = np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-z @ w))
        slope = (z * (weight * p * (1 - p))[:, None]).T @ z + ridge
        w -= np.linalg.solve(slope, z.T @ (weight * (p - y)) + ridge @ w)
    raw: Floats = np.append(w[:-1] / spread, w[-1] - (w[:-1] * mean / spread).sum())
    return raw


def fit_both(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Fit on the whole and the small collection alike; x of shape (n, 2, d)."""
    return fit(x.reshape(-1, x.shape[-1]), np.repeat(y, 2), np.repeat(counts, 2))


def predict(w: Floats, x: Floats) -> Floats:
    """Probabilities, array of shape (n,), that the questions can be answered."""
    result: Floats = 1 / (1 + np.exp(-(x @ w[:-1] + w[-1])))
    return result


def main() -> None:
    """Measure, fit, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--searches", type=Path, default=SEARCHES)
    given = parser.parse_args()
    asked = [json.loads(line) for line in given.questions.read_text().splitlines()]
    judged = [json.loads(line) for line in given.searches.read_text().splitlines()]
    y = np.array([float(q.get("answerable", True)) for q in [*asked, *judged]])
    counts = np.repeat([1.0, SEARCHED], [len(asked), len(judged)])
    x = asyncio.run(measure_all([*asked, *judged]))
    left_out = np.array(
        [
            predict(fit_both(*(np.delete(values, i, 0) for values in (x, y, counts))), x[i])
            for i in range(len(y))
        ]
    )
    w = fit_both(x, y, counts)
    print("WEIGHTS =", tuple(round(float(v), 3) for v in w[:-1]))
    print("BIAS =", round(float(w[-1]), 3))
    searched = np.arange(len(y)) >= len(asked)
    no, yes = (y == 0) & ~searched, (y > 0) & ~searched
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7):
        for size, p in zip(("whole", "small"), left_out.T, strict=True):
            below = p < threshold
            print(
                f"{size} collection, threshold {threshold}: {(below & no).sum()} of {no.sum()} "
                f"unanswerable declined; refused: {(below & yes).sum()} of {yes.sum()} answerable "
                f"questions, {(below & searched).sum()} of {searched.sum()} searches"
            )


if __name__ == "__main__":
    main()
