"""Compiles the attribute filters of a search into a predicate."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from app.errors import BadRequest

Predicate = Callable[[Mapping[str, Any]], bool]

_MAX_DEPTH = 16
_MAX_PARTS = 512
_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_COMPARISONS = ("eq", "ne", *_ORDERINGS, "in", "nin")
_COMPOUNDS = ("and", "or")
_FIELDS = {"comparison": {"type", "key", "value"}, "compound": {"type", "filters"}}


def compile_filter(filter: Mapping[str, Any]) -> Predicate:
    """Compile an OpenAI comparison or compound filter.

    Values compare only with values of their own type: text, number or true/false. An attribute
    that is absent, or of another type, equals nothing: it fails every comparison but ``ne`` and
    ``nin``.

    Raises:
        BadRequest: names the part that is wrong in ``param``.
    """
    return _Compiler().compile(filter, "filters", 1)


def _fail(part: str, message: str) -> BadRequest:
    return BadRequest(f"{part}: {message}", param=part, code="invalid_filter")


class _Compiler:
    def __init__(self) -> None:
        self.parts = 0

    def compile(self, filter: Any, part: str, depth: int) -> Predicate:
        self.parts += 1
        if depth > _MAX_DEPTH or self.parts > _MAX_PARTS:
            raise _fail(
                part, f"too many filters. Nest at most {_MAX_DEPTH}, use at most {_MAX_PARTS}."
            )
        if not isinstance(filter, Mapping):
            raise _fail(part, "must be an object with 'type'.")
        kind = filter.get("type")
        if kind in _COMPOUNDS:
            _check_fields(filter, "compound", part)
            return self._compound(kind, filter.get("filters"), part, depth)
        if kind in _COMPARISONS:
            _check_fields(filter, "comparison", part)
            return _comparison(kind, filter, part)
        allowed = ", ".join((*_COMPARISONS, *_COMPOUNDS))
        raise _fail(f"{part}.type", f"{str(kind)[:40]!r} is unknown. Use one of {allowed}.")

    def _compound(self, kind: str, inner: Any, part: str, depth: int) -> Predicate:
        if not isinstance(inner, list) or not inner:
            raise _fail(f"{part}.filters", "must be a list of at least one filter.")
        predicates = [
            self.compile(item, f"{part}.filters[{i}]", depth + 1) for i, item in enumerate(inner)
        ]
        if kind == "and":
            return lambda attributes: all(test(attributes) for test in predicates)
        return lambda attributes: any(test(attributes) for test in predicates)


def _check_fields(filter: Mapping[str, Any], shape: str, part: str) -> None:
    unknown = [str(name)[:40] for name in filter if name not in _FIELDS[shape]]
    if unknown:
        raise _fail(f"{part}.{unknown[0]}", f"is not a field of a {shape} filter. Remove it.")


def _comparison(kind: str, filter: Mapping[str, Any], part: str) -> Predicate:
    key, value = filter.get("key"), filter.get("value")
    if not isinstance(key, str) or not key:
        raise _fail(f"{part}.key", "must be the name of an attribute.")
    if kind in ("in", "nin"):
        if not isinstance(value, list):
            raise _fail(f"{part}.value", f"must be a list for '{kind}'.")
        members = {_typed(item, f"{part}.value[{i}]") for i, item in enumerate(value)}
        wanted = kind == "in"
        return lambda attributes: (_key(attributes.get(key)) in members) is wanted
    expected = _typed(value, f"{part}.value")
    if kind in ("eq", "ne"):
        wanted = kind == "eq"
        return lambda attributes: (_key(attributes.get(key)) == expected) is wanted
    if expected[0] == "bool":
        raise _fail(f"{part}.value", f"true and false have no order. Use 'eq', not '{kind}'.")
    compare = _ORDERINGS[kind]

    def ordered(attributes: Mapping[str, Any]) -> bool:
        found = _key(attributes.get(key))
        return found is not None and found[0] == expected[0] and compare(found[1], expected[1])

    return ordered


def _key(value: Any) -> tuple[str, Any] | None:
    """Return (kind, value), which keeps True apart from 1; None for what cannot compare."""
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        return "text", value
    return None


def _typed(value: Any, part: str) -> tuple[str, Any]:
    typed = _key(value)
    if typed is None or value != value:  # NaN differs from itself
        raise _fail(part, "must be text, a number, true or false.")
    return typed
