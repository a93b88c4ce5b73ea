"""a vector store may have several builds of its index

Revision: 0004; follows: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _store() -> sa.Column:  # type: ignore[type-arg]
    store = sa.ForeignKey("vector_stores.id")
    return sa.Column("vector_store_id", sa.String(64), store, nullable=False)


def upgrade() -> None:
    for table in ("vector_stores", "segments"):
        build = sa.Column("build", sa.String(64), nullable=False, server_default="original")
        op.add_column(table, build)
    op.add_column("vector_stores", sa.Column("embedding_version", sa.String(64)))
    op.create_table(
        "index_builds",
        _store(),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("engine", sa.String(20), nullable=False),
        sa.Column("embedding_model", sa.String(200), nullable=False),
        sa.Column("embedding_version", sa.String(64)),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("job_id", sa.String(64)),
        sa.Column("passages", sa.BigInteger(), nullable=False),
        sa.Column("recall", sa.Float()),
        sa.Column("error", sa.JSON()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ready_at", sa.Float()),
        sa.PrimaryKeyConstraint("vector_store_id", "id"),
    )
    op.create_table(
        "build_files",
        _store(),
        sa.Column("build", sa.String(64), nullable=False),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("vector_store_id", "build", "file_id"),
    )


def downgrade() -> None:
    op.drop_table("build_files")
    op.drop_table("index_builds")
    with op.batch_alter_table("segments", schema=None) as batch_op:
        batch_op.drop_column("build")
    with op.batch_alter_table("vector_stores", schema=None) as batch_op:
        batch_op.drop_column("embedding_version")
        batch_op.drop_column("build")
