"""Chat completions: passed through intact, screened both ways, or grounded when asked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from app.errors import BadRequest, OstiaryError, Unavailable
from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.ids import new_id
from app.llm.answer import Answers, Piece, Search
from app.llm.answer_checks import AnswerChecks
from app.llm.openai_types import ChatCompletionRequest
from app.llm.relay import DONE, Relay, event, told
from app.llm.router import Router
from app.llm.screening import screen_input
from app.llm.upstream import CHAT
from app.retrieval.rewrite import Turn


class Chat:
    """The chat service of one gateway."""

    def __init__(
        self,
        router: Router,
        guardrails: Guardrails,
        checks: AnswerChecks,
        answers: Answers | None,
        relay: Relay,
    ) -> None:
        self._router, self._guardrails, self._checks = router, guardrails, checks
        self._answers, self._relay = answers, relay

    async def screen_input(
        self, call: Call, request: ChatCompletionRequest
    ) -> ChatCompletionRequest:
        """Return the request with its texts as the policy lets them pass."""
        return await screen_input(self._router, self._guardrails, self._checks, call, request)

    async def complete(self, call: Call, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer a whole chat; ``request`` has been screened."""
        if request.ostiary is not None:
            return await call.while_connected(self._complete_grounded(call, request))
        return await self._relay.complete(call, request.upstream_body(), CHAT)

    async def open_stream(self, call: Call, request: ChatCompletionRequest) -> AsyncIterator[bytes]:
        """Begin a streamed chat; errors before the first byte are raised here."""
        wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        if request.ostiary is not None:
            search = await call.while_connected(self._search(call, request))
            call.mark_screened("output")  # each sentence is screened before it is given out
            return self._grounded_events(call, request, search, wants_usage)
        return await self._relay.open_stream(call, request.upstream_body(), CHAT, wants_usage)

    async def _search(self, call: Call, request: ChatCompletionRequest) -> Search:
        assert request.ostiary is not None
        if self._answers is None:
            raise Unavailable("This gateway runs without retrieval.", code="retrieval_disabled")
        wanted = request.ostiary
        turns = [Turn(m.role, _flat(m)) for m in request.messages]
        if not any(t.role == "user" and t.text.strip() for t in turns):
            raise BadRequest("A grounded chat needs a user message.", param="messages")
        search = await self._answers.search(
            call, wanted.vector_store_ids, turns, wanted.max_num_results, wanted.filters
        )
        await self._answers.note_health(call, search, request.model)
        await self._answers.decide(call, search, request.model, _sampling(request))
        return search

    async def _complete_grounded(
        self, call: Call, request: ChatCompletionRequest
    ) -> dict[str, Any]:
        search = await self._search(call, request)
        assert self._answers is not None
        call.mark_screened("output")
        text, annotations = "", []
        async for piece in self._answers.stream(call, search, request.model, _sampling(request)):
            text += piece.text
            annotations += annotate(piece, len(text))
        call.features["output_length"] = float(len(text))
        message = {"role": "assistant", "content": text, "annotations": annotations}
        return {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.model,
            "choices": [
                {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            ],
            "usage": self._usage(call),
            "ostiary": _grounding(call, search),
        }

    async def _grounded_events(
        self, call: Call, request: ChatCompletionRequest, search: Search, wants_usage: bool
    ) -> AsyncIterator[bytes]:
        assert self._answers is not None
        head = {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }

        def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return event({**head, "choices": [choice], **more})

        try:
            yield chunk({"role": "assistant", "content": ""})
            length, annotations = 0, []
            async for piece in self._answers.stream(
                call, search, request.model, _sampling(request)
            ):
                length += len(piece.text)
                annotations += annotate(piece, length)
                yield chunk({"content": piece.text})
            call.features["output_length"] = float(length)
            yield chunk({"annotations": annotations}, "stop", ostiary=_grounding(call, search))
            if wants_usage:
                yield event({**head, "choices": [], "usage": self._usage(call)})
            await call.settle(200, DONE)
            yield DONE
        except OstiaryError as error:
            yield await told(call, error)

    def _usage(self, call: Call) -> dict[str, Any]:
        return {**call.usage.as_reply(), "cost_usd": self._relay.cost(call)}


def _sampling(request: ChatCompletionRequest) -> dict[str, Any]:
    found = request.model_dump(include={"temperature", "top_p", "seed"}, exclude_none=True)
    most = request.max_completion_tokens or request.max_tokens
    return found if most is None else {**found, "max_tokens": most}


def _flat(message: Any) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(p.text for p in message.content or () if p.text)


def annotate(piece: Piece, index: int) -> list[dict[str, Any]]:
    """OpenAI's ``file_citation`` annotations of a piece that ends at ``index``."""
    return [
        {
            "type": "file_citation",
            "file_id": c.passage.file_id,
            "filename": c.passage.filename,
            "index": index,
            "page": c.passage.page,
            "section": c.passage.section,
            "ordinal": c.passage.ordinal,
            "quote": c.quote,
        }
        for c in piece.citations
    ]


def _grounding(call: Call, search: Search) -> dict[str, Any]:
    return {
        "grounded": search.grounds.answerable,
        "relevance": round(search.grounds.relevance, 4),
        "degraded": call.degraded,
        **({} if call.notes is None else call.notes.as_reply()),
    }
