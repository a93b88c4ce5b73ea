"""The SQL tables of drift; they belong to the room ``monitoring``."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, String, Table

from app.store.tables import Id, metadata

drift_sketches = Table(
    "drift_sketches",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("feature", String(300), primary_key=True),  # route|model|feature
    Column("window", BigInteger, primary_key=True, autoincrement=False),  # start, Unix seconds
    Column("instance", String(128), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("sketch", LargeBinary, nullable=False),  # see app/monitoring/sketches.py
    Column("kind", String(10), nullable=False, server_default="number"),
)
drift_references = Table(  # what tenants froze, from version 1 on
    "drift_references",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("since", BigInteger, nullable=False),  # Unix seconds
    Column("until", BigInteger, nullable=False),
    Column("note", String(200), nullable=False),
    Column("made_by", String(300), nullable=False),
    Column("created_at", Float, nullable=False),
)
drift_frozen = Table(
    "drift_frozen",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("feature", String(300), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),  # 0: the oldest windows
    Column("kind", String(10), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("sketch", LargeBinary, nullable=False),
)
drift_embeddings = Table(  # the newest test of each
    "drift_embeddings",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("feature", String(300), primary_key=True),
    Column("version", Integer, nullable=False),  # of the reference
    Column("until", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("value", Float, nullable=False),
    Column("p", Float, nullable=False),
    Column("at", Float, nullable=False),
)
