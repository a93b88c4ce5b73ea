"""Distances between words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval.typos import most_typos, typos_between

WORDS = st.text("abc", max_size=8)


@pytest.mark.parametrize(
    ("a", "b", "errors"),
    [("form", "form", 0), ("form", "from", 1), ("form", "for", 1), ("form", "forms", 1),
     ("form", "farm", 1), ("abcd", "badc", 2), ("ca", "abc", None), ("form", "elephant", None)],
)  # fmt: skip
def test_swaps_gaps_and_wrong_letters_count_one_each(a: str, b: str, errors: int | None) -> None:
    assert typos_between(a, b, 2) == errors


@given(WORDS, WORDS)
def test_the_distance_is_the_same_both_ways_and_zero_only_for_equal_words(a: str, b: str) -> None:
    there = typos_between(a, b, 8)
    assert there == typos_between(b, a, 8)
    assert there is not None
    assert (there == 0) == (a == b)
    assert abs(len(a) - len(b)) <= there <= max(len(a), len(b))


@given(WORDS, WORDS, st.integers(0, 4))
def test_a_bound_only_cuts_off(a: str, b: str, most: int) -> None:
    whole = typos_between(a, b, 8)
    assert whole is not None
    assert typos_between(a, b, most) == (whole if whole <= most else None)


def test_longer_words_may_have_more_errors_and_numbers_none() -> None:
    assert [most_typos(w) for w in ("the", "form", "retriev", "retrieve")] == [0, 1, 1, 2]
    assert most_typos("2024") == most_typos("ipv6") == 0
