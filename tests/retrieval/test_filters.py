"""Attribute filters."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import BadRequest
from app.retrieval.filters import compile_filter


def compare(kind: str, value: Any, key: str = "k") -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("kind", "value", "attribute", "expected"),
    [
        ("eq", "a", "a", True),
        ("eq", "a", "b", False),
        ("eq", 1, 1.0, True),
        ("eq", 1, True, False),
        ("eq", True, True, True),
        ("ne", "a", "b", True),
        ("ne", "a", "a", False),
        ("gt", 1, 2, True),
        ("gt", 2, 2, False),
        ("gte", 2, 2, True),
        ("lt", 2, 1, True),
        ("lte", 2, 3, False),
        ("gt", "2024-01-01", "2025-01-01", True),
        ("gt", 1, "2", False),
        ("in", ["a", "b"], "b", True),
        ("in", [1], True, False),
        ("in", [], "a", False),
        ("nin", ["a", "b"], "c", True),
        ("nin", ["a"], "a", False),
    ],
)
def test_comparison(kind: str, value: Any, attribute: Any, expected: bool) -> None:
    assert compile_filter(compare(kind, value))({"k": attribute}) is expected


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [("eq", 1, False), ("gt", 1, False), ("in", [1], False), ("ne", 1, True), ("nin", [1], True)],
)
def test_an_absent_attribute_equals_nothing(kind: str, value: Any, expected: bool) -> None:
    assert compile_filter(compare(kind, value))({}) is expected


def test_compound_filters_nest() -> None:
    test = compile_filter(
        {
            "type": "and",
            "filters": [
                compare("eq", "law", "team"),
                {"type": "or", "filters": [compare("gte", 2024, "year"), compare("eq", 1, "pin")]},
            ],
        }
    )
    assert test({"team": "law", "year": 2025})
    assert test({"team": "law", "year": 2000, "pin": 1})
    assert not test({"team": "law", "year": 2000})
    assert not test({"team": "ops", "year": 2025})


def deep(levels: int) -> dict[str, Any]:
    filter = compare("eq", 1)
    for _ in range(levels):
        filter = {"type": "and", "filters": [filter]}
    return filter


@pytest.mark.parametrize(
    ("filter", "part"),
    [
        ({"type": "like", "key": "k", "value": "a"}, "filters.type"),
        ({"type": ["eq"], "key": "k", "value": "a"}, "filters.type"),
        ({}, "filters.type"),
        (compare("eq", None), "filters.value"),
        (compare("eq", float("nan")), "filters.value"),
        (compare("in", "a"), "filters.value"),
        (compare("in", ["a", {}]), "filters.value[1]"),
        (compare("gt", True), "filters.value"),
        ({"type": "eq", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "k", "value": 1, "x": 2}, "filters.x"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": [compare("eq", 1), {"type": "eq"}]}, "filters.filters[1].key"),
        ({"type": "or", "filters": [3]}, "filters.filters[0]"),
    ],
)
def test_the_error_names_the_bad_part(filter: dict[str, Any], part: str) -> None:
    with pytest.raises(BadRequest) as error:
        compile_filter(filter)
    assert error.value.param == part
    assert error.value.code == "invalid_filter"


def test_endless_nesting_is_refused_without_a_crash() -> None:
    with pytest.raises(BadRequest, match="too many"):
        compile_filter(deep(900))
