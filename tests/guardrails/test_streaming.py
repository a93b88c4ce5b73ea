"""A stream gives what the whole text gives, however it is cut, and leaks no part of a value."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.guardrails.entities import PATTERN_ENTITIES
from app.guardrails.findings import mask
from app.guardrails.pii import PiiDetector
from app.guardrails.segments import MOST_WINDOW, windows
from app.guardrails.streaming import StreamScreen
from tests.guardrails.texts import text as make_text

PIECES = st.sampled_from(
    [" ", "  ", "\n", "-", ".", "(", ")", "+", "/", "@", ":", ",", "x", "ext", "A", "ab", "DE89",
     "GB82", "WEST", "1", "12", "415", "555", "0132", "1234", "4111", "1111", "hello", "The",
     "me", "example.com", "\u00a0", "\u65e5", "!", "'", "2024", "::", "fe80", ". "]
)  # fmt: skip


def whole(detector: PiiDetector, text: str, start: int = 0) -> str:
    found = detector.detect(text, PATTERN_ENTITIES, lambda _: 0.3, start=start)
    return mask(text, found)[start:]


def stream(detector: PiiDetector) -> StreamScreen:
    return StreamScreen(lambda t, start: whole(detector, t, start), detector.spans, False)


def run(screen: StreamScreen, text: str, rng: random.Random, most: int) -> str:
    out, at = [], 0
    while at < len(text):
        size = rng.randint(1, most)
        out.append(screen.feed(text[at : at + size]))
        at += size
    return "".join([*out, screen.finish()])


@pytest.mark.parametrize("seed", range(100))
def test_random_chunks_give_what_the_whole_text_gives_and_leak_no_value(
    detector: PiiDetector, seed: int
) -> None:
    text, known = make_text(seed)
    rng = random.Random(seed)
    expected = whole(detector, text)
    for most in (1, 5, 30):
        got = run(stream(detector), text, rng, most)
        assert got == expected
    for value in known:
        assert value.text.split(" ext")[0] not in expected


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(PIECES, max_size=60), seed=st.integers(0, 999))
def test_any_text_in_any_chunks_gives_what_the_whole_text_gives(
    detector: PiiDetector, pieces: list[str], seed: int
) -> None:
    text = "".join(pieces)
    assert run(stream(detector), text, random.Random(seed), 4) == whole(detector, text)


@pytest.mark.parametrize("unit", ["1 2 ", "4111 ", "ab12", "a.b@", "0123456789", "- "])
def test_endless_value_like_text_is_bounded_and_equal_to_the_whole(
    detector: PiiDetector, unit: str
) -> None:
    text = unit * (9000 // len(unit)) + " jane@example.com end"
    screen = stream(detector)
    out, held = [], 0
    for i in range(0, len(text), 50):
        out.append(screen.feed(text[i : i + 50]))
        held = max(held, len(screen._text))
    got = "".join([*out, screen.finish()])
    assert held < 2_600
    assert got == whole(detector, text)
    assert "jane@example.com" not in got


def test_plain_words_go_out_with_the_next_word(detector: PiiDetector) -> None:
    screen = stream(detector)
    assert screen.feed("Hello") == ""
    assert screen.feed(" world") == "Hello "
    assert screen.feed(", in 2024") == "world, in "
    assert screen.feed(" the") == "2024 "
    assert screen.feed(" end.") == "the "
    assert screen.finish() == "end."


def test_value_split_over_chunks_never_shows_a_part(detector: PiiDetector) -> None:
    for text, secret in [
        ("Call (415) 555-0132 today", "(415) 555-0132"),
        ("Pay 4111 1111 1111 1111 now", "4111 1111 1111 1111"),
        ("To GB82 WEST 1234 5698 7654 32 please", "GB82 WEST 1234 5698 7654 32"),
        ("Mail jane.doe@example.com soon", "jane.doe@example.com"),
    ]:
        screen = stream(detector)
        out = "".join([*(screen.feed(c) for c in text), screen.finish()])
        assert all(part not in out for part in secret.split()), out
        assert out.count("<") == 1


def test_with_names_a_stream_goes_out_by_sentences(detector: PiiDetector) -> None:
    watched = PATTERN_ENTITIES | {"PERSON", "LOCATION"}

    def screen(text: str, start: int = 0) -> str:
        return mask(text, detector.detect(text, watched, lambda _: 0.4, start=start))[start:]

    text = (
        "Angela Merkel met Tim Cook in Berlin. Call 415-555-0132 today! "
        "Barack Obama lives in Chicago.\nNothing more"
    )
    for most in (1, 4, 25):
        stream = StreamScreen(screen, detector.spans, True)
        got = run(stream, text, random.Random(most), most)
        assert got == screen(text)
        assert not any(name in got for name in ("Merkel", "Cook", "Berlin", "Obama", "0132"))
    stream = StreamScreen(screen, detector.spans, True)
    assert stream.feed("Angela Merkel met Tim") == ""
    assert stream.feed(" Cook. Then") == "<PERSON> met <PERSON>. "


@pytest.mark.parametrize("seed", range(40))
def test_windows_for_names_do_not_depend_on_the_chunks(detector: PiiDetector, seed: int) -> None:
    text, _ = make_text(seed, words=400)
    expected: list[str] = []
    start = 0
    for end in windows(text, 0, detector.spans, final=True):
        expected.append(text[start:end])
        start = end
    seen: list[str] = []

    def note(text: str, start: int) -> str:
        seen.append(text[start:])
        return text[start:]

    assert run(StreamScreen(note, detector.spans, True), text, random.Random(seed), 9) == text
    assert seen == expected
    assert max(map(len, seen)) < 2 * MOST_WINDOW
