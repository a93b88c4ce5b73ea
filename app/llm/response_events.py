"""The events of a streamed response, in the order that the Responses API specifies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.errors import OstiaryError
from app.ids import new_id
from app.llm.openai_types import ResponseObject, ResponsesRequest

Event = tuple[str, dict[str, Any]]


class Events:
    """Builds the response while it tells its parts; every event has the next number."""

    def __init__(self, request: ResponsesRequest) -> None:
        body = ResponseObject(
            status="in_progress",
            model=request.model,
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata or {},
            previous_response_id=request.previous_response_id,
            store=request.store is not False,
            temperature=request.temperature,
            top_p=request.top_p,
            tool_choice=request.tool_choice or "auto",
            tools=[t.model_dump(exclude_none=True) for t in request.tools or ()],
            user=request.user,
        )
        self.response: dict[str, Any] = body.model_dump()
        self.answer = ""
        self._number = -1
        self._message: dict[str, Any] = {}
        self._part: dict[str, Any] = {}

    def _event(self, kind: str, **values: Any) -> Event:
        self._number += 1
        return kind, {"type": kind, "sequence_number": self._number, **values}

    def begin(self) -> Iterator[Event]:
        """The response exists and is being made."""
        yield self._event("response.created", response=dict(self.response, output=[]))
        yield self._event("response.in_progress", response=dict(self.response, output=[]))

    def _add(self, item: dict[str, Any]) -> int:
        self.response["output"].append(item)
        return len(self.response["output"]) - 1

    def file_search(
        self, queries: list[str], results: list[dict[str, Any]] | None
    ) -> Iterator[Event]:
        """A search that has been made, with its results if they were asked for."""
        item: dict[str, Any] = {
            "id": new_id("fs_"),
            "type": "file_search_call",
            "status": "in_progress",
            "queries": queries,
            "results": None,
        }
        place = {"output_index": self._add(item), "item_id": item["id"]}
        index = place["output_index"]
        yield self._event("response.output_item.added", output_index=index, item=dict(item))
        yield self._event("response.file_search_call.in_progress", **place)
        yield self._event("response.file_search_call.searching", **place)
        yield self._event("response.file_search_call.completed", **place)
        item.update(status="completed", results=results)
        yield self._event("response.output_item.done", output_index=index, item=dict(item))

    def _place(self) -> dict[str, Any]:
        return {
            "output_index": len(self.response["output"]) - 1,
            "item_id": self._message["id"],
            "content_index": 0,
        }

    def begin_text(self) -> Iterator[Event]:
        """A message begins."""
        self._message = {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        index = self._add(self._message)
        shown = dict(self._message, content=[])
        yield self._event("response.output_item.added", output_index=index, item=shown)
        part = dict(self._part, annotations=[])
        yield self._event("response.content_part.added", **self._place(), part=part)
        self._message["content"].append(self._part)

    def text(self, delta: str) -> Iterator[Event]:
        """More of the message."""
        self.answer += delta
        self._part["text"] = self.answer
        yield self._event("response.output_text.delta", **self._place(), delta=delta, logprobs=[])

    def annotations(self, notes: list[dict[str, Any]]) -> Iterator[Event]:
        """Citations behind what was said so far."""
        for note in notes:
            self._part["annotations"].append(note)
            number = len(self._part["annotations"]) - 1
            yield self._event(
                "response.output_text.annotation.added",
                **self._place(),
                annotation_index=number,
                annotation=note,
            )

    def end_text(self) -> Iterator[Event]:
        """The message is whole."""
        place = self._place()
        yield self._event("response.output_text.done", **place, text=self.answer, logprobs=[])
        yield self._event("response.content_part.done", **place, part=self._part)
        self._message["status"] = "completed"
        yield self._event(
            "response.output_item.done", output_index=place["output_index"], item=self._message
        )

    def function_call(self, wanted: dict[str, str]) -> Iterator[Event]:
        """The model asks the client to call a function."""
        item: dict[str, Any] = {
            "id": new_id("fc_"),
            "type": "function_call",
            "status": "in_progress",
            **wanted,
        }
        index = self._add(item)
        place = {"output_index": index, "item_id": item["id"]}
        shown = dict(item, arguments="")
        yield self._event("response.output_item.added", output_index=index, item=shown)
        arguments = wanted["arguments"]
        yield self._event("response.function_call_arguments.delta", **place, delta=arguments)
        yield self._event(
            "response.function_call_arguments.done",
            **place,
            name=wanted["name"],
            arguments=arguments,
        )
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=index, item=dict(item))

    def end(self, status: str) -> Event:
        """The response is whole (``completed``) or was cut by a limit (``incomplete``)."""
        self.response["status"] = status
        return self._event(f"response.{status}", response=self.response)

    def fail(self, error: OstiaryError, request_id: str) -> Iterator[Event]:
        """The response broke off; what was sent is incomplete."""
        told = {"code": error.code, "message": error.message}
        yield self._event("error", **told, param=error.param, request_id=request_id)
        self.response.update(status="failed", error=told)
        yield self._event("response.failed", response=self.response)
