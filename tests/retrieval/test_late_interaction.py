"""Late interaction with the real packaged weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.retrieval.late_interaction import LateInteraction, packaged_colbert_dir
from app.retrieval.rerank import Reranker
from app.retrieval.types import Candidate

QUESTION = "When do I get my money back?"
TEXTS = [
    "The cat sleeps on the warm roof.",
    "Parcels to Norway take a week.",
    "Refunds are paid within fourteen days of the return.",
    "",
    "?!",
]


@pytest.fixture(scope="module")
def model() -> LateInteraction:
    return LateInteraction(packaged_colbert_dir())


def test_the_passage_that_answers_is_closest(model: LateInteraction) -> None:
    scores = model.score(QUESTION, TEXTS)
    assert scores.shape == (5,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert int(np.argmax(scores)) == 2
    assert model.score(QUESTION, []).shape == (0,)


def test_a_score_does_not_depend_on_company_or_memory(model: LateInteraction) -> None:
    together = model.score(QUESTION, TEXTS)
    again = [float(model.score(QUESTION, [text])[0]) for text in TEXTS]
    forgetful = LateInteraction(packaged_colbert_dir(), cache_bytes=0)
    assert again == together.tolist() == forgetful.score(QUESTION, TEXTS).tolist()
    assert forgetful.cached_bytes == 0


def test_kept_vectors_stay_within_their_bound() -> None:
    model = LateInteraction(packaged_colbert_dir(), cache_bytes=60_000)
    for i in range(12):
        model.score("word", [f"passage number {i} about refunds"])
        assert 0 < model.cached_bytes <= 60_000


def test_texts_of_any_length_are_scored(model: LateInteraction) -> None:
    assert np.isfinite(model.score("query " * 600, ["text " * 3000, "\ud800"])).all()


def test_several_threads_get_the_same_scores(model: LateInteraction) -> None:
    wanted = model.score(QUESTION, TEXTS).tolist()
    fresh = LateInteraction(packaged_colbert_dir())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fresh.score(QUESTION, TEXTS).tolist(), range(8)))
    assert all(scores == pytest.approx(wanted) for scores in found)


async def test_it_serves_the_reranker_in_the_place_of_the_cross_encoder(
    model: LateInteraction,
) -> None:
    reranker = Reranker(model.score)
    candidates = [Candidate(text, 0.5 - 0.01 * i) for i, text in enumerate(TEXTS[:3])]
    found = await reranker.rerank(QUESTION, candidates, budget_ms=None)
    assert (found.order[0], found.scored) == (2, 3)
    reranker.close()
