"""segments say how they are searched; removals and engines are noted

Revision: 0003; follows: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _added() -> list[sa.Column]:  # type: ignore[type-arg]
    return [
        sa.Column("recipe", sa.String(20), nullable=False, server_default="flat"),
        sa.Column("index_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("index_sha256", sa.String(64), nullable=False, server_default=""),
        sa.Column("effort", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("recall", sa.Float(), nullable=False, server_default="1"),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="0"),
    ]


def upgrade() -> None:
    for column in _added():
        op.add_column("segments", column)
    op.add_column(
        "vector_stores",
        sa.Column("engine", sa.String(20), nullable=False, server_default="faiss"),
    )
    op.create_table(
        "removals",
        sa.Column("vector_store_id", sa.String(64), sa.ForeignKey("vector_stores.id")),
        sa.Column("file_id", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("vector_store_id", "file_id", "version"),
    )


def downgrade() -> None:
    op.drop_table("removals")
    with op.batch_alter_table("vector_stores", schema=None) as batch_op:
        batch_op.drop_column("engine")
    with op.batch_alter_table("segments", schema=None) as batch_op:
        for column in _added():
            batch_op.drop_column(column.name)
