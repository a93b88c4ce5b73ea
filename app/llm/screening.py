"""Names the model of a call and screens the texts of its request."""

from __future__ import annotations

from typing import TypeVar

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm.answer_checks import AnswerChecks
from app.llm.openai_types import ChatCompletionRequest, CompletionRequest
from app.llm.request_texts import replace_results, replace_texts, results_of, texts_of
from app.llm.responses_types import ResponsesRequest
from app.llm.router import Router

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
        GuardrailViolation: the policy blocks what was found.
    """
    router.available(request.model)  # unknown names reach neither audit nor drift
    call.model = request.model
    call.versions["model"] = request.model
    if results := results_of(request):
        safe = await guardrails.screen_results(call, results)
        request = request if safe == results else replace_results(request, safe)
    texts = texts_of(request)
    call.features["input_length"] = float(sum(map(len, texts)))
    screened = await guardrails.screen(call, texts, "input")
    passed = request if screened == texts else replace_texts(request, screened)
    if checks.watch(call):
        await checks.screen_input(call, passed)
    return passed
