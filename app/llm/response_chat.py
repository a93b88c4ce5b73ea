"""Says a Responses request as a chat completion, and reads function calls back."""

from __future__ import annotations

from typing import Any

from app.ids import new_id
from app.llm.openai_types import ResponsesRequest


def sampling(request: ResponsesRequest) -> dict[str, Any]:
    """The sampling fields of a chat, for those that were set."""
    found: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        found["max_tokens"] = request.max_output_tokens
    if request.temperature is not None:
        found["temperature"] = request.temperature
    if request.top_p is not None:
        found["top_p"] = request.top_p
    return found


def chat_body(request: ResponsesRequest, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The chat body that asks what the request asks; unknown fields go along."""
    tools = [
        {
            "type": "function",
            "function": t.model_dump(exclude_none=True, exclude={"type"}),
        }
        for t in request.tools or ()
        if t.type == "function"
    ]
    body: dict[str, Any] = {
        **(request.model_extra or {}),
        "model": request.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling(request),
    }
    text = body.pop("text", None)
    form = text.get("format") if isinstance(text, dict) else None
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {k: v for k, v in form.items() if k != "type"}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, dict) and form.get("type") == "json_object":
        body["response_format"] = form
    if tools:
        body["tools"] = tools
        choice = request.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "function":
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        if choice is not None:
            body["tool_choice"] = choice
    return body


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
