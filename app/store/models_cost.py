"""The SQL tables of money beside audit records: budgets, what was told of them, storage."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    String,
    Table,
    UniqueConstraint,
)

from app.store.tables import Id, metadata

budgets = Table(
    "budgets",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant_id", Id, nullable=False),
    Column("name", String(64), nullable=False),
    Column("amount_nano_usd", BigInteger, nullable=False),
    Column("period", String(5), nullable=False),  # day, week, month; UTC
    Column("stop", Boolean, nullable=False),
    Column("key_id", Id),  # null here and below: of any
    Column("model", String(200)),
    Column("route", String(200)),
    Column("tags", JSON, nullable=False),  # {} or those that a call must have
    Column("by_platform", Boolean, nullable=False),  # and so not for the tenant to change
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("tenant_id", "name"),
)
budget_alerts = Table(  # once a period and level
    "budget_alerts",
    metadata,
    Column("budget_id", Id, primary_key=True),
    Column("period_start", BigInteger, primary_key=True, autoincrement=False),  # Unix seconds
    Column("level", Integer, primary_key=True, autoincrement=False),  # percent
    Column("tenant_id", Id, nullable=False),
    Column("spent_nano_usd", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Column("told_at", Float, index=True),  # null: not handed on yet
)
storage_charges = Table(  # written with the audit record of a day's storage, so there is one
    "storage_charges",
    metadata,
    Column("tenant_id", Id, primary_key=True),
    Column("day", BigInteger, primary_key=True, autoincrement=False),  # since 1970, UTC
    Column("call_id", Id, nullable=False),
)
