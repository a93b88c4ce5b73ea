"""What a model thinks and says in a stream, screened, as events of a response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm.response_events import Event, Events
from app.llm.upstream import delta_reasoning, delta_text


class Written:
    """One item of reasoning, if the model tells any, and one message after it."""

    def __init__(self, guardrails: Guardrails, call: Call, events: Events) -> None:
        self._guardrails, self._events = guardrails, events
        self._thought, self._said = guardrails.stream(call), guardrails.stream(call)
        self._thinking = self._has_thought = self._saying = False

    async def take(self, chunk: dict[str, Any]) -> AsyncIterator[Event]:
        """The events of what may go out of a chunk."""
        thought = delta_reasoning(chunk)
        if thought and not self._has_thought:
            for event in self._reason(await self._guardrails.feed(self._thought, thought)):
                yield event
        said = delta_text(chunk)
        if said:
            async for event in self._end_reasoning():
                yield event
            for event in self._say(await self._guardrails.feed(self._said, said)):
                yield event

    async def rest(self, *, says_nothing: bool) -> AsyncIterator[Event]:
        """What was still held.

        Args:
            says_nothing: the model called functions, so that it need not say anything.
        """
        async for event in self._end_reasoning():
            yield event
        rest = await self._guardrails.finish(self._said)
        for event in self._say(rest, must=not says_nothing):
            yield event

    def end(self, *, cut: bool) -> Iterator[Event]:
        """The end of what was begun; ``cut`` by a limit."""
        if self._saying:
            yield from self._events.end_text(cut)

    def _reason(self, text: str) -> list[Event]:
        found: list[Event] = []
        if text and not self._thinking:
            self._thinking = True
            found += self._events.begin_reasoning()
        if text:
            found += self._events.reasoning(text)
        return found

    async def _end_reasoning(self) -> AsyncIterator[Event]:
        if self._has_thought:
            return
        self._has_thought = True
        for event in self._reason(await self._guardrails.finish(self._thought)):
            yield event
        if self._thinking:
            for event in self._events.end_reasoning():
                yield event

    def _say(self, text: str, must: bool = False) -> list[Event]:
        found: list[Event] = []
        if (text or must) and not self._saying:
            self._saying = True
            found += self._events.begin_text()
        if text:
            found += self._events.text(text)
        return found
