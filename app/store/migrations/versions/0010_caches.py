"""which models' replies are given again

Revision: 0010; follows: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_caches",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("ttl_s", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float()),
        sa.Column("since", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("model_caches")
