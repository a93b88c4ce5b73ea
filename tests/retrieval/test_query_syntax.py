"""Quotes and signs in a query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval.query_syntax import ParsedQuery, parse


def test_a_query_is_taken_apart_by_its_marks() -> None:
    assert parse('refund "fourteen days" +shop -"gift card" -coupon') == ParsedQuery(
        "refund", ("fourteen days",), ("shop",), ("coupon",), ("gift card",)
    )


@pytest.mark.parametrize(
    "query", ["“fourteen days”", "„fourteen days“", "«fourteen days»", '+"fourteen days"']
)
def test_every_kind_of_quotes_makes_a_phrase(query: str) -> None:
    assert parse(query) == ParsedQuery("", ("fourteen days",))


@pytest.mark.parametrize(
    "query",
    ["-5 degrees", "--no-deps", "git -m", "well-known", "- item", "+49 30", '5" pipe and 6" pipe',
     'an open "quote', '"!?"', "-foo", '-"foo bar"', "", "+", "a + b"],
)  # fmt: skip
def test_what_only_looks_like_a_mark_is_plain_text(query: str) -> None:
    assert not parse(query).strict


def test_without_operators_all_is_plain() -> None:
    assert parse('+a "b c" -dd', operators=False) == ParsedQuery('+a "b c" -dd')


@given(st.text('ab+-"“”« \n', max_size=60))
def test_no_word_is_lost(query: str) -> None:
    parsed = parse(query)
    parts = (parsed.plain, *parsed.phrases, *parsed.required, *parsed.excluded,
             *parsed.excluded_phrases)  # fmt: skip
    assert sorted(c for part in parts for c in part if c.isalpha()) == sorted(
        c for c in query if c.isalpha()
    )
