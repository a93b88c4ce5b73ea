"""Makes the last question of a conversation stand alone, by a language model or by rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.gateway.call import Call, Usage
from app.guardrails.service import Guardrails
from app.llm.router import Router
from app.retrieval.rewrite import Rewritten, Turn, rewrite, rewrite_by_rules

TIMEOUT_S = 3.0  # a search waits for it
MOST_TOKENS = 96  # of the rewritten question


class Rewriter:
    """Rewrites by the model of a name; without a name, or where the model fails, by rules.

    What the model takes is counted in the call's usage, and charged with it.
    """

    def __init__(self, router: Router, guardrails: Guardrails, model: str | None) -> None:
        self._router, self._guardrails, self._model = router, guardrails, model

    async def rewrite(self, call: Call, turns: Sequence[Turn]) -> Rewritten:
        """Rewrite the last user turn of a conversation whose turns were screened.

        What is looked for has the values for which surrogates stand, as the documents do.
        The model's words are screened as any output is; the rules take up only words of the
        turns.

        Raises:
            GuardrailViolation: the policy blocks what the model wrote.
        """
        found = await self._rewrite(call, turns)
        return replace(found, query=self._guardrails.restored(call, found.query))

    async def _rewrite(self, call: Call, turns: Sequence[Turn]) -> Rewritten:
        model = self._model
        if model is None or not self._router.available(model):
            return rewrite_by_rules(turns)

        async def ask(messages: list[dict[str, str]]) -> str:
            body = {
                "model": model,
                "messages": messages,
                "temperature": 0.0,
                "max_tokens": MOST_TOKENS,
            }
            reply = await self._router.send(body)
            _count(call, reply)
            return str(reply["choices"][0]["message"]["content"] or "")

        found = await rewrite(turns, ask, TIMEOUT_S)
        if found.by == "model":
            (query,) = await self._guardrails.screen(call, [found.query], "output")
            found = Rewritten(query, "model")
        call.lineage["rewritten_by"] = found.by
        return found


def _count(call: Call, reply: dict[str, Any]) -> None:
    spent, one = call.usage, Usage()
    one.answered(reply.get("usage"))
    prompt, completion = spent.aside
    prompt, completion = prompt + one.prompt_tokens, completion + one.completion_tokens
    spent.aside = (prompt, completion)
    spent.prompt_tokens, spent.completion_tokens = prompt, completion
