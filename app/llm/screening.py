"""Names the model of a call and screens the texts of its request."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm.answer_checks import AnswerChecks
from app.llm.openai_types import ChatCompletionRequest, CompletionRequest, Part
from app.llm.request_texts import (
    confidential_texts_of,
    replace_results,
    replace_texts,
    results_of,
    texts_of,
    texts_of_user,
)
from app.llm.responses_types import InputPart, ResponsesRequest
from app.llm.router import Router
from app.monitoring.language import language_of

Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest, ResponsesRequest)


async def screen_input(
    router: Router,
    guardrails: Guardrails,
    checks: AnswerChecks,
    call: Call,
    request: Request,
) -> Request:
    """Return the request with its texts as the policy lets them pass.

    Raises:
        NotFound: no such model is served.
        BudgetExceeded: a budget of the model is spent.
        GuardrailViolation: the policy blocks what was found.
    """
    router.available(request.model)  # unknown names reach neither audit nor drift
    call.asks(request.model)
    call.versions["model"] = request.model
    if call.pseudonyms is None:  # those of a conversation that goes on are there
        scope = _conversation(call, request)
        guardrails.begin_conversation(call, scope, structured=_is_structured(request))
    if results := results_of(request):
        safe = await guardrails.screen_results(call, results)
        request = request if safe == results else replace_results(request, safe)
    texts = texts_of(request)
    call.features["input_length"] = float(sum(map(len, texts)))
    call.features["language"] = language_of(texts)
    screened = await guardrails.screen(call, texts, "input")
    passed = request if screened == texts else replace_texts(request, screened)
    await guardrails.keep_prompt(
        call,
        confidential_texts_of(passed),
        texts_of_user(passed),
        structured=_is_structured(passed),
    )
    if checks.watch(call):
        await checks.screen_input(call, passed)
    return passed


def _conversation(call: Call, request: Request) -> str:
    """What the turns of one conversation have in common: its name, else the first question."""
    if call.conversation is not None:
        return f"named {call.conversation}"
    first = _first_question(request).encode("utf-8", "surrogatepass")
    return f"begun {hashlib.sha256(first).hexdigest()}"


def _first_question(request: ChatCompletionRequest | CompletionRequest | ResponsesRequest) -> str:
    said: Sequence[str | Sequence[Part | InputPart] | None]
    if isinstance(request, ChatCompletionRequest):
        said = [m.content for m in request.messages if m.role == "user"]
    elif isinstance(request, CompletionRequest):
        return str(request.prompt)
    elif isinstance(request.input, str):
        return request.input
    else:
        said = [item.content for item in request.input if item.role == "user"]
    first = said[0] if said else None
    if first is not None and not isinstance(first, str):
        return "\n".join(part.text or "" for part in first)
    return first or ""


def _is_structured(
    request: ChatCompletionRequest | CompletionRequest | ResponsesRequest,
) -> bool:
    """Whether the reply is to be JSON, by OpenAI's fields or vLLM's."""
    if isinstance(request, ResponsesRequest):
        return request.text_format() is not None
    asked = request.model_extra or {}
    form = getattr(request, "response_format", None) or asked.get("response_format") or {}
    outputs = asked.get("structured_outputs") or {}
    return (
        (isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"))
        or asked.get("guided_json") is not None
        or (isinstance(outputs, dict) and bool(outputs.get("json") or outputs.get("json_object")))
    )
