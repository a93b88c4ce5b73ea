"""alert policies, incidents with their history, webhooks with their outbox

Revision: 0016; follows: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.String(200), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("old_secret", sa.LargeBinary()),
        sa.Column("old_until", sa.Float()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("rotated_at", sa.Float()),
    )
    op.create_index("ix_webhooks_tenant_id", "webhooks", ["tenant_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("incident_id", sa.String(64), nullable=False),
        sa.Column("event", sa.String(40), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=False),
        sa.Column("error", sa.String(300)),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["status", "next_at"])
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["webhook_id"])
    op.create_table(
        "alert_policies",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("rule", sa.JSON(), nullable=False),
        sa.Column("made_by", sa.String(300), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )
    op.create_index("ix_alert_policies_tenant_id", "alert_policies", ["tenant_id"])
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(700), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("severity", sa.String(20), nullable=False),
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("policy_id", sa.String(64), nullable=False),
        sa.Column("rule", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("escalations", sa.Integer(), nullable=False),
        sa.Column("escalates_at", sa.Float()),
        sa.Column("action", sa.String(20)),
        sa.Column("action_at", sa.Float()),
        sa.Column("action_error", sa.String(300)),
        sa.Column("job_id", sa.String(64)),
        sa.Column("opened_at", sa.Float(), nullable=False),
        sa.Column("alerted_at", sa.Float(), nullable=False),
        sa.Column("acknowledged_at", sa.Float()),
        sa.Column("acknowledged_by", sa.String(300)),
        sa.Column("closed_at", sa.Float()),
        sa.Column("closed_by", sa.String(300)),
        sa.Column("reason", sa.String(1000)),
    )
    open_ones = sa.text("closed_at IS NULL")
    op.create_index(
        "ix_incidents_one_open",
        "incidents",
        ["tenant_id", "kind", "subject"],
        unique=True,
        sqlite_where=open_ones,
        postgresql_where=open_ones,
    )
    op.create_index("ix_incidents_tenant_state", "incidents", ["tenant_id", "state"])
    op.create_table(
        "incident_events",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("incident_id", sa.String(64), nullable=False),
        sa.Column("change", sa.String(40), nullable=False),
        sa.Column("by", sa.String(300), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_index("ix_incident_events_incident_id", "incident_events", ["incident_id"])
    op.create_table(
        "alert_cooldowns",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("action", sa.String(20), primary_key=True),
        sa.Column("target", sa.String(256), primary_key=True),
        sa.Column("at", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    for table in (
        "alert_cooldowns",
        "incident_events",
        "incidents",
        "alert_policies",
        "webhook_deliveries",
        "webhooks",
    ):
        op.drop_table(table)
