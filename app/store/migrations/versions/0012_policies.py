"""guardrail policies as versioned documents, and to whom they are assigned

Revision: 0012; follows: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(12), nullable=False),
    )
    op.create_table(
        "policy_versions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(12), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("made_by", sa.String(300), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.UniqueConstraint(
            "tenant_id",
            "name",
            "number",
            name=op.f("uq_policy_versions_tenant_id_name_number"),
        ),
    )
    op.create_table(
        "policy_assignments",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("route", sa.String(256), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("policy", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("version", sa.String(12)),
        sa.Column("mandatory", sa.Boolean(), nullable=False),
        sa.Column("made_by", sa.String(300), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.UniqueConstraint(
            "tenant_id",
            "route",
            "mode",
            name=op.f("uq_policy_assignments_tenant_id_route_mode"),
        ),
    )


def downgrade() -> None:
    op.drop_table("policy_assignments")
    op.drop_table("policy_versions")
    op.drop_table("policies")
