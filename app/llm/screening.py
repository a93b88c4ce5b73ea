"""Names the model of a call and screens the texts of its request."""

from __future__ import annotations

from typing import TypeVar

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm.openai_types import ChatCompletionRequest, CompletionRequest
from app.llm.request_texts import replace_texts, texts_of
from app.llm.responses_types import ResponsesRequest
from app.llm.router import Router
from app.monitoring.language import language_of

Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest, ResponsesRequest)


async def screen_input(
    router: Router, guardrails: Guardrails, call: Call, request: Request
) -> Request:
    """Return the request with its texts as the policy lets them pass.

    Raises:
        NotFound: no such model is served.
        GuardrailViolation: the policy blocks what was found.
    """
    router.available(request.model)  # unknown names reach neither audit nor drift
    call.model = request.model
    call.versions["model"] = request.model
    texts = texts_of(request)
    call.features["input_length"] = float(sum(map(len, texts)))
    call.features["language"] = language_of(texts)
    screened = await guardrails.screen(call, texts, "input")
    return request if screened == texts else replace_texts(request, screened)
