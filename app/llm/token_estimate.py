"""How many tokens a call used: as its model server tells, or roughly where it does not."""

from __future__ import annotations

from typing import Any

import orjson

from app.gateway.call import Usage
from app.llm.affinity import texts_of
from app.llm.reply_texts import texts_in

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


def count_usage(usage: Usage, chunk: dict[str, Any]) -> None:
    """Take a stream's usage; until it comes, count a token a chunk, so that a cut is charged."""
    told = bool(chunk.get("usage")) and usage.answered(chunk["usage"])
    if not told and any(holder[field] for _, holder, field in texts_in(chunk)):
        usage.completion_tokens += 1
