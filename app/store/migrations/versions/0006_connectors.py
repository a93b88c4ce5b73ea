"""connectors follow sources; a file of a vector store may take another's place

Revision: 0006; follows: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("vector_store_files", sa.Column("replaces", sa.String(64)))
    op.create_table(
        "connectors",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column(
            "vector_store_id", sa.String(64), sa.ForeignKey("vector_stores.id"), nullable=False
        ),
        sa.Column("source", sa.String(100), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("include", sa.JSON(), nullable=False),
        sa.Column("exclude", sa.JSON(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("access", sa.JSON()),
        sa.Column("chunking", sa.JSON(), nullable=False),
        sa.Column("owner", sa.String(300), nullable=False),
        sa.Column("freshness_s", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("began_at", sa.Float()),
        sa.Column("ended_at", sa.Float()),
        sa.Column("whole_at", sa.Float()),
        sa.Column("next_sync_at", sa.Float()),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("counts", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("allow_removal", sa.Boolean(), nullable=False),
        sa.Column("listing", sa.BigInteger(), nullable=False),
        sa.Column("listed", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("deleted_at", sa.Float()),
        sa.Column("keep_documents", sa.Boolean(), nullable=False),
    )
    for name in ("tenant_id", "vector_store_id", "next_sync_at"):
        op.create_index(f"ix_connectors_{name}", "connectors", [name])
    op.create_table(
        "connector_items",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("connector_id", sa.String(64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("filename", sa.String(500), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("access", sa.JSON()),
        sa.Column("relabel", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.Column("file_id", sa.String(64)),
        sa.Column("next_file_id", sa.String(64)),
        sa.Column("next_fingerprint", sa.Text()),
        sa.Column("listing", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(20)),
        sa.Column("done_in", sa.BigInteger()),
    )
    op.create_index(
        "ix_connector_items_key", "connector_items", ["connector_id", "key_hash"], unique=True
    )
    op.create_index("ix_connector_items_status", "connector_items", ["connector_id", "status"])
    op.create_index("ix_connector_items_next_file_id", "connector_items", ["next_file_id"])


def downgrade() -> None:
    op.drop_table("connector_items")
    op.drop_table("connectors")
    with op.batch_alter_table("vector_store_files", schema=None) as batch_op:
        batch_op.drop_column("replaces")
