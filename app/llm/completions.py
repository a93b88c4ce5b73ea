"""Completions of plain text: passed through intact, screened both ways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from app.gateway.call import Call
from app.guardrails.service import Guardrails
from app.llm.answer_checks import AnswerChecks
from app.llm.openai_types import CompletionRequest
from app.llm.relay import Relay
from app.llm.router import Router
from app.llm.screening import screen_input
from app.llm.upstream import COMPLETIONS


class Completions:
    """The completions service of one gateway."""

    def __init__(
        self, router: Router, guardrails: Guardrails, checks: AnswerChecks, relay: Relay
    ) -> None:
        self._router, self._guardrails, self._relay = router, guardrails, relay
        self._checks = checks

    async def screen_input(self, call: Call, request: CompletionRequest) -> CompletionRequest:
        """Return the request with its texts as the policy lets them pass."""
        return await screen_input(self._router, self._guardrails, self._checks, call, request)

    async def complete(self, call: Call, request: CompletionRequest) -> dict[str, Any]:
        """Complete a whole text; ``request`` has been screened."""
        return await self._relay.complete(call, request.upstream_body(), COMPLETIONS)

    async def open_stream(self, call: Call, request: CompletionRequest) -> AsyncIterator[bytes]:
        """Begin a streamed completion; errors before the first byte are raised here."""
        wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        body = request.upstream_body()
        return await self._relay.open_stream(call, body, COMPLETIONS, wants_usage)
