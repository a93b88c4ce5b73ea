"""The SQL tables of alert policies, incidents and webhooks."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    text,
)

from app.store.tables import Id, metadata

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("url", Text, nullable=False),
    Column("description", String(200), nullable=False),
    Column("secret", LargeBinary, nullable=False),  # encrypted, bound to the id
    Column("old_secret", LargeBinary),  # signs too, until old_until
    Column("old_until", Float),
    Column("created_at", Float, nullable=False),
    Column("rotated_at", Float),
)
webhook_deliveries = Table(  # written in the transaction of what they tell
    "webhook_deliveries",
    metadata,
    Column("id", Id, primary_key=True),  # the webhook-id, the same at each attempt
    Column("tenant_id", Id, nullable=False),
    Column("webhook_id", Id, nullable=False),
    Column("incident_id", Id, nullable=False),
    Column("event", String(40), nullable=False),
    Column("body", Text, nullable=False),  # the bytes that are signed
    Column("status", String(20), nullable=False),  # pending, delivered, failed
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),  # also until when an attempt is another gateway's
    Column("error", String(300)),  # of the last attempt
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Index("ix_webhook_deliveries_due", "status", "next_at"),
    Index("ix_webhook_deliveries_webhook", "webhook_id"),
)
alert_policies = Table(
    "alert_policies",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("rule", JSON, nullable=False),
    Column("made_by", String(300), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)
incidents = Table(
    "incidents",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("subject", String(700), nullable=False),
    Column("state", String(20), nullable=False),  # open, acknowledged, closed
    Column("severity", String(20), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("policy_id", Id, nullable=False),
    Column("rule", JSON, nullable=False),  # the policy as it was when the incident opened
    Column("details", JSON, nullable=False),  # of the alert that opened it
    Column("version", Integer, nullable=False),  # each change is made to the version it saw
    Column("escalations", Integer, nullable=False),
    Column("escalates_at", Float),  # next, unless it is acknowledged before
    # null: no action; else waiting, due, starting, started, completed, failed
    Column("action", String(20)),
    Column("action_at", Float),
    Column("action_error", String(300)),
    Column("job_id", Id),
    Column("opened_at", Float, nullable=False),
    Column("alerted_at", Float, nullable=False),  # when its condition was last seen to stand
    Column("acknowledged_at", Float),
    Column("acknowledged_by", String(300)),
    Column("closed_at", Float),
    Column("closed_by", String(300)),
    Column("reason", String(1000)),
    Index(
        "ix_incidents_one_open",
        "tenant_id",
        "kind",
        "subject",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
    Index("ix_incidents_tenant_state", "tenant_id", "state"),
)
incident_events = Table(  # the history; never changed
    "incident_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("incident_id", Id, nullable=False, index=True),
    Column("change", String(40), nullable=False),
    Column("by", String(300), nullable=False),
    Column("at", Float, nullable=False),
    Column("details", JSON, nullable=False),
)
alert_cooldowns = Table(  # when an action was last begun on a target
    "alert_cooldowns",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("action", String(20), primary_key=True),
    Column("target", String(256), primary_key=True),
    Column("at", Float, nullable=False),
)
