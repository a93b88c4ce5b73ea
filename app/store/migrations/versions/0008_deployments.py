"""model servers that were added while the gateway ran, and what answers for a model

Revision: 0008; follows: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("url", sa.Text()),
        sa.Column("served", sa.String(256)),
        sa.Column("api_key_env", sa.String(128)),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "model_fallbacks",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("fallbacks", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("model_fallbacks")
    op.drop_table("deployments")
