"""Where the model's own texts stand in a reply, or in a chunk of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.llm.stream_screens import FIELDS, TEXT


def texts_in(reply: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Where the model's own text stands in a reply or chunk: (choice, holder, field)."""
    choices = [c for c in reply.get("choices") or () if isinstance(c, dict)]
    return [(c, *place) for c in choices for place in _texts_of(c)]


def length_of(reply: dict[str, Any]) -> int:
    """The characters of the model's own texts in a reply."""
    return sum(len(str(holder[field])) for _, holder, field in texts_in(reply))


def _texts_of(choice: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the model's own text stands in a choice: (holder, field)."""
    if isinstance(choice.get(TEXT), str):
        yield choice, TEXT
    message = choice.get("message") or choice.get("delta") or {}
    for field in FIELDS:
        if isinstance(message.get(field), str):
            yield message, field
    functions = [tool.get("function") for tool in message.get("tool_calls") or ()]
    for function in [*functions, message.get("function_call")]:
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            yield function, "arguments"
