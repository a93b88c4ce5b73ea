"""Alerts and the policies that say what becomes of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

Kind = Literal["drift", "freshness", "budget"]
Severity = Literal["low", "medium", "high", "critical"]
Action = Literal["reembed", "fall_back"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that stands now; ``details`` are numbers and names, never texts of calls."""

    tenant_id: str
    kind: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)


Source = Callable[[str], Awaitable[list[Alert]]]  # all that stand now of one kind, by tenant


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the alerts that a policy covers.

    Attributes:
        subject: a pattern; ``*`` and ``?`` as in file names.
        acknowledge_within_s: until an incident escalates; None: never.
        escalate_to: owners, one more at each escalation.
        action: what is done; None: nothing but to tell.
        vector_store_id, model: what it is done to; both None: the incident's subject.
        embedding_model: with which a store is embedded anew; None: the store's.
        cooldown_s: least time between two actions of one kind on one target.
        approval: the action waits until somebody approves.
        close_after_s: for how long the condition is over before the incident closes itself.
    """

    kind: Kind
    subject: str
    severity: Severity
    owner: str
    acknowledge_within_s: float | None
    escalate_to: tuple[str, ...]
    webhook_id: str | None
    action: Action | None
    vector_store_id: str | None
    model: str | None
    embedding_model: str | None
    cooldown_s: float
    approval: bool
    close_after_s: float

    def as_json(self) -> dict[str, Any]:
        """For the database; see :meth:`from_json`."""
        return {**asdict(self), "escalate_to": list(self.escalate_to)}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Rule:
        """The rule that :meth:`as_json` kept."""
        return cls(**{**kept, "escalate_to": tuple(kept["escalate_to"])})

    def covers(self, alert: Alert) -> bool:
        """Whether it is for this alert of its tenant."""
        return self.kind == alert.kind and fnmatchcase(alert.subject, self.subject)

    def target(self, subject: str) -> str:
        """What the action is done to, by kind and name."""
        if self.model is not None:
            return f"model/{self.model}"
        return f"vector_store/{self.vector_store_id or subject}"


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """A rule of a tenant, as it is stored."""

    id: str
    tenant_id: str
    rule: Rule
    made_by: str
    created_at: float
    updated_at: float


def chosen(policies: Iterable[AlertPolicy], alert: Alert) -> AlertPolicy | None:
    """The policy for an alert: whose pattern says most, of equals the oldest."""
    covering = [p for p in policies if p.tenant_id == alert.tenant_id and p.rule.covers(alert)]
    return min(covering, key=lambda p: (-_said(p.rule.subject), p.created_at, p.id), default=None)


def _said(pattern: str) -> int:
    return sum(sign not in "*?" for sign in pattern)


def raised(severity: Severity) -> Severity:
    """The next severity; the highest stays."""
    return SEVERITIES[min(SEVERITIES.index(severity) + 1, len(SEVERITIES) - 1)]
