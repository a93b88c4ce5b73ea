"""Two questions that look alike are one only if their numbers, names and denials agree."""

from __future__ import annotations

import pytest

from app.llm.same_question import agree, check, shipped_pairs
from tests.retrieval.stores import embedder


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Who approves purchases above 5,000 euros?", "Who approves purchases above 50,000 euros?"),
        ("What does error 504 mean?", "What does error 502 mean?"),
        ("How far is it to Berlin?", "How far is it to Munich?"),
        ("May I take it abroad?", "May I not take it abroad?"),
        ("Say 'good morning' in French.", "Say 'good night' in French."),
        ("Name three risks.", "Name five risks."),
        ("How do I enable the firewall?", "How do I disable the firewall?"),
        ("Convert miles to kilometres", "Convert kilometres to miles"),
        ("Is it unsafe with water?", "Is it unsafe without water?"),
    ],
)
def test_what_differs_in_one_word_that_counts_is_another_question(first: str, second: str) -> None:
    assert not agree(first, second) and not agree(second, first)
    assert agree(first, first) and agree(second, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("How do I open the door and close it?", "How can I open the door and close it again?"),
        ("What is the capital of Peru?", "Which city is the capital of Peru?"),
        ("Doesn't it work?", "Does it not work?"),
        ("what is the weather like", "How is the weather"),
    ],
)
def test_other_words_for_the_same_agree(first: str, second: str) -> None:
    assert agree(first, second)


async def test_at_the_recommended_threshold_few_near_misses_pass() -> None:
    """The figures of docs/caching.md."""
    pairs, model = shipped_pairs(), embedder()
    (loose, documented) = await check(model.embed_passages, [0.90, 0.95], pairs)
    assert (documented.same, documented.different) == (60, 60)
    assert documented.wrong == 0 and documented.found >= 30
    assert loose.found > documented.found
    (unseen,) = await check(model.embed_passages, [0.95], shipped_pairs("test"))
    assert (unseen.found, unseen.wrong) == (12, 0)
    (unguarded,) = await check(model.embed_passages, [0.90], pairs, guarded=False)
    assert unguarded.wrong > 3 * loose.wrong
