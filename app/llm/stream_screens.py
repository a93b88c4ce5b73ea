"""Screens the texts that grow side by side in a streamed chat."""

from __future__ import annotations

from typing import Any

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.guardrails.streaming import StreamScreen


class StreamScreens:
    """One screen for each text that grows in a stream: contents and tool arguments."""

    def __init__(self, guardrails: Guardrails, call: Call) -> None:
        self._guardrails, self._call = guardrails, call
        self._screens: dict[tuple[Any, ...], StreamScreen] = {}
        self.length = 0

    async def _feed(self, key: tuple[Any, ...], text: str) -> str:
        screen = self._screens.get(key)
        if screen is None:
            screen = self._screens[key] = self._guardrails.stream(self._call)
        self.length += len(text)
        return await self._guardrails.feed(screen, text)

    async def pass_through(self, chunk: dict[str, Any]) -> bool:
        """Screen a chunk in place; False when nothing of it may go out yet."""
        worth = False
        for choice in chunk["choices"]:
            delta = choice.setdefault("delta", {})
            index = choice.get("index", 0)
            for field in ("content", "reasoning_content", "refusal"):
                given = delta.get(field)
                if isinstance(given, str) and given:
                    delta[field] = await self._feed((index, field), given)
            for tool in delta.get("tool_calls") or ():
                function = tool.get("function") or {}
                if isinstance(function.get("arguments"), str) and function["arguments"]:
                    key = (index, "tool", tool.get("index", 0))
                    function["arguments"] = await self._feed(key, function["arguments"])
            if choice.get("finish_reason"):
                await self._finish(index, delta)
                worth = True
            worth = worth or any(v for v in delta.values())
        return worth

    async def _finish(self, index: int, delta: dict[str, Any]) -> None:
        for key, screen in self._screens.items():
            if key[0] != index:
                continue
            rest = await self._guardrails.finish(screen)
            if not rest:
                continue
            if key[1] != "tool":
                delta[key[1]] = (delta.get(key[1]) or "") + rest
                continue
            tools = delta.setdefault("tool_calls", []) or []
            delta["tool_calls"] = tools
            for tool in tools:
                if tool.get("index", 0) == key[2]:
                    function = tool.setdefault("function", {})
                    function["arguments"] = (function.get("arguments") or "") + rest
                    break
            else:
                tools.append({"index": key[2], "function": {"arguments": rest}})
