"""components and tags of what calls cost, tags of keys, budgets, storage charged by the day

Audit records of before have neither costs nor tags; their columns stay empty, as what was hashed.

Revision: 0017; follows: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit", sa.Column("costs", sa.Text()))
    op.add_column("audit", sa.Column("tags", sa.Text()))
    op.add_column("api_keys", sa.Column("tags", sa.JSON()))
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("amount_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("period", sa.String(5), nullable=False),
        sa.Column("stop", sa.Boolean(), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("model", sa.String(200)),
        sa.Column("route", sa.String(200)),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("by_platform", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_budgets_tenant_id_name")),
    )
    op.create_table(
        "budget_alerts",
        sa.Column("budget_id", sa.String(64), primary_key=True),
        sa.Column("period_start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("level", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("spent_nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("told_at", sa.Float()),
    )
    op.create_index("ix_budget_alerts_told_at", "budget_alerts", ["told_at"])
    op.create_table(
        "storage_charges",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("day", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("call_id", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    for table in ("storage_charges", "budget_alerts", "budgets"):
        op.drop_table(table)
    op.drop_column("api_keys", "tags")
    op.drop_column("audit", "tags")
    op.drop_column("audit", "costs")
