"""Screening of a reply for attacks, as it comes or whole: the same code gives the same result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from app.guardrails.attacks.own_prompt import OwnPrompt
from app.guardrails.attacks.replies import apart_from_quotes
from app.guardrails.attacks.rules import LEAK
from app.guardrails.attacks.stretches import Stretch, Stretches
from app.guardrails.closed import failing_closed
from app.guardrails.findings import Finding, replaced, without_overlaps
from app.guardrails.json_strings import JsonStrings
from app.guardrails.policy import Policy
from app.guardrails.restoring import apart_from_covered

Find = Callable[[Stretch, frozenset[str], OwnPrompt | None], list[Finding]]
Note = Callable[[Sequence[Finding]], None]  # takes note of what was found, and may refuse it
Put = Callable[[Finding, str], str]  # what stands in the place of a value


class ReplyScreen:
    """Takes attacks out of one text of a reply; text goes out as soon as none can grow in it.

    Args:
        find: the attacks of the given types in a stretch.
        note: raises GuardrailViolation where the policy blocks.
        structured: the text is JSON, and stays it.
    """

    def __init__(
        self,
        policy: Policy,
        prompt: OwnPrompt | None,
        find: Find,
        note: Note,
        put: Put,
        *,
        structured: bool = False,
    ) -> None:
        self._policy, self._find, self._note, self._put = policy, find, note, put
        self._wanted = policy.attacks_in_replies
        self._prompt = prompt if LEAK in self._wanted else None
        self._stretches = Stretches(self._prompt)
        self._strings = JsonStrings() if structured else None

    def feed(self, chunk: str) -> str:
        """Take a piece and return what may go out now; raises as ``note``."""
        with failing_closed():
            return "".join(map(self._passed, self._stretches.feed(chunk)))

    def finish(self, chunk: str = "") -> str:
        """Return the rest; the reply has ended with ``chunk``."""
        with failing_closed():
            return "".join(map(self._passed, self._stretches.feed(chunk, final=True)))

    def _passed(self, stretch: Stretch) -> str:
        text = stretch.text
        was_open, quotes = False, list[int]()
        if self._strings is not None:
            was_open, quotes = self._strings.inside, self._strings.follow(text)
        if not stretch.suspect and not stretch.leaks:
            return text
        flagged = self._policy.flagged["output"]
        found = [
            f
            for f in self._find(stretch, self._wanted, self._prompt)
            if f.score >= self._policy.threshold(f.entity)
        ]
        told = [f for f in found if f.entity in flagged]
        changing = without_overlaps([f for f in found if f.entity not in flagged])
        changing = apart_from_covered(text, changing)
        if not told and not changing:
            return text
        self._note([*changing, *told])
        if self._strings is None:
            return replaced(text, changing, lambda f: self._put(f, text[f.start : f.end]))

        def put(f: Finding) -> str:
            by = self._put(f, text[f.start : f.end])
            inside = was_open ^ (sum(q < f.start for q in quotes) % 2 == 1)
            return json.dumps(by, ensure_ascii=False)[1:-1] if inside else json.dumps(by)

        return replaced(text, apart_from_quotes(text, changing, quotes), put)
