"""A recognizer of values by their form: patterns, a check of the digits, and the words before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import Unavailable
from app.guardrails.context import in_context
from app.guardrails.findings import Finding
from app.guardrails.languages import ENGLISH, Languages

LIMIT_S = 2.0  # of one pattern on one stretch of text
CHECKED = "checked"  # the group of a pattern whose digits are judged; else the whole match


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern of the ``regex`` module, and how sure a match of it is."""

    compiled: Any
    score: float


@dataclass(frozen=True, slots=True, eq=False)  # told apart by identity
class Recognizer:
    """Finds the values of one entity type.

    Attributes:
        context: words in lower case that make a value likelier when they stand before it.
        digits: whether every value holds one, so that a sentence without any is passed over.
        needs: what every value holds, likewise.
        language: of the sentences in which it looks; None: in all.
        judge: from a value to what its digits say: True is certain, False is none, None nothing.
    """

    entity: str
    patterns: Sequence[Pattern]
    context: Sequence[str] = ()
    judge: Callable[[str], bool | None] | None = None
    digits: bool = False
    needs: re.Pattern[str] | None = None
    language: str | None = None

    def find(
        self,
        text: str,
        start: int,
        end: int,
        languages: Languages = ENGLISH,
        more: Sequence[str] = (),
    ) -> Iterator[Finding]:
        """Yield what lies in ``text[start:end]``; what is before it is context.

        Args:
            languages: of the words before a value, whose idle ones are passed over.
            more: context words besides the recognizer's own.

        Raises:
            Unavailable: a pattern took too long, so nothing may pass.
        """
        part = text[start:end]
        context = (*self.context, *more)
        for pattern in self.patterns:
            try:
                for match in pattern.compiled.finditer(part, timeout=LIMIT_S):
                    score = self._judged(match, pattern.score)
                    if score is not None:
                        first, last = start + match.start(), start + match.end()
                        score = in_context(score, text, first, context, languages)
                        yield Finding(self.entity, first, last, score)
            except TimeoutError as error:
                raise Unavailable(
                    f"The recognizer of {self.entity} took too long, so the call was refused. "
                    "Tell the operator: its pattern needs another form.",
                    code="guardrail_unavailable",
                ) from error

    def _judged(self, match: Any, score: float) -> float | None:
        """How sure a match is before its context is looked at; None: it is no value."""
        if match.start() == match.end():
            return None
        if self.judge is None:
            return score
        said = self.judge(match.groupdict().get(CHECKED) or match[0])
        if said is False:
            return None
        return 1.0 if said else score
