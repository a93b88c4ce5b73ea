"""budgets and open streams of a key, prices of a model, how many calls a model server is sent

Revision: 0009; follows: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("max_streams", sa.Integer()))
    op.add_column("api_keys", sa.Column("budget_usd_per_day", sa.Float()))
    op.add_column("deployments", sa.Column("max_concurrent", sa.Integer()))
    op.create_table(
        "model_prices",
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("price", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("model_prices")
    op.drop_column("deployments", "max_concurrent")
    op.drop_column("api_keys", "budget_usd_per_day")
    op.drop_column("api_keys", "max_streams")
