"""candidates of a model: roles of servers, shares, and what their calls measured; hedged calls

Revision: 0011; follows: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "deployments",
        sa.Column("role", sa.String(16), nullable=False, server_default="stable"),
    )
    op.add_column("model_fallbacks", sa.Column("hedge_ms", sa.Integer()))
    op.create_table(
        "model_rollouts",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("canary_share", sa.Float(), nullable=False),
        sa.Column("shadow_share", sa.Float(), nullable=False),
        sa.Column("price", sa.JSON()),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("previous", sa.JSON()),
    )
    op.create_table(
        "rollout_samples",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("deployment", sa.String(256), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("first_ms", sa.Float()),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("cost_usd", sa.Float(), nullable=False),
        sa.Column("pair", sa.String(64)),
        sa.Column("equal", sa.Boolean()),
        sa.Column("token_f1", sa.Float()),
        sa.Column("same_beginning", sa.Float()),
        sa.Column("cosine", sa.Float()),
    )
    op.create_index("ix_rollout_samples_model_at", "rollout_samples", ["model", "at"])


def downgrade() -> None:
    op.drop_table("rollout_samples")
    op.drop_table("model_rollouts")
    op.drop_column("model_fallbacks", "hedge_ms")
    op.drop_column("deployments", "role")
