"""How text becomes terms."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.retrieval.analysis import (
    LANGUAGES,
    analysis,
    humps,
    identifiers,
    is_unspaced,
    name_terms,
    names,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=120)


@settings(deadline=None)
@given(text=ANY_TEXT, language=st.sampled_from(LANGUAGES))
def test_words_are_what_the_index_makes_of_the_text_and_lie_inside_it(
    text: str, language: str
) -> None:
    terms = analysis(language)
    words = terms.words(text)
    assert all(0 <= word.start < word.end <= len(text) for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)
    if text.isascii():
        assert [word.stem for word in words] == terms.stems.analyze(terms.prepare(text))


@pytest.mark.parametrize(
    "text",
    [
        "The running costs of Zürich",
        "Zu\u0308rich ﬁnds\u00a0costs ½ ①",
        "東京都の天気 and お茶, 茶",
        "\ud800 lone \udfff halves",
        "각 \u1100\u1161 한국어",
        "ถนนที่ดี",
        "कीमत हिन्दी",
    ],
)
@pytest.mark.parametrize("language", ["en", "de", "ja", "th", "und"])
def test_words_and_index_agree_on_every_script(text: str, language: str) -> None:
    terms = analysis(language)
    assert [word.stem for word in terms.words(text)] == terms.stems.analyze(terms.prepare(text))


def test_words_know_their_place_in_text_that_is_not_normalised() -> None:
    text = "Zu\u0308rich ﬁnds 東京都"
    words = analysis("en").words(text)
    assert [text[word.start : word.end] for word in words] == [
        "Zu\u0308rich", "ﬁnds", "東京", "京都",
    ]  # fmt: skip
    assert [word.stem for word in words] == ["zurich", "find", "東京", "京都"]


def test_common_words_are_content_only_where_there_are_no_others() -> None:
    assert set(analysis("en").content("what is the price of it")) == {"price"}
    assert set(analysis("en").content("what is it")) == {"what", "is", "it"}
    assert set(analysis("en").content("the WHO and IT")) == {"who", "it"}
    assert set(analysis("en").content("WHAT IS THE PRICE")) == {"price"}
    assert set(analysis("de").content("das ist der Preis")) == {"preis"}


def test_humps_are_content() -> None:
    assert analysis("en").content("HttpResponses") == {
        "httprespons": "httpresponses", "http": "http", "respons": "responses",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see CVE-2024-3094.", ["CVE-2024-3094"]),
        ("django.db.models.F, and", ["django.db.models.F"]),
        ("ERR_CONN_RESET!", ["ERR_CONN_RESET"]),
        ("foo_bar() __init__ _private", ["foo_bar", "__init__", "_private"]),
        ("pip install --no-deps -Wall -m", ["--no-deps", "-Wall"]),
        ("C++ and C#, not C", ["C++", "C#"]),
        ("HttpResponse fooBar XMLHttpRequest", ["HttpResponse", "fooBar", "XMLHttpRequest"]),
        ("std::vector a->b x@y.org a/b", ["std::vector", "a->b", "x@y.org", "a/b"]),
        ("Plain words, 42 of them. Really?", []),
        ("_ ___ -- - . ::", []),
    ],
)
def test_identifiers_are_told_from_words(text: str, found: list[str]) -> None:
    assert [name for name, _, _ in identifiers(text)] == found
    assert all(text[start:end] == name for name, start, end in identifiers(text))
    assert names(text) == set(found)


@given(ANY_TEXT)
def test_both_ways_to_find_identifiers_agree(text: str) -> None:
    assert names(text) == {name for name, _, _ in identifiers(text)}


@given(st.text("aB1_-.:/#+ é", max_size=80))
def test_both_ways_to_find_identifiers_agree_on_marks(text: str) -> None:
    assert names(text) == {name for name, _, _ in identifiers(text)}


@pytest.mark.parametrize("unit", ["_", "a", "a-", "aB", "-", "a_", "a.", "A", "é", "C+", '"'])
def test_long_texts_take_time_in_proportion(unit: str) -> None:
    for name in names(unit * 50_000):
        assert len(name) <= 100
        assert len(name_terms(name)) < 40
        humps(name)


def test_a_path_is_indexed_by_its_ends_and_beginnings() -> None:
    assert name_terms("django.db.models.F") == [
        "django.db.models.f", "db.models.f", "models.f", "django.db", "django.db.models",
    ]  # fmt: skip
    assert name_terms("forms.ModelForm.save_m2m")[-2:] == ["modelform", "save_m2m"]
    assert name_terms("--no-deps") == ["--no-deps", "no-deps"]
    assert name_terms("1.2.3") == ["1.2.3", "1.2"]


def test_humps_are_words() -> None:
    assert humps("XMLHttpRequest") == ["XML", "Http", "Request"]
    assert humps("foo_barBaz") == ["bar", "Baz"]
    assert humps("plain_name") == []


def test_scripts_without_spaces_are_known() -> None:
    assert is_unspaced("東京")
    assert is_unspaced("ไทย")
    assert not is_unspaced("Zürich")
    assert not is_unspaced("東京x")
