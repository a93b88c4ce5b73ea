"""Screens the texts that grow side by side in a streamed chat or completion."""

from __future__ import annotations

from typing import Any

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.guardrails.streaming import StreamScreen
from app.llm.token_details import TokenDetails

# of a message: what the model says, thinks (by its newer and older name) and refuses
FIELDS = ("content", "reasoning", "reasoning_content", "refusal")
TEXT = "text"  # of a completion's choice
OPENING = 80  # characters that tell a refusal


class StreamScreens:
    """One screen for each text that grows in a stream: contents and tool arguments."""

    def __init__(self, guardrails: Guardrails, call: Call) -> None:
        self._guardrails, self._call = guardrails, call
        self._screens: dict[tuple[Any, ...], StreamScreen] = {}
        self._details: dict[int, TokenDetails] = {}
        self.length = 0
        self.opening = ""  # of the first text

    async def _feed(self, key: tuple[Any, ...], text: str) -> str:
        screen = self._screens.get(key)
        if screen is None:
            structured = key[1] in ("tool", "function_call")
            screen = self._guardrails.stream(self._call, structured=structured)
            self._screens[key] = screen
        self.length += len(text)
        if len(self.opening) < OPENING and key in ((0, TEXT), (0, "content")):
            self.opening += text[:OPENING]
        return await self._guardrails.feed(screen, text)

    async def pass_through(self, chunk: dict[str, Any]) -> bool:
        """Screen a chunk in place; False when nothing of it may go out yet."""
        worth = False
        for choice in chunk["choices"]:
            worth = await self._screen(choice) or worth
        return worth

    async def _screen(self, choice: dict[str, Any]) -> bool:
        index = choice.get("index", 0)
        plain = TEXT in choice
        holder = choice if plain else choice.setdefault("delta", {})
        given, passed = "", ""
        for field in (TEXT,) if plain else FIELDS:
            said = holder.get(field)
            if isinstance(said, str) and said:
                holder[field] = await self._feed((index, field), said)
                given, passed = given + said, passed + holder[field]
        if not plain:
            await self._feed_tools(index, holder)
        told = "logprobs" in choice or "token_ids" in choice
        if told or index in self._details:
            details = self._details.setdefault(index, TokenDetails())
            details.take(choice, given, passed)
        if choice.get("finish_reason"):
            rest = await self._finish(index, holder)
            if index in self._details:
                self._details[index].finish(choice, rest)
            return True
        return bool(holder[TEXT]) if plain else any(v for v in holder.values())

    async def _feed_tools(self, index: int, delta: dict[str, Any]) -> None:
        for tool in delta.get("tool_calls") or ():
            await self._feed_arguments((index, "tool", tool.get("index", 0)), tool.get("function"))
        await self._feed_arguments((index, "function_call"), delta.get("function_call"))

    async def _feed_arguments(self, key: tuple[Any, ...], function: Any) -> None:
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = await self._feed(key, function["arguments"])

    async def _finish(self, index: int, holder: dict[str, Any]) -> str:
        """Let out what the screens of a choice still hold; returns it, without arguments."""
        told = ""
        for key, screen in self._screens.items():
            if key[0] != index:
                continue
            rest = await self._guardrails.finish(screen)
            if not rest:
                continue
            if key[1] == "tool":
                self._add_arguments(holder, key[2], rest)
            elif key[1] == "function_call":
                function = holder.setdefault("function_call", {})
                function["arguments"] = (function.get("arguments") or "") + rest
            else:
                holder[key[1]] = (holder.get(key[1]) or "") + rest
                told += rest
        return told

    @staticmethod
    def _add_arguments(delta: dict[str, Any], number: int, rest: str) -> None:
        tools = delta.setdefault("tool_calls", []) or []
        delta["tool_calls"] = tools
        for tool in tools:
            if tool.get("index", 0) == number:
                function = tool.setdefault("function", {})
                function["arguments"] = (function.get("arguments") or "") + rest
                return
        tools.append({"index": number, "function": {"arguments": rest}})
