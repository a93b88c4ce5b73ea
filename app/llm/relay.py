"""Takes a body to the model server and brings its reply back, screened, whole or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from app.errors import OstiaryError
from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm import token_details
from app.llm.cache import LARGEST, ReplyCache, Slot
from app.llm.reply_texts import length_of, texts_in
from app.llm.router import Router
from app.llm.stream_screens import StreamScreens
from app.llm.token_estimate import count_usage, estimate, estimate_prompt
from app.llm.upstream import ChatStream
from app.monitoring.cost import Prices
from app.monitoring.drift_features import refuses

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class Relay:
    """Chats and completions as the model server answers them."""

    def __init__(
        self, router: Router, guardrails: Guardrails, prices: Prices, cache: ReplyCache
    ) -> None:
        self._router, self._guardrails, self._prices = router, guardrails, prices
        self._cache = cache

    async def complete(self, call: Call, body: dict[str, Any], path: str) -> dict[str, Any]:
        """The whole reply to a screened body; raises as `Router.send`."""
        slot = await self._cache.look(call, body, path)
        if slot is not None and slot.found is not None:
            kept: dict[str, Any] = orjson.loads(slot.found)
            call.mark_screened("output")  # before it was kept
            call.features["output_length"] = float(length_of(kept))
            kept["usage"] = {**(kept.get("usage") or {}), "cost_usd": self.cost(call)}
            return kept
        reply = await call.while_connected(self._router.send(body, path, call))
        if not call.usage.answered(reply.get("usage")):
            call.usage.reading(estimate_prompt(body))
            call.usage.completion_tokens += estimate(length_of(reply))
            reply["usage"] = _counted(call)
        await self._screen_reply(call, reply)
        if slot is not None:
            await self._cache.keep(call, slot, orjson.dumps(reply))
        reply["usage"]["cost_usd"] = self.cost(call)
        return reply

    async def _screen_reply(self, call: Call, reply: dict[str, Any]) -> None:
        places = texts_in(reply)
        texts = [str(holder[field]) for _, holder, field in places]
        call.features["output_length"] = float(sum(map(len, texts)))
        call.features["refusal"] = refuses(texts)
        screened = await self._guardrails.screen(call, texts, "output")
        for (choice, holder, field), before, text in zip(places, texts, screened, strict=True):
            holder[field] = text
            if text != before:
                token_details.drop(choice)

    def cost(self, call: Call) -> float:
        """What the call has cost so far, in USD."""
        return self._prices.cost_nano_usd(call.model, call.usage) / 1e9

    async def open_stream(
        self, call: Call, body: dict[str, Any], path: str, wants_usage: bool
    ) -> AsyncIterator[bytes]:
        """Begin a streamed reply; errors before the first byte are raised here."""
        slot = await self._cache.look(call, body, path)
        if slot is not None and slot.found is not None:
            call.mark_screened("output")  # before it was kept
            return self._again(call, slot.found, wants_usage)
        asked = {**(body.get("stream_options") or {}), "include_usage": True}
        body = {**body, "stream_options": asked}
        stream = await call.while_connected(self._router.stream(body, path, call))
        call.mark_screened("output")
        return self._events(call, stream, wants_usage, slot)

    async def _again(self, call: Call, kept: bytes, wants_usage: bool) -> AsyncIterator[bytes]:
        """The events of a kept stream."""
        try:
            found = orjson.loads(kept)
            for chunk in found["chunks"]:
                yield event(chunk)
            if wants_usage and found["last"] is not None:
                yield self._usage_event(call, found["last"])
            call.features["output_length"] = float(found["length"])
            await call.settle(200, DONE)
            yield DONE
        except OstiaryError as error:
            yield await told(call, error)

    def _usage_event(self, call: Call, last: dict[str, Any]) -> bytes:
        usage = {**(last.get("usage") or {}), "cost_usd": self.cost(call)}
        usage.setdefault("prompt_tokens", call.usage.prompt_tokens)
        return event({**last, "choices": [], "usage": usage})

    async def _events(
        self, call: Call, stream: ChatStream, wants_usage: bool, slot: Slot | None
    ) -> AsyncIterator[bytes]:
        screens = StreamScreens(self._guardrails, call)
        last: dict[str, Any] | None = None
        kept, size = list[Any](), 0
        try:
            async with stream:
                async for chunk in stream:
                    count_usage(call.usage, chunk)
                    if last is None or chunk.get("usage"):
                        last = chunk
                    if not chunk.get("choices"):
                        continue
                    chunk.pop("usage", None)
                    if await screens.pass_through(chunk):
                        data = event(chunk)
                        size += len(data)
                        if slot is not None and size <= LARGEST:
                            kept.append(orjson.Fragment(data[6:-2]))  # as it was given out
                        yield data
            if last is not None and call.usage.estimated:
                last = {**last, "usage": _counted(call)}
            if wants_usage and last is not None:
                yield self._usage_event(call, last)
            if slot is not None and size <= LARGEST:
                whole = {"chunks": kept, "last": last, "length": screens.length}
                await self._cache.keep(call, slot, orjson.dumps(whole))
            call.features["output_length"] = float(screens.length)
            call.features["refusal"] = refuses([screens.opening])
            await call.settle(200, DONE)
            yield DONE
        except OstiaryError as error:
            yield await told(call, error)


def _counted(call: Call) -> dict[str, Any]:
    """The usage of an answer whose server told none that could be one."""
    return {**call.usage.as_reply(), "estimated": True}


async def told(call: Call, error: OstiaryError) -> bytes:
    """Settle a stream that failed, and the event that says so."""
    call.error_code = error.code
    await call.settle(error.status)
    return event(error.body(call.request_id))
