"""How many tokens a text has, roughly: for calls whose model server does not tell."""

from __future__ import annotations

from typing import Any

import orjson

from app.llm.affinity import texts_of

CHARS_A_TOKEN = 4  # of English; fewer of most other languages, so that estimates are low there


def estimate(chars: int) -> int:
    """The tokens of so many characters, rounded up."""
    return -(-chars // CHARS_A_TOKEN)


def estimate_prompt(body: dict[str, Any]) -> int:
    """The tokens of a request's prompt and of the tools that it offers."""
    tools = body.get("tools")
    return estimate(
        sum(len(text) for text in texts_of(body)) + (len(orjson.dumps(tools)) if tools else 0)
    )
