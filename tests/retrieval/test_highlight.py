"""Highlights and snippets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.retrieval.highlight import best_snippet, highlight

TEXT = "Refunds are paid within fourteen days. The running costs of select_related() are low."


def shown(text: str, query: str, language: str = "en", **options: object) -> list[str]:
    spans = highlight(text, query, language, **options)  # type: ignore[arg-type]
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "query", "spans"),
    [
        (TEXT, "what is a refund?", ["Refunds"]),
        (TEXT, "RUN cost", ["running", "costs"]),
        (TEXT, '"fourteen days" refund', ["Refunds", "fourteen days"]),
        (TEXT, '"days fourteen"', []),
        (TEXT, "+paid -refunds", ["paid"]),
        (TEXT, "select_related", ["select_related"]),
        (TEXT, "related", ["related"]),
        ("Use django.db.models.F now.", "django.db.models.F", ["django.db.models.F"]),
        ("Use django.db.models.F now.", "models.F", ["models.F"]),
        ("Return HttpResponse.", "response", ["Response"]),
        ("In C++ or D.", "C++", ["C++"]),
        ("Zu\u0308rich ﬁnds\u00a0costs", "zurich find cost", ["Zu\u0308rich", "ﬁnds", "costs"]),
        ("東京都の天気", "東京 天気", ["東京", "天気"]),
        ("東京都の天気", "都", ["都"]),
        ("東京都の天気", '"東京都"', ["東京都"]),
        (TEXT, "", []),
        ("", "refund", []),
    ],
)
def test_what_matched_is_shown(text: str, query: str, spans: list[str]) -> None:
    assert shown(text, query) == spans


def test_other_languages_are_shown_by_their_own_stems() -> None:
    assert shown("Die Häuser der Straße", "haus strasse", "de") == ["Häuser", "Straße"]
    with pytest.raises(BadRequest, match="'und' suits any other"):
        highlight(TEXT, "refund", "xx")


def test_near_words_are_shown_only_for_words_unknown_to_the_index() -> None:
    assert shown("The form and the farm", "forn") == []
    assert shown("The form and the farm", "forn", unknown={"forn"}) == ["form"]


def test_marks_are_plain_text_without_operators() -> None:
    assert shown(TEXT, '-refunds "days fourteen"', operators=False) == [
        "Refunds", "fourteen", "days",
    ]  # fmt: skip


def test_the_snippet_shows_the_most_words_and_starts_with_a_sentence() -> None:
    long = "Nothing to see here. " * 20 + TEXT + " More text follows. " * 20
    found = best_snippet(long, "running costs of related queries", 60)
    assert found.text.startswith("The running costs of select_related()")
    assert [found.text[a:b] for a, b in found.spans] == ["running", "costs", "related"]
    assert long[found.start : found.end] == found.text


def test_the_snippet_of_a_text_without_matches_is_its_beginning() -> None:
    found = best_snippet(TEXT, "elephant", 20)
    assert (found.text, found.start, found.spans) == ("Refunds are paid", 0, [])
    assert best_snippet("short", "elephant", 20).text == "short"


def test_words_are_not_cut_where_there_is_a_space_nearby() -> None:
    words = " ".join(f"word{i}" for i in range(200))
    found = best_snippet(words, "word100", 50)
    assert "word100" in found.text.split()
    assert set(found.text.split()) <= set(words.split())


def test_a_snippet_of_no_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 character, got 0"):
        best_snippet(TEXT, "refund", 0)


@settings(deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=()), max_size=200),
    query=st.text(max_size=40),
    most=st.integers(1, 80),
    language=st.sampled_from(["en", "de", "ja", "und"]),
)
def test_spans_and_snippets_lie_in_the_text(
    text: str, query: str, most: int, language: str
) -> None:
    spans = highlight(text, query, language)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    found = best_snippet(text, query, most, language)
    assert len(found.text) <= most
    assert found.text == text[found.start : found.end]
    assert all(0 <= start < end <= len(found.text) for start, end in found.spans)


@settings(deadline=None)
@given(st.text('aB_.- "+京都é', max_size=80), st.text('aB_.- "+京都é', max_size=20))
def test_spans_lie_in_texts_of_marks(text: str, query: str) -> None:
    spans = highlight(text, query)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert len(best_snippet(text, query, 10).text) <= 10
