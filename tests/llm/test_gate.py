"""The gate answers what the passages hold and declines the rest (real cross-encoder)."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.gate import RARE, best_sentences, estimate, judge, measure, rare_words, shown
from app.retrieval.embedding import (
    CrossEncoder,
    OnnxEmbedder,
    packaged_bge_dir,
    packaged_reranker_dir,
)
from app.retrieval.types import Hit, Passage

TEXTS = {
    "Holidays": "Employees receive 27 days of paid holiday each year. Unused days expire in March.",
    "Travel": "Trains are booked through the travel desk in Lyon. Flights need an approval.",
    "Kitchen": "The kitchen is cleaned at six. Cups belong into the machine, not the sink.",
}

PAID = "How many days of paid holiday do employees get?"


@pytest.fixture(scope="module")
def scorer() -> CrossEncoder:
    return CrossEncoder(packaged_reranker_dir(), 2)


@cache
def embedder() -> OnnxEmbedder:
    return OnnxEmbedder(packaged_bge_dir(), 2)


def hits(question: str) -> list[Hit]:
    """The three passages with their real cosines to the question."""
    found = [
        Passage(f"p{i}", "file-1", "book.md", i, text, None, title, {})
        for i, (title, text) in enumerate(TEXTS.items())
    ]
    vectors = embedder().encode_passages([shown(passage) for passage in found])
    cosines = vectors @ embedder().encode_query(question)
    return [Hit(p, 0.5, float(c), 1.0) for p, c in zip(found, cosines, strict=True)]


def test_an_answerable_question_passes_with_the_right_passage_first(scorer: CrossEncoder) -> None:
    grounds = judge(scorer, PAID, hits(PAID), set(), 0.5)
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
    assert not judge(scorer, question, hits(question), set(), 0.5).answerable


def test_nothing_found_is_declined(scorer: CrossEncoder) -> None:
    grounds = judge(scorer, "Anything?", [], set(), 0.0)
    assert not grounds.answerable
    assert grounds.relevance == 0.0


def test_a_name_that_no_passage_holds_lowers_the_estimate(scorer: CrossEncoder) -> None:
    question = "How many days of paid holiday do employees of Siemens get?"
    (logit, cosine, missing, strange), _ = measure(scorer, question, hits(question), set())
    assert missing == 1.0
    assert estimate((logit, cosine, missing, strange)) < estimate((logit, cosine, 0.0, strange))


def test_rare_words_lower_the_estimate_unless_the_best_passage_holds_them(
    scorer: CrossEncoder,
) -> None:
    relevance = {
        word: judge(scorer, PAID, hits(PAID), {word}, 0.5).relevance
        for word in ("employees", "tungsten")
    }
    assert relevance["employees"] == judge(scorer, PAID, hits(PAID), set(), 0.5).relevance
    assert relevance["tungsten"] < relevance["employees"]


@given(
    st.integers(0, 10**9),
    st.dictionaries(st.text(max_size=5), st.integers(0, 10**6), max_size=20),
)
def test_no_word_becomes_rare_by_standing_in_more_passages(
    held: int, frequencies: dict[str, int]
) -> None:
    more = {word: passages + 1 for word, passages in frequencies.items()}
    assert rare_words(held, more) <= rare_words(held, frequencies) <= set(frequencies)


def test_a_small_collection_says_nothing_about_words_that_it_lacks() -> None:
    assert rare_words(RARE // 2 - 1, {"tungsten": 0}) == set()
    assert rare_words(RARE, {"tungsten": 0, "holiday": 40}) == {"tungsten"}


def test_the_best_sentence_is_an_exact_part_that_answers(scorer: CrossEncoder) -> None:
    passages = [h.passage for h in hits("Who books trains?")]
    (_, best, source), *_ = best_sentences(scorer, "Who books trains?", passages)
    assert best in source.text
    assert best.startswith("Trains are booked")
