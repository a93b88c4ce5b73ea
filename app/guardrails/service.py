"""Screening of a call's texts by the policy in force; fails closed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from functools import partial

from app.errors import GuardrailViolation, OstiaryError, Unavailable
from app.gateway.call import Call, Direction
from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES
from app.guardrails.findings import Finding, label, replaced
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy
from app.guardrails.segments import suspicion
from app.guardrails.streaming import StreamScreen
from app.guardrails.tokens import Tokens
from app.pools import Pool

log = logging.getLogger("ostiary.guardrails")
INLINE_CHARS = 8_192  # patterns in so little text take less than a thread switch is worth,
INLINE_SIGNS = 40  # unless it is full of what values are made of; a phone number has two or three
INLINE_ANYWAY = 200  # characters hold few enough


class Guardrails:
    """Masks or refuses by the policy; notes on the call what was found, never the values."""

    def __init__(
        self, policy: Policy, detector: PiiDetector, pool: Pool, keep: bool, key: bytes
    ) -> None:
        self.policy = policy
        self._detector, self._pool, self._keep, self._key = detector, pool, keep, key

    def tokens(self, call: Call) -> Tokens:
        """What makes and opens the tokens of the caller's tenant."""
        return Tokens(self._key, call.tenant_id)

    async def screen(self, call: Call, texts: Sequence[str], direction: Direction) -> list[str]:
        """Return the texts as they may pass.

        Raises:
            GuardrailViolation: the policy blocks what was found.
            Unavailable: the guardrails cannot work, so nothing passes.
        """
        watched = self.policy.watched(direction)
        with _failing_closed():
            if not self.policy.by_sentence(direction) and _light(texts):
                found = self._detect(texts, watched)
            else:
                found = await self._pool.run(self._detect, texts, watched)
        passed = self._apply(call, texts, found, direction)
        if self._keep:
            call.bodies[direction] = call.bodies.get(direction, "") + "\n".join(passed)
        return passed

    def stream(self, call: Call) -> StreamScreen:
        """A screen for the output that comes in pieces.

        Where the policy looks by sentences, ``feed`` takes milliseconds at each one's end: then
        use :meth:`feed` and :meth:`finish`, which keep that out of the event loop.
        """
        call.mark_screened("output")
        watched = self.policy.watched("output")

        def screen(text: str, start: int) -> str:
            with _failing_closed():
                found = self._detect([text], watched, start)
            passed = self._apply(call, [text], found, "output")[0][start:]
            if self._keep:
                call.bodies["output"] = call.bodies.get("output", "") + passed
            return passed

        by_sentence = self.policy.by_sentence("output")
        return StreamScreen(screen, self._detector.spans, by_sentence, holds=bool(watched))

    async def feed(self, screen: StreamScreen, chunk: str) -> str:
        """Feed a screen of :meth:`stream`; in the pool where sentences are looked through."""
        if screen.by_sentence:
            return await self._pool.run(screen.feed, chunk)
        return screen.feed(chunk)

    async def finish(self, screen: StreamScreen) -> str:
        """Finish a screen of :meth:`stream`; in the pool where sentences are looked through."""
        if screen.by_sentence:
            return await self._pool.run(screen.finish)
        return screen.finish()

    def _detect(
        self, texts: Sequence[str], watched: Set[str], start: int = 0
    ) -> list[list[Finding]]:
        policy = self.policy
        return [
            self._detector.detect(t, watched, policy.threshold, start=start, custom=policy.custom)
            for t in texts
        ]

    def _apply(
        self,
        call: Call,
        texts: Sequence[str],
        found: Sequence[list[Finding]],
        direction: Direction,
    ) -> list[str]:
        call.mark_screened(direction)
        if not any(found):
            return list(texts)
        counts = Counter(f.entity for findings in found for f in findings)
        blocked = {}
        for entity, count in counts.items():
            action = self.policy.action(entity, direction)
            call.record_finding(entity, action, count, direction)
            if action == "block":
                blocked[entity] = count
        if blocked:
            raise GuardrailViolation(self.policy.name, direction, blocked)
        put = self._replacer(call, direction)
        return [
            replaced(text, findings, partial(put, text))
            for text, findings in zip(texts, found, strict=True)
        ]

    def _replacer(self, call: Call, direction: Direction) -> Callable[[str, Finding], str]:
        """What the policy puts in the place of a finding in a text."""
        policy, tokens = self.policy, self.tokens(call)

        def put(text: str, finding: Finding) -> str:
            rule, value = policy.rule(finding.entity), text[finding.start : finding.end]
            match policy.action(finding.entity, direction):
                case "replace":
                    return rule.replacement or ""
                case "hash":
                    return tokens.hashed(finding.entity, value)
                case "encrypt":
                    return tokens.sealed(finding.entity, value)
                case _:
                    return label(finding)

        return put

    async def judge(self, call: Call, texts: Sequence[str]) -> list[list[Finding]]:
        """What the policy in force would act on, in either direction; nothing is changed.

        Raises:
            Unavailable: the guardrails cannot work.
        """
        watched = self.policy.watched("input") | self.policy.watched("output")
        with _failing_closed():
            found = await self._pool.run(self._detect, texts, watched)
        call.mark_screened("input")
        for entity, count in Counter(f.entity for part in found for f in part).items():
            call.record_finding(entity, "flag", count, "input")
        return found

    async def analyze(
        self,
        call: Call,
        text: str,
        entities: Sequence[str] | None,
        score_threshold: float,
    ) -> list[Finding]:
        """Findings in a text, as Presidio's analyzer gives them; nothing is masked."""
        wanted = set(entities) if entities is not None else PATTERN_ENTITIES | NER_ENTITIES
        with _failing_closed():
            found = await self._pool.run(
                self._detector.detect, text, wanted, lambda _: score_threshold
            )
        call.mark_screened("input")
        return found


@contextmanager
def _failing_closed() -> Iterator[None]:
    """Refuse the call when the block fails in a way that was not meant for the caller."""
    try:
        yield
    except OstiaryError:
        raise
    except Exception as error:
        log.error("guardrails failed: %s", type(error).__name__)
        raise Unavailable(
            "The guardrails cannot work at the moment, so the call was refused. Try again; if "
            "it keeps failing, tell the operator.",
            code="guardrail_unavailable",
        ) from error


def _light(texts: Sequence[str]) -> bool:
    """Whether looking for patterns takes well under a millisecond or two."""
    length = sum(map(len, texts))
    if length > INLINE_CHARS:
        return False
    return length <= INLINE_ANYWAY or sum(map(suspicion, texts)) <= INLINE_SIGNS
