"""What is given out is verified: true sentences stay, invented ones go, quotes step in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
import pytest_asyncio

from app.gateway.call import Call
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import load_policy
from app.guardrails.service import Guardrails
from app.llm.answer import DECLINED, Answers, Piece, Search, _extract
from app.llm.gate import judge
from app.llm.rewriting import Rewriter
from app.llm.router import Router
from app.llm.upstream import Upstream
from app.llm.upstream_errors import UpstreamCut
from app.pools import Pool
from app.retrieval.collections import VectorStores
from app.retrieval.embedding import CrossEncoder, packaged_reranker_dir
from app.retrieval.types import Passage
from tests.guardrails.texts import KEY
from tests.llm.scripted import ScriptedModel
from tests.llm.test_gate import hits

QUESTION = "How many days of paid holiday do employees get?"
NO_STORES = cast(VectorStores, None)  # these tests begin after the search


@pytest.fixture(scope="module")
def scorer() -> CrossEncoder:
    return CrossEncoder(packaged_reranker_dir(), 2)


@pytest_asyncio.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    server = ScriptedModel()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def answers(model: ScriptedModel, scorer: CrossEncoder) -> AsyncIterator[Answers]:
    router = Router({"m": Upstream(model.url)})
    await router.start()
    pool = Pool("test", 1)
    guardrails = Guardrails(load_policy("default"), PiiDetector(), pool, False, KEY)
    rewriter = Rewriter(router, guardrails, None)
    yield Answers(NO_STORES, rewriter, router, guardrails, scorer, pool, 0.5)
    await router.stop()
    pool.close()


def new_call() -> Call:
    return Call("call_1", "r1", "test", "test")


def search(scorer: CrossEncoder, question: str = QUESTION) -> Search:
    found = hits(question)
    return Search(question, found, judge(scorer, question, found, set(), 0.5))


async def told(answers: Answers, call: Call, found: Search) -> list[Piece]:
    return [piece async for piece in answers.stream(call, found, "m")]


async def test_a_true_sentence_stays_and_an_invented_one_goes(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    model.says("Employees get 27 days of paid holiday. They also get a car worth 9000 euros.")
    call = new_call()
    pieces = await told(answers, call, search(scorer))
    assert [p.text for p in pieces] == ["Employees get 27 days of paid holiday."]
    (citation,) = pieces[0].citations
    assert citation.quote in citation.passage.text
    assert citation.passage.section == "Holidays"
    assert (call.usage.prompt_tokens, call.usage.completion_tokens) == (7, 15)
    assert call.degraded is None


async def test_an_invented_answer_is_replaced_by_quotes(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    model.says("Employees get 35 days of paid holiday and a bicycle.")
    pieces = await told(answers, new_call(), search(scorer))
    text = "".join(p.text for p in pieces)
    assert "27 days" in text and "35" not in text
    for piece in pieces:
        assert piece.text.strip() == " ".join(piece.citations[0].quote.split())


async def test_a_repeated_sentence_is_said_once(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    model.says("Employees get 27 days of paid holiday. " * 3)
    assert len(await told(answers, new_call(), search(scorer))) == 1


async def test_an_unanswerable_question_is_declined_without_asking_the_model(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    found = search(scorer, "What is the boiling point of tungsten?")
    pieces = await told(answers, new_call(), found)
    assert [p.text for p in pieces] == [DECLINED]
    assert not pieces[0].citations
    assert model.bodies == []


async def test_without_a_model_server_the_passages_are_quoted(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    await model.stop()
    call = new_call()
    pieces = await told(answers, call, search(scorer))
    assert "27 days" in pieces[0].text
    assert call.degraded == "llm-unavailable"


async def test_a_cut_after_a_sentence_was_told_is_an_error(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    model.says("Employees get 27 days of paid holiday. Unused days expire in March.")
    model.cut_after = 9
    given: list[Piece] = []
    with pytest.raises(UpstreamCut):
        async with asyncio.timeout(20):
            async for piece in answers.stream(new_call(), search(scorer), "m"):
                given += [piece]
    assert [p.text for p in given] == ["Employees get 27 days of paid holiday."]


async def test_the_prompt_ends_with_the_question_and_asks_for_usage(
    answers: Answers, model: ScriptedModel, scorer: CrossEncoder
) -> None:
    model.says("Employees get 27 days of paid holiday.")
    await told(answers, new_call(), search(scorer))
    (body,) = model.bodies
    assert body["messages"][-1]["content"].endswith(f"Question: {QUESTION}\nAnswer:")
    assert body["stream_options"] == {"include_usage": True}
    assert len(body["messages"][-1]["content"]) < 5000


def test_a_second_quote_repeats_no_sentence_of_the_first() -> None:
    text = (
        "Old caches are kept with the file backend as well. The store is never purged by itself. "
        "Purge it by hand every week.\n\nA daily job can do it."
    )
    passage = Passage("p1", "file-1", "a.txt", 0, text, None, None, {})
    first = "The store is never purged by itself. Purge it by hand every week."
    repeats = (
        "Old caches are kept with the file backend as well. The store is never purged by itself."
    )
    other = "A daily job can do it."
    quotes = [(4.0, first, passage), (3.5, repeats, passage), (3.0, other, passage)]
    assert [told for told, _ in _extract(quotes)] == [first, other]
