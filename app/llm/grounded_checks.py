"""Holds answers from documents against what the policy demands of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from app.gateway.call import Call
from app.guardrails.closed import failing_closed
from app.guardrails.demands import UNGROUNDED
from app.guardrails.demands import Groundedness as Demand
from app.guardrails.dry_run import Tally
from app.guardrails.notes import Fault, notes_of
from app.llm.answer_checks import AnswerChecks, after_retry, reason_of, strictest
from app.llm.citations import Citation
from app.llm.groundedness import Groundedness
from app.llm.pieces import Piece, Search

Again = Callable[[str], Awaitable[list[Piece]]]
NOT_BORNE_OUT = "it said what the passages do not say; keep to their facts and words"


class GroundedChecks:
    """Scores each sentence, and does with the answer what the policy says."""

    def __init__(self, checks: AnswerChecks, groundedness: Groundedness) -> None:
        self._checks, self._groundedness = checks, groundedness

    def holds(self, call: Call) -> bool:
        """Whether the answer may go out only when all of it was checked."""
        return self._checks.holds_grounded(call)

    def instead(self, call: Call) -> str | None:
        """The text that is given without asking a model."""
        return self._checks.instead(call)

    async def score(
        self, call: Call, sentence: str, shown: str, citations: Sequence[Citation]
    ) -> float | None:
        """How far its citations bear a sentence out, where somebody wants to know.

        Args:
            shown: the sentence as it goes out.

        Raises:
            Unavailable: it cannot be judged.
        """
        tried = self._checks.tried_on(call)
        wanted = self._checks.policy_of(call).groundedness
        if wanted is None and (tried is None or tried.groundedness is None):
            return None
        with failing_closed():
            scores = [await self._groundedness.score(sentence, c.passage) for c in citations]
        best = max(scores, default=0.0)
        if wanted is not None:
            notes_of(call).sentences.append({"text": shown, "score": best})
        if tried is not None and tried.groundedness is not None:
            self._try(call, tried.groundedness, best)
        return best

    def _try(self, call: Call, demand: Demand, score: float) -> None:
        dry_run = self._checks.dry_run(call)
        if dry_run is None or score >= demand.min_score:
            return

        async def look() -> Tally:
            return Counter({(UNGROUNDED, demand.action): 1})

        dry_run.also(look, [""], "output")

    async def settle(
        self, call: Call, search: Search, pieces: list[Piece], again: Again
    ) -> list[Piece]:
        """The answer as it may go out.

        Raises:
            GuardrailViolation: the policy blocks it.
        """
        faults = await self._faults(call, pieces, search.unborne)
        if strictest(faults) == "retry":
            retried = [f for f in faults if f.action == "retry"]
            self._checks.note(call, retried, "output", "retry")
            notes_of(call).sentences.clear()
            pieces = await again(reason_of(faults))
            faults = after_retry(await self._faults(call, pieces, 0))
        replacement = self._checks.act(call, self._checks.policy_of(call), faults, "output")
        if replacement is not None:
            notes_of(call).sentences.clear()
            pieces = [Piece(replacement, ())]
        return [*pieces, *self._disclaimers(call, pieces)]

    async def end(self, call: Call, pieces: Sequence[Piece]) -> list[Piece]:
        """Check an answer that has gone out and is only annotated; what is added to it."""
        if not self._checks.watch(call):
            return []
        faults = await self._faults(call, pieces, 0)
        self._checks.act(call, self._checks.policy_of(call), faults, "output")
        return self._disclaimers(call, pieces)

    async def _faults(self, call: Call, pieces: Sequence[Piece], unborne: int) -> list[Fault]:
        demand = self._checks.policy_of(call).groundedness
        found: list[Fault] = []
        if demand is not None:
            low = [p.score for p in pieces if p.score is not None and p.score < demand.min_score]
            if demand.action == "retry" and unborne:  # never given out, but worth another try
                low += [0.0] * unborne
            found = [
                Fault(
                    UNGROUNDED,
                    demand.action,
                    NOT_BORNE_OUT,
                    demand.then,
                    demand.replacement,
                    score=score,
                )
                for score in low
            ]
        text = "".join(p.text for p in pieces)
        return found + await self._checks.text_faults(call, text)

    def _disclaimers(self, call: Call, pieces: Sequence[Piece]) -> list[Piece]:
        text = "".join(p.text for p in pieces)
        choice = {"message": {"content": text}}
        more = self._checks.disclaimers(
            call, self._checks.policy_of(call), {}, choice, grounded=True
        )
        return [Piece(f"\n\n{more}", ())] if more else []
