"""The texts of a request that reach a model: read for the guardrails, and put back screened."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from app.llm.openai_types import ChatCompletionRequest, CompletionRequest, Part
from app.llm.responses_types import InputPart, ResponsesRequest

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


def _visit(request: Screened, change: Callable[[str], str]) -> None:
    """Put each text of `request` through `change`, in place."""
    if isinstance(request, ChatCompletionRequest):
        for message in request.messages:
            message.content = _changed(message.content, change)
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
            item.output = _changed(item.output, change)


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
