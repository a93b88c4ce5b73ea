"""One incident: what is known of it, and what its receivers are told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from sqlalchemy import RowMapping

from app.monitoring.alerts import Alert, AlertPolicy, Rule, Severity
from app.store.models_incidents import incidents

State = Literal["open", "acknowledged", "closed"]
# waiting for approval; due, also in a cool-down; being begun; begun as a job; over
ActionState = Literal["waiting", "due", "starting", "started", "completed", "failed", "dropped"]
SYSTEM = "system:incidents"  # who makes the changes that nobody asked for


@dataclass(frozen=True, slots=True)
class Incident:
    """As it is stored. ``rule`` is the policy's when it opened."""

    id: str
    tenant_id: str
    kind: str
    subject: str
    state: State
    severity: Severity
    owner: str
    policy_id: str
    rule: Rule
    details: dict[str, Any]
    version: int
    escalations: int
    escalates_at: float | None
    action: ActionState | None
    action_at: float | None
    action_error: str | None
    job_id: str | None
    opened_at: float
    alerted_at: float
    acknowledged_at: float | None
    acknowledged_by: str | None
    closed_at: float | None
    closed_by: str | None
    reason: str | None

    @classmethod
    def from_row(cls, row: RowMapping | dict[str, Any]) -> Incident:
        """As the database keeps it."""
        return cls(**{**row, "rule": Rule.from_json(row["rule"])})

    def as_row(self) -> dict[str, Any]:
        """See :meth:`from_row`."""
        values = {column.name: getattr(self, column.name) for column in incidents.columns}
        return {**values, "rule": self.rule.as_json()}


def opened(incident_id: str, alert: Alert, policy: AlertPolicy, now: float) -> Incident:
    """The incident that an alert opens."""
    rule = policy.rule
    within = rule.acknowledge_within_s
    given: dict[str, Any] = {
        "id": incident_id,
        "tenant_id": alert.tenant_id,
        "kind": alert.kind,
        "subject": alert.subject,
        "state": "open",
        "severity": rule.severity,
        "owner": rule.owner,
        "policy_id": policy.id,
        "rule": rule,
        "details": alert.details,
        "version": 1,
        "escalations": 0,
        "escalates_at": None if within is None else now + within,
        "action": None if rule.action is None else "waiting" if rule.approval else "due",
        "opened_at": now,
        "alerted_at": now,
    }
    return Incident(**{**dict.fromkeys(f.name for f in fields(Incident)), **given})


def told(incident: Incident, change: str, by: str, now: float, details: dict[str, Any]) -> str:
    """The body of a webhook, as Standard Webhooks shapes it: type, timestamp, data."""
    data = {
        "id": incident.id,
        "tenant_id": incident.tenant_id,
        "kind": incident.kind,
        "subject": incident.subject,
        "state": incident.state,
        "severity": incident.severity,
        "owner": incident.owner,
        "policy_id": incident.policy_id,
        "details": incident.details,
        "action": incident.rule.action,
        "action_state": incident.action,
        "job_id": incident.job_id,
        "opened_at": date(incident.opened_at),
        "change": {"by": by, **details},
    }
    event = {"type": f"incident.{change}", "timestamp": date(now), "data": data}
    return orjson.dumps(event).decode()


def date(at: float) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
