"""A citation exists in its passage and bears out the sentence, or there is none."""

from __future__ import annotations

from app.llm.citations import cite
from app.llm.sentences import is_prose, names, spans, windows
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
    for text in ("```python", "def view(request):", "For example:", "Use it.", "You can use the"):
        assert not is_prose(text)
