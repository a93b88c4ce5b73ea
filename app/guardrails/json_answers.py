"""Whether a text is JSON of a given schema; what is told of a fault holds no value of the text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

import orjson

from app.errors import MissingExtra

MOST_FAULTS = 3  # told of one text
LARGEST_PATTERN = 1 << 20  # bytes of a compiled pattern; matching takes linear time
LONGEST_TOLD = 300
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
ANY_SCHEMA: Mapping[str, Any] = {}  # that every JSON satisfies


class BadSchema(ValueError):
    """A schema that cannot be used; the message says why."""


def schema_fault(schema: Mapping[str, Any]) -> str | None:
    """Why a schema cannot be used; None: it can, or nothing is installed to tell."""
    try:
        _validator(_canonical(schema))
    except BadSchema as error:
        return str(error)
    except MissingExtra:
        return None
    return None


def require_validator() -> None:
    """Raises MissingExtra where nothing is installed that knows schemas."""
    _validator(b"true")


def json_fault(text: str, schema: Mapping[str, Any]) -> str | None:
    """Why a text is not JSON of a schema; None: it is.

    Raises:
        BadSchema: the schema cannot be used.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"it is not JSON (line {error.lineno}, column {error.colno})"
    faults = []
    for wrong in _validator(_canonical(schema)).iter_errors(value):
        faults.append(f"at {_place(wrong.instance_path)}: {_short(str(wrong.message))}")
        if len(faults) == MOST_FAULTS:
            break
    return "; ".join(faults) or None


def _canonical(schema: Mapping[str, Any]) -> bytes:
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    try:
        import jsonschema_rs
    except ImportError as error:
        raise MissingExtra("What checks JSON against a schema", "guardrails") from error
    try:
        return jsonschema_rs.validator_for(
            orjson.loads(schema),
            mask="the value",
            retriever=_fetch_nothing,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=LARGEST_PATTERN),
        )
    except ValueError as error:
        told = str(getattr(error, "message", error)).partition("\n")[0]
        place = _place(getattr(error, "instance_path", ()))
        raise BadSchema(_short(f"at {place}: {told}")) from None


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("references to other documents are not followed")


def _place(path: Any) -> str:
    steps = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return _short("$" + "".join(steps))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TOLD else text[: LONGEST_TOLD - 1] + "…"
