"""A streamed chat or completion put together again, and a whole one told as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.llm.stream_screens import TEXT

PLAIN = "text_completion"


class Gathered:
    """The choices of a stream as a whole reply would hold them: texts and calls of functions."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}

    def take(self, chunk: dict[str, Any]) -> None:
        """Add what a chunk gives out."""
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            kept = self._choices.setdefault(index, {"index": index, "message": {"content": ""}})
            if isinstance(choice.get(TEXT), str):
                kept[TEXT] = kept.get(TEXT, "") + choice[TEXT]
            delta, message = choice.get("delta") or {}, kept["message"]
            if isinstance(delta.get("content"), str):
                message["content"] += delta["content"]
            for tool in delta.get("tool_calls") or ():
                _add_tool(message.setdefault("tool_calls", []), tool)
            if choice.get("finish_reason"):
                kept["finish_reason"] = choice["finish_reason"]

    def choices(self) -> list[dict[str, Any]]:
        """The choices so far."""
        return list(self._choices.values())

    def choice(self, index: int) -> dict[str, Any]:
        """One of them."""
        return self._choices[index]


def _add_tool(tools: list[dict[str, Any]], told: dict[str, Any]) -> None:
    number = told.get("index", 0)
    tool = next((t for t in tools if t["index"] == number), None)
    if tool is None:
        tool = {"index": number, "function": {"name": "", "arguments": ""}}
        tools.append(tool)
    function = told.get("function") or {}
    for name in ("name", "arguments"):
        tool["function"][name] += function.get(name) or ""


def head_of(reply: dict[str, Any]) -> dict[str, Any]:
    """What every chunk of a stream that gives out a whole reply begins with."""
    head = {k: v for k, v in reply.items() if k not in ("choices", "usage", "ostiary")}
    if head.get("object") != PLAIN:
        head["object"] = "chat.completion.chunk"
    return head


def chunks_of(reply: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of a stream that gives out a whole reply, without its usage."""
    head = head_of(reply)
    plain = head["object"] == PLAIN
    told = {"ostiary": reply["ostiary"]} if "ostiary" in reply else {}
    for choice in reply["choices"]:
        rest = {k: v for k, v in choice.items() if k not in ("message", TEXT, "finish_reason")}
        end = {"index": choice.get("index", 0), "finish_reason": choice.get("finish_reason")}
        if plain:
            yield {**head, "choices": [{**rest, TEXT: choice[TEXT], "finish_reason": None}]}
            yield {**head, "choices": [{**end, TEXT: ""}], **told}
            continue
        message = {"role": "assistant", **choice["message"]}
        if message.get("tool_calls"):
            numbered = enumerate(message["tool_calls"])
            message["tool_calls"] = [{"index": n, **tool} for n, tool in numbered]
        yield {**head, "choices": [{**rest, "delta": message, "finish_reason": None}]}
        yield {**head, "choices": [{**end, "delta": {}}], **told}
