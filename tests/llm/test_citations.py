"""A citation exists in its passage and bears out the sentence, or there is none."""

from __future__ import annotations

import pytest

from app.llm.citations import cite
from app.llm.sentences import contradicts, is_prose, names, spans, windows
from app.retrieval.types import Passage

TEXT = (
    "Sessions are kept in the database. The age of session cookies is 1209600 seconds, which "
    "is 2 weeks.\n\nHttpResponseForbidden uses a 403 status code.\n\nHttpResponseNotFound uses "
    "a 404 status code."
)


def passage(text: str = TEXT, section: str | None = "Sessions") -> Passage:
    return Passage("p1", "file-1", "sessions.txt", 0, text, None, section, {})


def test_a_quote_is_an_exact_part_of_the_passage() -> None:
    others = [passage("Unrelated words."), passage()]
    found = cite("Session cookies have an age of 2 weeks.", others)
    assert found is not None
    assert found.quote in TEXT
    assert "2 weeks" in found.quote
    assert found.passage.filename == "sessions.txt"


def test_a_sentence_with_a_foreign_number_has_no_citation() -> None:
    assert cite("The age of session cookies is 3 weeks.", [passage()]) is None


def test_words_from_different_places_do_not_bear_out_a_sentence() -> None:
    assert cite("HttpResponseForbidden uses a 404 status code.", [passage(section=None)]) is None
    assert cite("HttpResponseForbidden uses a 403 status code.", [passage()]) is not None


def test_a_name_that_the_passage_lacks_has_no_citation() -> None:
    assert cite("The age of session cookies in Redis is 2 weeks.", [passage()]) is None


@pytest.mark.parametrize(
    ("claim", "source"),
    [
        ("Use the development server in production.", "Do not use the development server."),
        (
            "The server should be used in production.",
            "The development server should not be used in production.",
        ),
        ("You cannot change the age of cookies.", "You can change the age of cookies."),
        ("Cookies never expire.", "Cookies expire after two weeks."),
        ("The cache is cleared.", "The cache isn't cleared by this command."),
    ],
)
def test_a_sentence_that_denies_the_passage_has_no_citation(claim: str, source: str) -> None:
    assert contradicts(claim, source)
    assert cite(claim, [passage(source, section=None)]) is None


@pytest.mark.parametrize(
    ("claim", "source"),
    [
        (
            "You must never use the development server in production.",
            "Don't use the development server in a production setting.",
        ),
        (
            "Entries stay 300 seconds in the cache.",
            "If you don't set a timeout, entries stay 300 seconds in the cache.",
        ),
        ("It purges sessions and the cache.", "It purges not only sessions but also the cache."),
        ("Cookies expire after two weeks.", "Cookies expire after two weeks. Keys do not."),
        ("Send a no-cache header.", "To stop it, send a no-cache header."),
    ],
)
def test_a_negation_of_something_else_denies_nothing(claim: str, source: str) -> None:
    assert not contradicts(claim, source)
    assert cite(claim, [passage(source, section=None)]) is not None


def test_a_short_sentence_is_borne_out_as_a_whole() -> None:
    source = "Nope. If you use another database library, you won't get Django's admin site."
    claim = "No, you cannot use Django without a database."
    assert cite(claim, [passage(source, section=None)]) is None


def test_sentences_and_windows_are_exact_parts() -> None:
    assert next(TEXT[a:b] for a, b in spans(TEXT)) == "Sessions are kept in the database."
    assert len(spans(TEXT)) == 4
    for window in windows(TEXT, 200):
        assert window in TEXT


def test_names_are_codes_numbers_and_capitals_inside_a_sentence() -> None:
    found = names("How does Flask read SESSION_URL? Cookies last 2 weeks in the DynamoDB.")
    assert {"flask", "session_url", "2", "dynamodb"} <= found
    assert not {"how", "cooki", "week"} & found


def test_code_labels_and_cut_sentences_are_not_prose() -> None:
    assert is_prose("Sessions last two weeks.")
    assert is_prose("Set `USE_TZ = True` in the file of settings of class A.")
    for text in (
        'The framework # looks for them in this order. def author(self): """The name."""',
        "from django.db import models. Use it then.",
        "class Books(Page). Then self.x is set.",
    ):
        assert not is_prose(text)
    for text in ("```python", "def view(request):", "For example:", "Use it.", "You can use the"):
        assert not is_prose(text)
