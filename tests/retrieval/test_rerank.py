"""Reranking with the real cross-encoder: order, turns, budget, queue."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.retrieval.embedding import CrossEncoder, packaged_reranker_dir
from app.retrieval.rerank import Reranker, arrange, blend
from app.retrieval.types import Candidate

QUESTION = "When do I get my money back?"
ANSWER = "Refunds are paid within fourteen days of the return."
OTHERS = [
    "The cat sleeps on the warm roof.",
    "Parcels to Norway take a week.",
    "The canteen opens at noon.",
    "Keys are rotated every ninety days.",
    "The lift is out of order.",
]
UNIT = st.floats(0, 1)


class Gate:
    """The real model behind a door: lets so many pairs through and notes whose they were."""

    def __init__(self, model: CrossEncoder) -> None:
        self._model = model
        self._passes = threading.Semaphore(0)
        self.queries: list[str] = []  # of each pair that came to the door

    def open(self, pairs: int = 1000) -> None:
        self._passes.release(pairs)

    def score(self, query: str, texts: list[str]) -> NDArray[np.float32]:
        self.queries.append(query)
        self._passes.acquire()
        return self._model.score(query, texts)


@pytest.fixture(scope="module")
def model() -> CrossEncoder:
    return CrossEncoder(packaged_reranker_dir())


@pytest.fixture
def gate(model: CrossEncoder) -> Iterator[Gate]:
    gate = Gate(model)
    yield gate
    gate.open()


@pytest.fixture
async def held(gate: Gate) -> AsyncIterator[Reranker]:
    reranker = Reranker(gate.score)
    yield reranker
    gate.open()
    reranker.close()


@pytest.fixture
def reranker(model: CrossEncoder) -> Iterator[Reranker]:
    reranker = Reranker(model.score)
    yield reranker
    reranker.close()


def _candidates(*texts: str) -> list[Candidate]:
    """Candidates in the order of the first stage, their scores falling from 0.6."""
    return [Candidate(text, 0.6 - 0.01 * i) for i, text in enumerate(texts)]


async def _until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def test_the_passage_that_answers_comes_first(reranker: Reranker) -> None:
    found = await reranker.rerank(QUESTION, _candidates(*OTHERS, ANSWER), budget_ms=None)
    assert found.order[0] == len(OTHERS)
    assert found.scored == 6
    assert found.relevance[0] == max(found.relevance, key=lambda r: r or 0)
    assert found.scores == sorted(found.scores, reverse=True)
    assert all(0 <= score <= 1 for score in found.scores)


async def test_a_weight_of_zero_keeps_the_first_stages_order(reranker: Reranker) -> None:
    candidates = _candidates(*OTHERS, ANSWER)
    found = await reranker.rerank(QUESTION, candidates, budget_ms=None, weight=0)
    assert found.order == list(range(6))
    assert found.scores == [pytest.approx(c.score) for c in candidates]


async def test_candidates_may_come_in_any_order(reranker: Reranker) -> None:
    candidates = _candidates(*OTHERS, ANSWER)
    mixed = [candidates[i] for i in (3, 5, 0, 4, 2, 1)]
    there = await reranker.rerank(QUESTION, candidates, budget_ms=None)
    here = await reranker.rerank(QUESTION, mixed, budget_ms=None)
    assert [mixed[i] for i in here.order] == [candidates[i] for i in there.order]


async def test_a_passage_scores_the_same_alone_and_in_company(reranker: Reranker) -> None:
    candidates = _candidates(*OTHERS, ANSWER)
    alone = await reranker.rerank(QUESTION, candidates, budget_ms=None)
    together = await asyncio.gather(
        *(reranker.rerank(QUESTION, candidates[: n % 6 + 1], budget_ms=None) for n in range(18))
    )
    wanted = dict(zip(alone.order, alone.relevance, strict=True))
    for found in together:
        assert dict(zip(found.order, found.relevance, strict=True)).items() <= wanted.items()
    assert reranker.queued == 0


async def test_nothing_to_rank_and_no_time_cost_no_pair(held: Reranker, gate: Gate) -> None:
    assert (await held.rerank(QUESTION, [], budget_ms=None)).order == []
    found = await held.rerank(QUESTION, _candidates(*OTHERS), budget_ms=0)
    assert (found.order, found.scored) == ([0, 1, 2, 3, 4], 0)
    assert found.relevance == [None] * 5
    assert gate.queries == []


async def test_concurrent_calls_take_turns_pair_by_pair(held: Reranker, gate: Gate) -> None:
    many = asyncio.create_task(held.rerank("many", _candidates(*OTHERS), budget_ms=None))
    await _until(lambda: gate.queries)  # its first pair is with the model
    few = asyncio.create_task(held.rerank("few", _candidates(*OTHERS[:2]), budget_ms=None))
    await _until(lambda: held.queued == 7)
    gate.open()
    assert (await few).scored == 2
    assert (await many).scored == 5
    assert gate.queries == ["many", "few", "many", "few", "many", "many", "many"]


async def test_when_the_budget_is_spent_the_rest_follows_in_first_stage_order(
    held: Reranker, gate: Gate
) -> None:
    candidates = _candidates("The roof.", ANSWER, *OTHERS)
    gate.open(2)  # the third pair takes for ever
    found = await held.rerank(QUESTION, candidates, budget_ms=700)
    assert found.scored == 2
    assert found.order == [1, 0, 2, 3, 4, 5, 6]
    assert found.relevance[2:] == [None] * 5
    assert found.scores == sorted(found.scores, reverse=True)
    assert held.queued == 0


async def test_a_reply_is_not_later_than_its_budget_even_while_a_pair_hangs(
    held: Reranker, gate: Gate
) -> None:
    began = time.monotonic()
    found = await held.rerank(QUESTION, _candidates(*OTHERS), budget_ms=20)
    assert found.scored == 0
    assert time.monotonic() - began < 1.0  # of a machine that may be busy


async def test_the_budget_holds_with_the_model_at_its_own_pace(reranker: Reranker) -> None:
    await reranker.rerank(QUESTION, _candidates(*OTHERS), budget_ms=None)
    long = _candidates(*(f"{i} parcels to Norway take a week. " * 15 for i in range(300)))
    began = time.monotonic()
    found = await reranker.rerank(QUESTION, long, budget_ms=100)
    assert time.monotonic() - began < 1.5
    assert found.scored < 300
    assert found.order[found.scored :] == list(range(found.scored, 300))


async def test_a_cancelled_call_frees_the_queue(held: Reranker, gate: Gate) -> None:
    task = asyncio.create_task(held.rerank("gone", _candidates(*OTHERS), budget_ms=None))
    await _until(lambda: gate.queries)
    waiting = asyncio.create_task(held.rerank("also gone", _candidates(*OTHERS), budget_ms=None))
    await _until(lambda: held.queued == 10)
    task.cancel()
    waiting.cancel()
    await asyncio.gather(task, waiting, return_exceptions=True)
    assert held.queued == 0
    gate.open()
    assert (await held.rerank("next", _candidates(*OTHERS[:2]), budget_ms=None)).scored == 2
    assert gate.queries == ["gone", "next", "next"]
    assert held.queued == 0


async def test_a_full_queue_scores_less_instead_of_growing(gate: Gate) -> None:
    reranker = Reranker(gate.score, most_queued=3)
    first = asyncio.create_task(reranker.rerank("first", _candidates(*OTHERS), budget_ms=None))
    await _until(lambda: reranker.queued == 3)
    other = await reranker.rerank("second", _candidates(*OTHERS), budget_ms=None)
    assert (other.scored, other.order) == (0, [0, 1, 2, 3, 4])
    gate.open()
    assert (await first).scored == 3
    reranker.close()


async def test_an_error_of_the_model_reaches_its_call_only(model: CrossEncoder) -> None:
    def score(query: str, texts: list[str]) -> NDArray[np.float32]:
        if query == "bad":
            raise RuntimeError("model failed")
        return model.score(query, texts)

    reranker = Reranker(score)
    candidates = _candidates(*OTHERS)
    bad, good = await asyncio.gather(
        reranker.rerank("bad", candidates, budget_ms=None),
        reranker.rerank("good", candidates, budget_ms=None),
        return_exceptions=True,
    )
    assert isinstance(bad, RuntimeError)
    assert not isinstance(good, BaseException)
    assert good.scored == 5
    assert reranker.queued == 0
    reranker.close()


async def test_closing_lets_waiting_calls_go_with_what_they_have(
    held: Reranker, gate: Gate
) -> None:
    gate.open(1)
    first = asyncio.create_task(held.rerank(QUESTION, _candidates(*OTHERS), budget_ms=None))
    await _until(lambda: len(gate.queries) == 2)
    second = asyncio.create_task(held.rerank(QUESTION, _candidates(*OTHERS), budget_ms=None))
    await _until(lambda: held.queued == 9)
    closing = asyncio.create_task(asyncio.to_thread(held.close))
    assert (await second).scored == 0
    gate.open()
    await closing
    assert (await first).scored == 2
    assert (await held.rerank(QUESTION, _candidates(*OTHERS))).scored == 0


async def test_budgets_and_weights_that_make_no_sense_are_refused(reranker: Reranker) -> None:
    for budget in (-1.0, math.nan):
        with pytest.raises(ValueError, match="budget_ms"):
            await reranker.rerank(QUESTION, _candidates(ANSWER), budget_ms=budget)
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="weight"):
            await reranker.rerank(QUESTION, _candidates(ANSWER), weight=weight)
        with pytest.raises(ValueError, match="weight"):
            Reranker(lambda query, texts: np.zeros(len(texts), np.float32), weight=weight)


@given(st.lists(UNIT, max_size=12), st.lists(UNIT, max_size=12), UNIT)
def test_the_new_order_is_a_permutation_whose_scores_never_rise(
    first: list[float], judged: list[float], weight: float
) -> None:
    first = sorted(first, reverse=True)
    judged = judged[: len(first)]
    ranked = list(range(len(first)))
    found = arrange(ranked, first, judged, weight)
    assert sorted(found.order) == ranked
    assert found.scored == len(judged)
    assert set(found.order[: found.scored]) == set(ranked[: found.scored])
    assert found.order[found.scored :] == ranked[found.scored :]
    assert found.scores == sorted(found.scores, reverse=True)
    assert all(0 <= score <= 1 for score in found.scores)
    assert found.relevance[: found.scored] == [judged[i] for i in found.order[: found.scored]]


@given(UNIT, UNIT, UNIT, UNIT)
def test_a_better_judgement_never_lowers_the_blend(
    first: float, one: float, other: float, weight: float
) -> None:
    low, high = sorted([one, other])
    assert blend(first, low, weight) <= blend(first, high, weight)
    assert blend(first, high, 0.0) == pytest.approx(first)


def test_a_judgement_that_is_no_number_counts_as_irrelevant() -> None:
    assert blend(0.5, math.nan) == blend(0.5, 0.0)


async def test_the_model_reads_the_start_of_a_long_passage(model: CrossEncoder) -> None:
    reranker = Reranker(model.score, most_chars=len(ANSWER))
    candidates = _candidates(ANSWER, ANSWER + " The lift is out of order." * 30)
    found = await reranker.rerank(QUESTION, candidates, budget_ms=None)
    assert found.relevance[0] == found.relevance[1]
    reranker.close()
