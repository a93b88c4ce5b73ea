"""How answers and documents become HTML."""

from __future__ import annotations

import time

import pytest

from app.retrieval.types import Passage
from app.ui.page_route import own_page
from app.ui.render import Words, cite_marks, document


def passage(ordinal: int, text: str, section: str | None = None) -> Passage:
    return Passage(f"p{ordinal}", "file-1", "a.md", ordinal, text, None, section, {})


def shown(texts: list[str], at: int | None = None, words: Words | None = None) -> str:
    return document("a.md", [passage(n, t) for n, t in enumerate(texts)], texts, at, words)


def test_cited_words_are_marked_at_their_place() -> None:
    words = Words.find("two & three", "one two & three four")
    assert words is not None and (words.start, words.end) == (4, 15)
    html = shown(["one two & three four"], 0, words)
    assert 'one <mark id="cited" tabindex="-1">two &amp; three</mark> four' in html


@pytest.mark.parametrize("words", [Words(0, 3, "0"), Words(5, 900, "0"), Words(3, 3, "00000000")])
def test_a_place_that_does_not_hold_the_words_marks_the_passage(words: Words) -> None:
    html = shown(["one two"], 0, words)
    assert "<mark" not in html and html.count('id="cited"') == 1


def test_a_masked_quote_has_no_place() -> None:
    assert Words.find("call <PHONE_NUMBER> now", "call 1234 now") is None
    assert Words.find("", "text") is None


def test_numbers_stand_behind_the_words_they_bear_out() -> None:
    html = cite_marks("A <b>. C", [{"index": 6}, {"index": 8}])
    assert html.startswith("A &lt;b&gt;.<sup>") and html.endswith("2</a></sup>")


def test_what_the_chunker_repeats_is_shown_once() -> None:
    end = "The last words of the first passage."
    html = shown([f"Begin.\n\n{end}", f"{end}\n\nThe second goes on."])
    assert html.count(end) == 1 and "The second goes on." in html


def test_alike_passages_are_all_shown() -> None:
    row = "1,2,3,4,5,6,7,8,9,10,11,12"
    assert shown([row, row, row]).count(row) == 3


def test_a_document_of_a_thousand_passages_is_rendered_in_a_moment() -> None:
    texts = [f"Passage {n}. " + "Words of a long document. " * 40 for n in range(1000)]
    shown(texts)
    begin = time.perf_counter()
    html = shown(texts, 900, Words.find("Passage 900.", texts[900]))
    assert time.perf_counter() - begin < 2  # some 10 ms, on an idle machine
    assert html.count("<mark") == 1


@pytest.mark.parametrize(
    "address", ["/ui/documents/vs_1/file-1?at=3&start=0&end=9&check=0a", "/ui/ask"]
)
def test_signing_in_may_lead_to_our_pages(address: str) -> None:
    assert own_page(address).removesuffix("#cited") == address


@pytest.mark.parametrize(
    "address",
    ["", "//x/ui/ask", "https://x/ui/ask", "/ui/ask\n", "/ui/documents/../../x", "/ui/ask#"],
)
def test_signing_in_leads_nowhere_else(address: str) -> None:
    assert own_page(address) == "/ui/ask"
