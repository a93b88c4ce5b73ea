"""Takes a body to the model server and brings its reply back, screened, whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from app.errors import OstiaryError
from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.ids import new_id
from app.llm import token_details
from app.llm.answer_checks import AnswerChecks
from app.llm.cache import LARGEST, ReplyCache, Slot
from app.llm.gathered import Gathered, chunks_of, head_of
from app.llm.reply_texts import length_of, texts_in
from app.llm.request_texts import asked_again, unstreamed
from app.llm.router import Router
from app.llm.stream_screens import TEXT, StreamScreens
from app.llm.token_estimate import count_usage, estimate, estimate_prompt
from app.llm.upstream import CHAT, ChatStream
from app.llm.upstream_errors import UpstreamUnavailable
from app.monitoring.cost import Prices
from app.monitoring.drift_features import refuses

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class Relay:
    """Chats and completions as the model server answers them."""

    def __init__(
        self,
        router: Router,
        guardrails: Guardrails,
        checks: AnswerChecks,
        prices: Prices,
        cache: ReplyCache,
    ) -> None:
        self._router, self._guardrails, self._prices = router, guardrails, prices
        self._checks, self._cache = checks, cache

    async def complete(self, call: Call, body: dict[str, Any], path: str) -> dict[str, Any]:
        """The whole reply to a screened body; raises as `Router.send`."""
        if self._checks.instead(call) is not None:
            return await self.uncached(call, body, path)
        self._checks.require_schemas(call, body)
        slot = await self._look(call, body, path)
        if slot is not None and slot.found is not None:
            kept: dict[str, Any] = orjson.loads(slot.found)
            call.mark_screened("output")  # before it was kept
            call.features["output_length"] = float(length_of(kept))
            kept["usage"] = {**(kept.get("usage") or {}), "cost_usd": self.cost(call)}
            return kept
        reply, clean = await self._checked(call, body, path)
        if slot is not None and clean:
            await self._cache.keep(call, slot, orjson.dumps(reply))
        reply["usage"]["cost_usd"] = self.cost(call)
        return reply

    async def uncached(self, call: Call, body: dict[str, Any], path: str) -> dict[str, Any]:
        """The same without looking for a kept reply, and without keeping it."""
        if (instead := self._checks.instead(call)) is not None:
            return self._instead(call, body, path, instead)
        self._checks.require_schemas(call, body)
        reply, _ = await self._checked(call, body, path)
        reply["usage"]["cost_usd"] = self.cost(call)
        return reply

    async def _checked(
        self, call: Call, body: dict[str, Any], path: str
    ) -> tuple[dict[str, Any], bool]:
        """A model's reply, screened and checked, and whether the checks found nothing in it."""
        first = await self._ask(call, body, path)

        async def again(reason: str) -> dict[str, Any]:
            call.usage.set_aside()
            try:
                reply = await self._ask(call, asked_again(body, reason), path)
            except UpstreamUnavailable:
                return first  # what follows a second try in vain is done with the first
            reply["usage"] = {**(reply.get("usage") or {}), **call.usage.as_reply()}
            return reply

        return await self._checks.settle(call, body, first, again)

    async def _ask(self, call: Call, body: dict[str, Any], path: str) -> dict[str, Any]:
        reply = await call.while_connected(self._router.send(body, path, call))
        if not call.usage.answered(reply.get("usage")):
            call.usage.reading(estimate_prompt(body))
            call.usage.completion_tokens += estimate(length_of(reply))
            reply["usage"] = _counted(call)
        await self._screen_reply(call, reply)
        return reply

    async def _look(self, call: Call, body: dict[str, Any], path: str) -> Slot | None:
        """The place in the cache; None where the reply will hold values for surrogates."""
        return None if call.pseudonyms else await self._cache.look(call, body, path)

    def _instead(self, call: Call, body: dict[str, Any], path: str, text: str) -> dict[str, Any]:
        """The reply that the policy gives without asking a model."""
        call.mark_screened("output")
        call.features["output_length"] = float(len(text))
        chat = path == CHAT
        choice: dict[str, Any] = {"index": 0, "finish_reason": "content_filter", "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": new_id("chatcmpl-" if chat else "cmpl-"),
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [choice],
            "usage": {**call.usage.as_reply(), "cost_usd": self.cost(call)},
            **({"ostiary": told} if call.notes and (told := call.notes.as_reply()) else {}),
        }

    async def _screen_reply(self, call: Call, reply: dict[str, Any]) -> None:
        places = texts_in(reply)
        texts = [str(holder[field]) for _, holder, field in places]
        call.features["output_length"] = float(sum(map(len, texts)))
        call.features["refusal"] = refuses(texts)
        structured = [field == "arguments" for _, _, field in places]
        screened = await self._guardrails.screen(call, texts, "output", structured=structured)
        for (choice, holder, field), before, text in zip(places, texts, screened, strict=True):
            holder[field] = text
            if text != before:
                token_details.drop(choice)

    def cost(self, call: Call) -> float:
        """What the call has cost so far, in USD."""
        return self._prices.cost_usd(call)

    async def open_stream(
        self, call: Call, body: dict[str, Any], path: str, wants_usage: bool
    ) -> AsyncIterator[bytes]:
        """Begin a streamed reply; errors before the first byte are raised here.

        Where the policy may replace or refuse the answer, it is waited for and checked first.
        """
        if self._checks.holds(call, body):
            reply = await self.complete(call, unstreamed(body), path)
            return self._held(call, reply, wants_usage)
        self._checks.require_schemas(call, body)
        slot = await self._look(call, body, path)
        if slot is not None and slot.found is not None:
            call.mark_screened("output")  # before it was kept
            return self._again(call, slot.found, wants_usage)
        asked = {**(body.get("stream_options") or {}), "include_usage": True}
        body = {**body, "stream_options": asked}
        stream = await call.while_connected(self._router.stream(body, path, call))
        call.mark_screened("output")
        return self._events(call, body, stream, wants_usage, slot)

    async def _held(
        self, call: Call, reply: dict[str, Any], wants_usage: bool
    ) -> AsyncIterator[bytes]:
        """The events of a reply that was checked as a whole."""
        try:
            for chunk in chunks_of(reply):
                yield event(chunk)
            if wants_usage:
                yield self._usage_event(call, head_of(reply) | {"usage": reply["usage"]})
            await call.settle(200, DONE)
            yield DONE
        except OstiaryError as error:
            yield await told(call, error)

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
        self,
        call: Call,
        body: dict[str, Any],
        stream: ChatStream,
        wants_usage: bool,
        slot: Slot | None,
    ) -> AsyncIterator[bytes]:
        gathered = Gathered() if self._checks.watch(call) else None
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
                        if gathered is not None:
                            await self._check_end(call, body, gathered, chunk)
                        data = event(chunk)
                        size += len(data)
                        if slot is not None and size <= LARGEST:
                            kept.append(orjson.Fragment(data[6:-2]))  # as it was given out
                        yield data
            if last is not None and call.usage.estimated:
                last = {**last, "usage": _counted(call)}
            if wants_usage and last is not None:
                yield self._usage_event(call, last)
            found = call.notes is not None and any(
                n["direction"] == "output" for n in call.notes.told
            )
            if slot is not None and size <= LARGEST and not found:
                whole = {"chunks": kept, "last": last, "length": screens.length}
                await self._cache.keep(call, slot, orjson.dumps(whole))
            call.features["output_length"] = float(screens.length)
            call.features["refusal"] = refuses([screens.opening])
            await call.settle(200, DONE)
            yield DONE
        except OstiaryError as error:
            yield await told(call, error)

    async def _check_end(
        self, call: Call, body: dict[str, Any], gathered: Gathered, chunk: dict[str, Any]
    ) -> None:
        """Check the choices that end with a chunk, and add to it what the policy says."""
        gathered.take(chunk)
        for choice in chunk["choices"]:
            if not choice.get("finish_reason"):
                continue
            whole = gathered.choice(choice.get("index", 0))
            if more := await self._checks.end_of_choice(call, body, whole):
                holder, name = (choice, TEXT) if TEXT in choice else (choice["delta"], "content")
                holder[name] = f"{holder.get(name) or ''}\n\n{more}"
            if call.notes is not None and (found := call.notes.as_reply()):
                chunk["ostiary"] = found


def _counted(call: Call) -> dict[str, Any]:
    """The usage of an answer whose server told none that could be one."""
    return {**call.usage.as_reply(), "estimated": True}


async def told(call: Call, error: OstiaryError) -> bytes:
    """Settle a stream that failed, and the event that says so."""
    call.error_code = error.code
    await call.settle(error.status)
    return event(error.body(call.request_id))
