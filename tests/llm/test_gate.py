"""The gate answers what the passages hold and declines the rest (real cross-encoder)."""

from __future__ import annotations

import pytest

from app.llm.gate import best_sentences, estimate, judge, measure
from app.retrieval.embedding import CrossEncoder, packaged_reranker_dir
from app.retrieval.types import Hit, Passage

TEXTS = {
    "Holidays": "Employees receive 27 days of paid holiday each year. Unused days expire in March.",
    "Travel": "Trains are booked through the travel desk in Lyon. Flights need an approval.",
    "Kitchen": "The kitchen is cleaned at six. Cups belong into the machine, not the sink.",
}


@pytest.fixture(scope="module")
def scorer() -> CrossEncoder:
    return CrossEncoder(packaged_reranker_dir(), 2)


def hits() -> list[Hit]:
    return [
        Hit(Passage(f"p{i}", "file-1", "book.md", i, text, None, title, {}), 0.5, 0.7, 1.0)
        for i, (title, text) in enumerate(TEXTS.items())
    ]


def test_an_answerable_question_passes_with_the_right_passage_first(scorer: CrossEncoder) -> None:
    grounds = judge(scorer, "How many days of paid holiday do employees get?", hits(), 0.5)
    assert grounds.answerable
    assert grounds.passages[0].section == "Holidays"
    assert 0.5 <= grounds.relevance <= 1


@pytest.mark.parametrize(
    "question",
    [
        "What is the boiling point of tungsten?",
        "Who won the football world cup in 2018?",
        "How many days of parental leave does Siemens grant in Canada?",
    ],
)
def test_a_question_beside_the_documents_is_declined(scorer: CrossEncoder, question: str) -> None:
    assert not judge(scorer, question, hits(), 0.5).answerable


def test_nothing_found_is_declined(scorer: CrossEncoder) -> None:
    grounds = judge(scorer, "Anything?", [], 0.0)
    assert not grounds.answerable
    assert grounds.relevance == 0.0


def test_a_name_that_no_passage_holds_lowers_the_estimate(scorer: CrossEncoder) -> None:
    question = "How many days of paid holiday do employees of Siemens get?"
    values, _ = measure(scorer, question, hits())
    assert values[3] == 1.0
    assert estimate(values) < estimate((*values[:3], 0.0))


def test_the_best_sentence_is_an_exact_part_that_answers(scorer: CrossEncoder) -> None:
    passages = [h.passage for h in hits()]
    (_, best, source), *_ = best_sentences(scorer, "Who books trains?", passages)
    assert best in source.text
    assert best.startswith("Trains are booked")
