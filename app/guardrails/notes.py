"""What the checks of answers found in one call, as its reply and its audit record tell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.guardrails.demands import CheckAction, Then

if TYPE_CHECKING:
    from app.gateway.call import Call


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in which a text falls short, and what the policy does about it.

    ``reason`` is told to the model when it is asked again; it holds no value of the text.
    """

    check: str
    action: CheckAction
    reason: str
    then: Then | None = None
    replacement: str | None = None
    topic: str | None = None
    score: float | None = None

    def named(self) -> str:
        """As a refusal names it."""
        return self.check if self.topic is None else f"{self.check} '{self.topic}'"


@dataclass(slots=True)
class Notes:
    """What was found so far.

    ``instead`` is the policy's text that is given in place of an answer, without a model.
    ``touched`` are the topics of input and answer, for disclaimers.
    """

    told: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[dict[str, Any]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    instead: str | None = None

    def tell(self, direction: str, fault: Fault, action: str) -> None:
        """Note what was done about a fault."""
        one: dict[str, Any] = {"direction": direction, "check": fault.check, "action": action}
        one |= {"topic": fault.topic} if fault.topic is not None else {}
        one |= {"score": fault.score} if fault.score is not None else {}
        if fault.topic is None:
            one["reason"] = fault.reason
        self.told.append(one)

    def as_reply(self) -> dict[str, Any]:
        """What a reply tells besides its text; empty when there is nothing."""
        found = {"checks": self.told, "sentences": self.sentences}
        return {name: list(values) for name, values in found.items() if values}


def notes_of(call: Call) -> Notes:
    """The notes of a call, begun when there are none."""
    if call.notes is None:
        call.notes = Notes()
    return call.notes
