"""kinds of drift sketches, frozen references, tests of embeddings

Revision: 0015; follows: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "drift_sketches",
        sa.Column("kind", sa.String(10), nullable=False, server_default="number"),
    )
    # refusals were numbers, and are yes or no from now on
    op.execute("DELETE FROM drift_sketches WHERE feature LIKE '%|refusal'")
    op.create_table(
        "drift_references",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(200), nullable=False),
        sa.Column("made_by", sa.String(300), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "drift_frozen",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("feature", sa.String(300), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("sketch", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "drift_embeddings",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("feature", sa.String(300), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("p", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    for table in ("drift_embeddings", "drift_frozen", "drift_references"):
        op.drop_table(table)
    op.drop_column("drift_sketches", "kind")
