"""files have access lists, keys say for whom they speak, files and responses whose they are

Revision: 0005; follows: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ADDED: tuple[tuple[str, str, Any], ...] = (
    ("api_keys", "user", sa.String(256)),
    ("api_keys", "groups", sa.JSON()),
    ("api_keys", "first_id", sa.String(64)),
    ("files", "owner", sa.String(300)),
    ("vector_store_files", "access", sa.JSON()),
    ("responses", "owner", sa.String(300)),
)


def upgrade() -> None:
    for table, name, kind in ADDED:
        op.add_column(table, sa.Column(name, kind))


def downgrade() -> None:
    for table, name, _ in ADDED:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(name)
