"""Tokens stand for values: the same for the same, nothing without the key, whole again with it."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from app.guardrails.entities import PATTERN_ENTITIES
from app.guardrails.pii import PiiDetector
from app.guardrails.tokens import TOKEN, Tokens

OURS, OTHERS, ANOTHER_KEY = (
    Tokens(b"k" * 32, "ours"),
    Tokens(b"k" * 32, "others"),
    Tokens(b"l" * 32, "ours"),
)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)


@given(first=VALUES, second=VALUES)
def test_a_token_is_the_same_for_the_same_value_only(first: str, second: str) -> None:
    for make in (OURS.hashed, OURS.sealed):
        assert (make("PERSON", first) == make("PERSON", second)) == (first == second)
        assert make("PERSON", first) != make("LOCATION", first)
    for others in (OTHERS, ANOTHER_KEY):
        assert OURS.hashed("PERSON", first) != others.hashed("PERSON", first)


@given(parts=st.lists(st.tuples(VALUES.filter(lambda t: "<" not in t), VALUES), max_size=6))
def test_sealed_values_come_back_where_they_stood(parts: list[tuple[str, str]]) -> None:
    text = "".join(f"{between}{OURS.sealed('PERSON', value)}" for between, value in parts)
    opened = OURS.open(text)
    assert opened.text == "".join(f"{between}{value}" for between, value in parts)
    assert [opened.text[f.start : f.end] for f in opened.values] == [v for _, v in parts]
    assert not opened.foreign


@given(value=VALUES)
def test_other_tenants_and_other_keys_turn_nothing_back(value: str) -> None:
    token = OURS.sealed("PERSON", value)
    for others in (OTHERS, ANOTHER_KEY):
        opened = others.open(f"a {token} b")
        assert (opened.text, opened.values, opened.foreign) == (f"a {token} b", [], 1)


def test_a_changed_token_is_not_turned_back() -> None:
    token = OURS.sealed("PERSON", "Ada Lovelace")
    for place in range(len("<PERSON:"), len(token) - 1):
        changed = token[:place] + ("a" if token[place] != "a" else "b") + token[place + 1 :]
        assert OURS.open(changed).foreign == 1, place
    assert OURS.open(token.replace("PERSON", "LOCATION")).foreign == 1


@given(value=VALUES)
def test_no_recognizer_takes_a_token_for_a_value(detector: PiiDetector, value: str) -> None:
    for token in (OURS.hashed("PERSON", value), OURS.sealed("PERSON", value)):
        assert TOKEN.fullmatch(token) and not re.search(r"\d|@", token)
        assert detector.detect(f"to {token} now", PATTERN_ENTITIES, lambda _: 0.0) == []
