"""The texts of a request that reach a model: read for the guardrails, and put back screened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from app.llm.openai_types import ChatCompletionRequest, CompletionRequest, Message, Part
from app.llm.responses_types import InputItem, InputPart, ResponsesRequest

INSTRUCTING = ("system", "developer")
Screened = ChatCompletionRequest | CompletionRequest | ResponsesRequest
Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest, ResponsesRequest)


def texts_of(request: Screened) -> list[str]:
    """Return every text of `request` that reaches a model, in a fixed order."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    _visit(request, collect)
    return found


def results_of(request: Screened) -> list[str]:
    """The texts of `request` that are results of tools, in a fixed order."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    _visit(request, lambda text: text, collect)
    return found


def replace_results(request: Request, texts: list[str]) -> Request:
    """Return a copy of `request` with its `results_of` replaced, which are as many."""
    copy = request.model_copy(deep=True)
    supply = iter(texts)
    _visit(copy, lambda text: text, lambda _: next(supply))
    return copy


def texts_of_user(request: Screened) -> list[str]:
    """The texts of `request` that a user wrote, without what applications and tools say."""
    if isinstance(request, CompletionRequest):
        return texts_of(request)
    if isinstance(request, ResponsesRequest) and isinstance(request.input, str):
        return [request.input]
    if isinstance(request, ResponsesRequest):
        return _said_by(["user"], [i for i in request.input if not isinstance(i, str)])
    return _said_by(["user"], request.messages)


def confidential_texts_of(request: Screened) -> list[str]:
    """The texts of `request` by which applications instruct the model."""
    if isinstance(request, CompletionRequest):
        return []
    if isinstance(request, ChatCompletionRequest):
        return _said_by(INSTRUCTING, request.messages)
    told = [request.instructions] if request.instructions else []
    turns = [] if isinstance(request.input, str) else request.input
    return told + _said_by(INSTRUCTING, turns)


def _said_by(roles: Sequence[str], turns: Sequence[Message | InputItem]) -> list[str]:
    found: list[str] = []
    for turn in turns:
        if turn.role in roles and turn.content is not None:
            parts = [turn.content] if isinstance(turn.content, str) else turn.content
            found += [p if isinstance(p, str) else p.text or "" for p in parts]
    return found


def unstreamed(body: dict[str, Any]) -> dict[str, Any]:
    """A body that asks for the same as a whole."""
    return {k: v for k, v in body.items() if k not in ("stream", "stream_options")}


def asked_again(body: dict[str, Any], reason: str) -> dict[str, Any]:
    """A body that asks the same once more and tells why.

    The reason joins the last words of the user: many models take no two turns of one side.
    """
    if "messages" not in body:
        prompts = body["prompt"]
        if isinstance(prompts, str):
            return {**body, "prompt": f"{prompts}\n\n{reason}\n"}
        return {**body, "prompt": [f"{p}\n\n{reason}\n" for p in prompts]}
    *before, last = body["messages"]
    content = last.get("content")
    if last.get("role") != "user":
        more = [last, {"role": "user", "content": reason}]
    elif isinstance(content, str):
        more = [{**last, "content": f"{content}\n\n{reason}"}]
    else:
        more = [{**last, "content": [*(content or ()), {"type": "text", "text": reason}]}]
    return {**body, "messages": [*before, *more]}


def replace_texts(request: Request, texts: list[str]) -> Request:
    """Return a copy of `request` with its texts, in the order of `texts_of`, replaced.

    Raises ValueError when the number of texts differs from the request's.
    """
    copy = request.model_copy(deep=True)
    supply = iter(texts)
    wanted = len(texts_of(request))
    if wanted != len(texts):
        raise ValueError(f"the request holds {wanted} texts, {len(texts)} were given")
    _visit(copy, lambda _: next(supply))
    return copy


def _visit(
    request: Screened,
    change: Callable[[str], str],
    of_tools: Callable[[str], str] | None = None,
) -> None:
    """Put each text of `request` through `change`, in place; results of tools through another."""
    of_tools = of_tools or change
    if isinstance(request, ChatCompletionRequest):
        for message in request.messages:
            from_tool = message.role in ("tool", "function")
            message.content = _changed(message.content, of_tools if from_tool else change)
            for call in message.tool_calls or ():
                function = call.get("function")
                if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                    function["arguments"] = change(function["arguments"])
    elif isinstance(request, CompletionRequest):
        if isinstance(request.prompt, str):
            request.prompt = change(request.prompt)
        else:
            request.prompt = [change(text) for text in request.prompt if isinstance(text, str)]
        if request.suffix is not None:
            request.suffix = change(request.suffix)
    else:
        if request.instructions is not None:
            request.instructions = change(request.instructions)
        if isinstance(request.input, str):
            request.input = change(request.input)
            return
        for item in request.input:
            item.content = _changed(item.content, change)
            if item.arguments is not None:
                item.arguments = change(item.arguments)
            item.output = _changed(item.output, of_tools)


Content = TypeVar("Content", list[Part], list[InputPart])


def _changed(content: str | Content | None, change: Callable[[str], str]) -> str | Content | None:
    if isinstance(content, str):
        return change(content)
    for part in content or ():
        if part.text is not None:
            part.text = change(part.text)
        if part.refusal is not None:
            part.refusal = change(part.refusal)
    return content
