"""the audit log's bodies apart, checkpoints, statements of removal, keys, retention, erasures

Records of before keep the bodies that are part of what was hashed; retention and erasure write
such a record anew and sign for it.

Revision: 0013; follows: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency", sa.Column("caller", sa.String(300)))
    op.create_index("ix_idempotency_caller", "idempotency", ["caller"])
    op.add_column(
        "audit_heads",
        sa.Column("inline_until", sa.BigInteger(), nullable=False, server_default="0"),
    )
    op.execute("UPDATE audit_heads SET inline_until = seq")
    op.create_table(
        "audit_bodies",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("bodies", sa.Text(), nullable=False),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("signature", sa.String(88), nullable=False),
    )
    op.create_table(
        "audit_tombstones",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("data_class", sa.String(20), nullable=False),
        sa.Column("from_seq", sa.BigInteger(), nullable=False),
        sa.Column("to_seq", sa.BigInteger(), nullable=False),
        sa.Column("hash_before", sa.String(64), nullable=False),
        sa.Column("hash_after", sa.String(64), nullable=False),
        sa.Column("record_sha256", sa.String(64)),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("signature", sa.String(88), nullable=False),
    )
    op.create_index("ix_audit_tombstones_range", "audit_tombstones", ["tenant_id", "from_seq"])
    op.create_table(
        "audit_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("public_key", sa.String(44), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_table(
        "audit_endorsements",
        sa.Column("key_id", sa.String(16), primary_key=True),
        sa.Column("endorsed", sa.String(16), primary_key=True),
        sa.Column("public_key", sa.String(44), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("signature", sa.String(88), nullable=False),
    )
    op.create_table(
        "audit_retention",
        sa.Column("tenant_id", sa.String(64), primary_key=True),
        sa.Column("records_days", sa.Float()),
        sa.Column("bodies_days", sa.Float()),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "audit_erasures",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("user", sa.String(256)),
        sa.Column("subject", sa.String(300)),
        sa.Column("named_sha256", sa.String(64), nullable=False),
        sa.Column("report", sa.JSON()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
    )
    op.create_index("ix_audit_erasures_tenant_id", "audit_erasures", ["tenant_id"])


def downgrade() -> None:
    for table in (
        "audit_erasures",
        "audit_retention",
        "audit_endorsements",
        "audit_keys",
        "audit_tombstones",
        "audit_checkpoints",
        "audit_bodies",
    ):
        op.drop_table(table)
    op.drop_column("audit_heads", "inline_until")
    op.drop_index("ix_idempotency_caller", "idempotency")
    op.drop_column("idempotency", "caller")
