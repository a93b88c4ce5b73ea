"""Says a Responses request as a chat completion, and reads function calls back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.ids import new_id
from app.llm.responses_types import (
    PASSED_OVER,
    FunctionTool,
    InputItem,
    InputPart,
    ResponsesRequest,
)

_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


def sampling(request: ResponsesRequest) -> dict[str, Any]:
    """The sampling fields of a chat, for those that were set."""
    found = {name: getattr(request, name) for name in _SAMPLING}
    found["max_tokens"] = request.max_output_tokens
    return {name: value for name, value in found.items() if value is not None}


def chat_body(request: ResponsesRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The chat body that asks what the request asks; unknown fields go along."""
    body: dict[str, Any] = {
        **(request.model_extra or {}),
        "model": request.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling(request),
    }
    form = request.text_format()
    if form is not None:
        told = form.model_dump(by_alias=True, exclude_none=True)
        kind = told.pop("type")
        body["response_format"] = {"type": kind, kind: told} if told else {"type": kind}
    if request.reasoning is not None and request.reasoning.effort is not None:
        body["reasoning_effort"] = request.reasoning.effort
    end_user = request.safety_identifier or request.user
    if end_user is not None:
        body["user"] = end_user
    functions = [t for t in request.tools or () if isinstance(t, FunctionTool)]
    if functions:
        body["tools"] = [
            {"type": "function", "function": t.model_dump(exclude_none=True, exclude={"type"})}
            for t in functions
        ]
        choice = request.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "function":
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        if choice is not None:
            body["tool_choice"] = choice
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    return body


def messages_of(request: ResponsesRequest) -> list[dict[str, Any]]:
    """Instructions and input as chat messages, in order.

    Calls that a model made at once, and what it said with them, are one message.
    """
    found: list[dict[str, Any]] = []
    if request.instructions:
        found.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        return [*found, {"role": "user", "content": request.input}]
    for item in request.input:
        if item.type in PASSED_OVER:
            continue
        if item.type == "function_call":
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            if not found or found[-1]["role"] != "assistant":
                found.append({"role": "assistant", "content": None})
            found[-1].setdefault("tool_calls", []).append(call)
        elif item.type == "function_call_output":
            content = _content(item.output)
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
        else:
            found.append(_message(item))
    return found


def _message(item: InputItem) -> dict[str, Any]:
    role = "system" if item.role == "developer" else item.role
    return {"role": role, "content": _content(item.content)}


def _content(content: str | Sequence[InputPart] | None) -> str | list[dict[str, Any]]:
    """Texts alone are one text; with images among them they stay parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if all(part.type != "input_image" for part in content):
        return "\n".join(said for part in content if (said := part.text or part.refusal))
    return [_part(part) for part in content]


def _part(part: InputPart) -> dict[str, Any]:
    if part.type != "input_image":
        return {"type": "text", "text": part.text or part.refusal or ""}
    image = {"url": part.image_url, "detail": part.detail}
    return {"type": "image_url", "image_url": {k: v for k, v in image.items() if v is not None}}


def text_in(message: dict[str, Any]) -> str:
    """What a chat message says, without its images."""
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return str(content or "")


def collect_calls(calls: dict[int, dict[str, str]], choice: dict[str, Any]) -> None:
    """Add what a streamed choice tells of the function calls the model makes."""
    for tool in (choice.get("delta") or {}).get("tool_calls") or ():
        kept = calls.setdefault(
            int(tool.get("index", 0)),
            {"call_id": new_id("call_"), "name": "", "arguments": ""},
        )
        function = tool.get("function") or {}
        kept["call_id"] = tool.get("id") or kept["call_id"]
        kept["name"] += function.get("name") or ""
        kept["arguments"] += function.get("arguments") or ""
