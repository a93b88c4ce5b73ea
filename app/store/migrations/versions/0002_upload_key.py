"""files remember the keyed request that made them

Revision: 0002; follows: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("upload_key", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_files_upload_key"), ["upload_key"], unique=True)


def downgrade() -> None:
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_files_upload_key"))
        batch_op.drop_column("upload_key")
