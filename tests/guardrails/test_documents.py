"""Documents that mean the same have one version; a wrong one is refused with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.guardrails.documents import (
    BadDocument,
    document_of,
    named,
    read_document,
    shipped_policies,
    version_of,
)
from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES

RULES = st.fixed_dictionaries(
    {},
    optional={
        "input": st.sampled_from(("mask", "block", "allow")),
        "output": st.sampled_from(("mask", "block", "allow")),
        "min_score": st.one_of(st.none(), st.floats(0, 1)),
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "entities": st.dictionaries(
            st.sampled_from(sorted(PATTERN_ENTITIES | NER_ENTITIES)), RULES, max_size=5
        )
    },
    optional={
        "min_score": st.floats(0, 1),
        "languages": st.lists(st.sampled_from(("de", "en", "fr")), min_size=1, max_size=4),
    },
)


@given(DOCUMENTS)
def test_a_document_read_written_and_read_again_is_the_same(document: dict[str, Any]) -> None:
    first = read_document("own", document)
    written = json.loads(json.dumps(document_of(first)))
    again = read_document("own", written)
    assert again == first
    assert version_of(written) == first.version == again.version
    for direction in ("input", "output"):
        assert again.watched(direction) == first.watched(direction)


def test_what_is_as_usual_and_the_order_of_fields_make_no_version() -> None:
    short = {"entities": {"US_SSN": {"input": "block"}, "IP_ADDRESS": {}}}
    long = {
        "entities": {
            "IP_ADDRESS": {"output": "allow", "input": "allow"},
            "US_SSN": {"min_score": None, "output": "allow", "input": "block"},
        },
        "language": "en",
        "min_score": 0.4,
        "name": "own",
    }
    assert read_document("own", short).version == read_document("own", long).version
    assert document_of(read_document("own", long)) == {"name": "own", **short}
    both, again = ({"languages": of} | short for of in (["en", "fr"], ["fr", "en", "fr"]))
    assert read_document("own", both).version == read_document("own", again).version
    assert read_document("own", {"languages": ["en"]} | short).version == (
        read_document("own", short).version
    )
    assert read_document("own", both).version != read_document("own", short).version
    other = read_document("own", {**long, "min_score": 0.5})
    assert other.version != read_document("own", long).version
    assert named(other) == f"own@{other.version}" and len(other.version) == 12


@pytest.mark.parametrize(
    ("document", "place", "why"),
    [
        ({}, "entities", "Field required"),
        (
            {"entities": {"US_SSN": {"input": "hide"}}},
            "entities.US_SSN.input",
            "'block', 'flag' or",
        ),
        ({"entities": {"US_SSN": {"min_score": 2}}}, "entities.US_SSN.min_score", "less than or"),
        ({"entities": {"US_SSN": []}}, "entities.US_SSN", "valid dictionary"),
        (
            {"entities": {"SHOE_SIZE": {}}},
            "",
            "unknown entity type SHOE_SIZE; docs/guardrails.md lists them",
        ),
        ({"entities": {}, "min_score": float("nan")}, "min_score", "less than or equal"),
        ({"entities": {}, "colour": "red"}, "colour", "Extra inputs"),
        ({"entities": {}, "name": "other"}, "name", "stored as 'own'"),
        ({"entities": {}, "version": "x"}, "version", "The gateway gives versions"),
        ({"entities": {"\ud800": {}}}, "", "broken character"),
        ({"entities": {}, "min_score": 10**400}, "", "broken character or number"),
        ({"entities": {"x" * 5000: {}}}, "", "unknown entity type"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place(
    document: dict[str, Any], place: str, why: str
) -> None:
    with pytest.raises(BadDocument) as refusal:
        read_document("own", document)
    assert refusal.value.place == place
    assert why in str(refusal.value) and len(str(refusal.value)) <= 400
    assert str(refusal.value).startswith(place)


def test_shipped_policies_are_found_by_name() -> None:
    assert {"default", "strict"} <= set(shipped_policies())
    for name, policy in shipped_policies().items():
        assert read_document(name, document_of(policy)).entities == policy.entities
