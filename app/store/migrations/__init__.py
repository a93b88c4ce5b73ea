"""Alembic migrations of the schema in ``app.store.models``."""
