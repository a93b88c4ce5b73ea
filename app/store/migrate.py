"""Brings the database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from app.store.db import Database

ADVISORY_LOCK = 0x0571A21  # any constant; replicas that start together migrate one by one


def migrate(db: Database, revision: str = "head") -> None:
    """Run the pending migrations; blocking, safe when several gateways start at once."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with db.sync_engine.connect() as connection:
        connection = connection.execution_options(ostiary_write=True)
        with connection.begin():
            if not db.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
