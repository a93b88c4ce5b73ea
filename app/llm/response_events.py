"""The events of a streamed response, in the order that the Responses API specifies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.errors import OstiaryError
from app.ids import new_id
from app.llm.openai_replies import ResponseObject, now
from app.llm.responses_types import FunctionTool, ResponsesRequest, Tool

Event = tuple[str, dict[str, Any]]
# of a request, what its response repeats
_ECHOED = {
    *("model", "instructions", "max_output_tokens", "max_tool_calls", "metadata"),
    *("previous_response_id", "store", "temperature", "top_p", "presence_penalty"),
    *("frequency_penalty", "tool_choice", "parallel_tool_calls", "text", "reasoning", "user"),
    *("safety_identifier", "prompt_cache_key"),
}


class Events:
    """Builds the response while it tells its parts; every event has the next number."""

    def __init__(self, request: ResponsesRequest) -> None:
        asked = request.model_dump(by_alias=True, exclude_none=True, include=_ECHOED)
        body = ResponseObject.model_validate(
            {
                **asked,
                "status": "in_progress",
                "text": {"format": {"type": "text"}, **asked.get("text", {})},
                "tools": [_shown(t) for t in request.tools or ()],
            }
        )
        self.response: dict[str, Any] = body.model_dump()
        self.answer = ""
        self._number = -1
        self._item: dict[str, Any] = {}  # that grows
        self._part: dict[str, Any] = {}  # its text

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
            "item_id": self._item["id"],
            "content_index": 0,
        }

    def begin_text(self) -> Iterator[Event]:
        """A message begins."""
        message = {"id": new_id("msg_"), "type": "message", "role": "assistant"}
        yield from self._begin(
            message, {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        )

    def begin_reasoning(self) -> Iterator[Event]:
        """The model begins to think."""
        item = {"id": new_id("rs_"), "type": "reasoning", "summary": []}
        yield from self._begin(item, {"type": "reasoning_text", "text": ""})

    def _begin(self, item: dict[str, Any], part: dict[str, Any]) -> Iterator[Event]:
        self._item, self._part = {**item, "status": "in_progress", "content": []}, part
        index = self._add(self._item)
        shown = dict(self._item, content=[])
        yield self._event("response.output_item.added", output_index=index, item=shown)
        first = {k: [] if k == "annotations" else v for k, v in part.items()}
        yield self._event("response.content_part.added", **self._place(), part=first)
        self._item["content"].append(part)

    def reasoning(self, delta: str) -> Iterator[Event]:
        """More of what the model thinks."""
        self._part["text"] += delta
        yield self._event("response.reasoning_text.delta", **self._place(), delta=delta)

    def end_reasoning(self) -> Iterator[Event]:
        """The model has thought."""
        text = self._part["text"]
        yield self._event("response.reasoning_text.done", **self._place(), text=text)
        yield from self._end_item("completed")

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

    def end_text(self, cut: bool = False) -> Iterator[Event]:
        """The message is whole, or cut by a limit."""
        yield self._event(
            "response.output_text.done", **self._place(), text=self.answer, logprobs=[]
        )
        yield from self._end_item("incomplete" if cut else "completed")

    def _end_item(self, status: str) -> Iterator[Event]:
        place = self._place()
        yield self._event("response.content_part.done", **place, part=self._part)
        self._item["status"] = status
        yield self._event(
            "response.output_item.done", output_index=place["output_index"], item=self._item
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
        if status == "completed":
            self.response["completed_at"] = now()
        return self._event(f"response.{status}", response=self.response)

    def fail(self, error: OstiaryError, request_id: str) -> Iterator[Event]:
        """The response broke off; what was sent is incomplete."""
        told = {"code": error.code, "message": error.message}
        yield self._event("error", **told, param=error.param, request_id=request_id)
        self.response.update(status="failed", error=told)
        yield self._event("response.failed", response=self.response)


def _shown(tool: Tool) -> dict[str, Any]:
    """A tool as a response repeats it: a function with all its fields."""
    told = tool.model_dump(exclude_none=True)
    if isinstance(tool, FunctionTool):
        return {"description": None, "parameters": None, "strict": None, **told}
    return told
