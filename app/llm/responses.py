"""The Responses API: grounded answers with `file_search`, plain answers and function calls."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import delete, func, insert, select

from app.errors import BadRequest, NotFound, Unavailable
from app.gateway.call import Call
from app.gateway.person import Person
from app.guardrails.service import Guardrails
from app.llm.answer import Answers, Search
from app.llm.answer_checks import AnswerChecks
from app.llm.chat import annotate
from app.llm.conversations import Conversations
from app.llm.openai_replies import ResponseObject
from app.llm.relay import Relay
from app.llm.request_texts import unstreamed
from app.llm.response_chat import chat_body, collect_calls, messages_of, sampling, text_in
from app.llm.response_events import Event, Events
from app.llm.responses_types import ResponsesRequest
from app.llm.router import Router
from app.llm.screening import screen_input
from app.llm.token_estimate import count_usage
from app.llm.upstream import CHAT
from app.llm.written import Written
from app.monitoring.cost import Prices
from app.monitoring.drift_features import refuses
from app.retrieval.rewrite import Turn
from app.store.db import Database
from app.store.models import responses


class Responses:
    """The responses service of one gateway; kept responses are read by who asked for them."""

    def __init__(
        self,
        db: Database,
        router: Router,
        guardrails: Guardrails,
        checks: AnswerChecks,
        answers: Answers | None,
        relay: Relay,
        prices: Prices,
        conversations: Conversations,
    ) -> None:
        self._db, self._router, self._guardrails = db, router, guardrails
        self._checks, self._relay = checks, relay
        self._answers, self._prices = answers, prices
        self._conversations = conversations

    async def screen_input(self, call: Call, request: ResponsesRequest) -> ResponsesRequest:
        """Return the request with its texts as the policy lets them pass."""
        if request.previous_response_id is not None:
            earlier = await self._row(call, request.previous_response_id)
            structured = request.text_format() is not None
            self._conversations.resume(call, earlier, structured=structured)
        return await screen_input(self._router, self._guardrails, self._checks, call, request)

    async def complete(self, call: Call, request: ResponsesRequest) -> dict[str, Any]:
        """Answer as a whole; ``request`` has been screened."""
        return await call.while_connected(self._complete(call, request))

    async def _complete(self, call: Call, request: ResponsesRequest) -> dict[str, Any]:
        final: dict[str, Any] = {}
        _, pairs = await self.open_stream(call, request)
        async for kind, value in pairs:
            if kind in ("response.completed", "response.incomplete"):
                final = value["response"]
        return final

    async def open_stream(
        self, call: Call, request: ResponsesRequest
    ) -> tuple[Events, AsyncIterator[Event]]:
        """Begin an answer as (event type, event) pairs; early errors are raised here."""
        history = await self._history(call, request)
        messages = [*history, *messages_of(request)]
        tool = request.file_search()
        events = Events(request)
        if request.instructions is not None:  # told to the caller as he wrote it
            told = self._guardrails.restored(call, request.instructions)
            events.response["instructions"] = told
        if tool is None:
            body = chat_body(request, messages)
            if self._checks.holds(call, body) or (self._checks.watch(call) and not request.stream):
                reply = await self._relay.uncached(call, unstreamed(body), CHAT)
                return events, self._whole(call, request, events, messages, reply)
            self._checks.require_schemas(call, body)
            stream = await call.while_connected(self._router.stream(body, call=call))
            call.mark_screened("output")
            return events, self._plain(call, request, events, messages, body, stream)
        if self._answers is None:
            raise Unavailable("This gateway runs without retrieval.", code="retrieval_disabled")
        turns = [Turn(str(m["role"]), text_in(m)) for m in messages]
        if not any(t.role == "user" and t.text.strip() for t in turns):
            raise BadRequest("file_search needs a user message to search for.", param="input")
        search = await self._answers.search(
            call, tool.vector_store_ids, turns, tool.max_num_results, tool.filters
        )
        await self._answers.note_health(call, search, request.model)
        await call.while_connected(
            self._answers.decide(call, search, request.model, sampling(request))
        )
        threshold = tool.ranking_options.score_threshold if tool.ranking_options else None
        if threshold:
            search.hits = [h for h in search.hits if h.score >= threshold]
        call.mark_screened("output")  # each sentence is screened before it is given out
        return events, self._grounded(call, request, events, messages, search)

    async def _grounded(
        self,
        call: Call,
        request: ResponsesRequest,
        events: Events,
        messages: list[dict[str, Any]],
        search: Search,
    ) -> AsyncIterator[Event]:
        assert self._answers is not None
        for event in events.begin():
            yield event
        results = None
        if "file_search_call.results" in (request.include or ()):
            results = [
                {
                    "file_id": h.passage.file_id,
                    "filename": h.passage.filename,
                    "score": round(h.score, 6),
                    "text": h.passage.text,
                    "attributes": h.passage.attributes,
                    "page": h.passage.page,
                    "section": h.passage.section,
                    "ordinal": h.passage.ordinal,
                }
                for h in search.hits
            ]
        for event in events.file_search([search.question], results):
            yield event
        for event in events.begin_text():
            yield event
        async for piece in self._answers.stream(call, search, request.model, sampling(request)):
            for event in events.text(piece.text):
                yield event
            for event in events.annotations(annotate(piece, len(events.answer))):
                yield event
        for event in events.end_text():
            yield event
        call.features["output_length"] = float(len(events.answer))
        metadata = {
            "ostiary_grounded": "true" if search.grounds.answerable else "false",
            "ostiary_relevance": f"{search.grounds.relevance:.4f}",
        }
        if call.degraded:
            metadata["ostiary_degraded"] = call.degraded
        yield await self._end(call, request, events, messages, metadata)

    async def _plain(
        self,
        call: Call,
        request: ResponsesRequest,
        events: Events,
        messages: list[dict[str, Any]],
        body: dict[str, Any],
        stream: Any,
    ) -> AsyncIterator[Event]:
        for event in events.begin():
            yield event
        written = Written(self._guardrails, call, events)
        calls: dict[int, dict[str, str]] = {}
        cut = False
        async with stream:
            async for chunk in stream:
                count_usage(call.usage, chunk)
                for choice in chunk.get("choices") or ():
                    collect_calls(calls, choice)
                    cut = cut or choice.get("finish_reason") == "length"
                async for event in written.take(chunk):
                    yield event
        async for event in written.rest(says_nothing=bool(calls)):
            yield event
        for wanted in calls.values():
            (wanted["arguments"],) = await self._guardrails.screen(
                call, [wanted["arguments"]], "output", structured=[True]
            )
        if self._checks.watch(call):
            tools = [{"function": c} for c in calls.values()]
            message = {"content": events.answer, "tool_calls": tools}
            if more := await self._checks.end_of_choice(call, body, {"message": message}):
                for event in events.text(f"\n\n{more}"):
                    yield event
        for event in written.end(cut=cut):
            yield event
        for wanted in calls.values():
            for event in events.function_call(wanted):
                yield event
        call.features["output_length"] = float(len(events.answer))
        call.features["refusal"] = refuses([events.answer])
        yield await self._end(call, request, events, messages, {}, incomplete=cut)

    async def _whole(
        self,
        call: Call,
        request: ResponsesRequest,
        events: Events,
        messages: list[dict[str, Any]],
        reply: dict[str, Any],
    ) -> AsyncIterator[Event]:
        """The events of a reply that was screened and checked as a whole."""
        for event in events.begin():
            yield event
        choice = reply["choices"][0]
        message, calls = choice["message"], dict[int, dict[str, str]]()
        cut = choice.get("finish_reason") == "length"
        if thought := message.get("reasoning") or message.get("reasoning_content"):
            for event in (*events.begin_reasoning(), *events.reasoning(thought)):
                yield event
            for event in events.end_reasoning():
                yield event
        tools = [{**t, "index": n} for n, t in enumerate(message.get("tool_calls") or ())]
        collect_calls(calls, {"delta": {"tool_calls": tools}})
        if message.get("content") or not calls:
            for event in events.begin_text():
                yield event
            for event in (*events.text(message.get("content") or ""), *events.end_text(cut)):
                yield event
        for wanted in calls.values():
            for event in events.function_call(wanted):
                yield event
        yield await self._end(call, request, events, messages, {}, incomplete=cut)

    async def _end(
        self,
        call: Call,
        request: ResponsesRequest,
        events: Events,
        messages: list[dict[str, Any]],
        metadata: dict[str, str],
        incomplete: bool = False,
    ) -> Event:
        usage = call.usage
        events.response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "cost_usd": self._prices.cost_usd(call),
        }
        if call.notes is not None and (told := call.notes.as_reply()):
            events.response["ostiary"] = told
        events.response["metadata"] = {**(request.metadata or {}), **metadata}
        if incomplete:
            events.response["incomplete_details"] = {"reason": "max_output_tokens"}
        kind, event = events.end("incomplete" if incomplete else "completed")
        if request.store is not False:
            await self._keep(call, messages, events, event["response"])
        return kind, event

    async def _keep(
        self,
        call: Call,
        messages: list[dict[str, Any]],
        events: Events,
        response: dict[str, Any],
    ) -> None:
        said: dict[str, Any] = {"role": "assistant", "content": events.answer or None}
        tools = [o for o in response["output"] if o["type"] == "function_call"]
        if tools:
            said["tool_calls"] = [
                {
                    "id": o["call_id"],
                    "type": "function",
                    "function": {"name": o["name"], "arguments": o["arguments"]},
                }
                for o in tools
            ]
        values: dict[str, Any] = {
            "id": response["id"],
            "tenant_id": call.tenant_id,
            "created_at": time.time(),
            "owner": call.principal.owner,
            "input": [*(m for m in messages if m["role"] != "system"), said],
            "body": response,
        }
        values = self._conversations.to_keep(call, values)
        async with self._db.write() as connection:
            await connection.execute(insert(responses).values(values))

    async def _history(self, call: Call, request: ResponsesRequest) -> list[dict[str, Any]]:
        if request.previous_response_id is None:
            return []
        row = await self._row(call, request.previous_response_id)
        return list(row["input"])

    async def _row(self, call: Call, response_id: str) -> Any:
        query = select(responses).where(
            responses.c.id == response_id, responses.c.tenant_id == call.tenant_id
        )
        if not call.principal.sees_all:  # it quotes what another caller may not see
            query = query.where(responses.c.owner == call.principal.owner)
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("response", response_id)
        return row

    async def get(self, call: Call, response_id: str) -> ResponseObject:
        """A kept response; raises NotFound, also where another caller asked for it."""
        row = await self._row(call, response_id)
        return ResponseObject.model_validate(self._conversations.body_of(call, row))

    async def delete(self, call: Call, response_id: str) -> None:
        """Forget a kept response; raises NotFound as :meth:`get` does."""
        await self._row(call, response_id)
        async with self._db.write() as connection:
            await connection.execute(delete(responses).where(responses.c.id == response_id))

    async def count_of(self, person: Person) -> int:
        """How many kept responses the person asked for."""
        mine = (responses.c.tenant_id == person.tenant_id) & person.owns(responses.c.owner)
        async with self._db.read() as connection:
            return int(await connection.scalar(select(func.count()).where(mine)) or 0)

    async def erase_of(self, person: Person) -> int:
        """Forget them, with their inputs; returns how many there were."""
        mine = (responses.c.tenant_id == person.tenant_id) & person.owns(responses.c.owner)
        async with self._db.write() as connection:
            return int((await connection.execute(delete(responses).where(mine))).rowcount)
