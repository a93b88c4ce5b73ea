"""the encrypted pseudonyms of kept responses, and until when they are kept

Revision: 0014; follows: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("responses", sa.Column("pseudonyms", sa.LargeBinary()))
    op.add_column("responses", sa.Column("pseudonyms_until", sa.Float()))


def downgrade() -> None:
    op.drop_column("responses", "pseudonyms_until")
    op.drop_column("responses", "pseudonyms")
