"""The SQL tables of the audit log beside its records: bodies, proofs, retention, erasures."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Integer, String, Table, Text

from app.store.tables import Id, metadata

audit_bodies = Table(  # apart from their records, which hold the hash: they can go before these
    "audit_bodies",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("bodies", Text, nullable=False),  # canonical JSON with a salt, the bytes hashed
)
audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),  # of the record with this seq
    Column("previous", String(64), nullable=False),  # SHA-256 of the checkpoint before
    Column("at", Float, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("signature", String(88), nullable=False),  # Ed25519, base64
)
audit_tombstones = Table(  # signed statements of what was removed
    "audit_tombstones",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("data_class", String(20), nullable=False),  # records, bodies
    Column("from_seq", BigInteger, nullable=False),
    Column("to_seq", BigInteger, nullable=False),
    Column("hash_before", String(64), nullable=False),  # of the record before from_seq
    Column("hash_after", String(64), nullable=False),  # of the record to_seq
    # of a record that held its bodies and was written anew without them
    Column("record_sha256", String(64)),
    Column("reason", String(200), nullable=False),
    Column("at", Float, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("signature", String(88), nullable=False),
    Index("ix_audit_tombstones_range", "tenant_id", "from_seq"),
)
audit_keys = Table(  # public keys that have signed here
    "audit_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("public_key", String(44), nullable=False),  # 32 bytes, base64
    Column("at", Float, nullable=False),
)
audit_endorsements = Table(  # who trusts one key trusts those that it has signed
    "audit_endorsements",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("endorsed", String(16), primary_key=True),
    Column("public_key", String(44), nullable=False),  # of the endorsed one
    Column("at", Float, nullable=False),
    Column("signature", String(88), nullable=False),
)
audit_retention = Table(  # of a tenant, in place of the settings; null: for ever
    "audit_retention",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("records_days", Float),
    Column("bodies_days", Float),
    Column("updated_at", Float, nullable=False),
)
audit_erasures = Table(
    "audit_erasures",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False, index=True),
    Column("job_id", Id, nullable=False),
    Column("user", String(256)),  # both gone when it is over
    Column("subject", String(300)),
    Column("named_sha256", String(64), nullable=False),  # salted with the id
    Column("report", JSON(none_as_null=True)),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
)
