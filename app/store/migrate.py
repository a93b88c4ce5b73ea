"""Brings the database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from app.store.db import Database

MIGRATIONS = Path(__file__).parent / "migrations"
ADVISORY_LOCK = 0x0571A21  # any constant; replicas that start together migrate one by one


def migrate(db: Database, revision: str = "head") -> None:
    """Run the pending migrations; blocking, safe when several gateways start at once."""
    if revision == "head" and _is_newest(db):
        return  # Alembic takes a third of a second to load, and would do nothing
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with db.sync_engine.connect() as connection:
        connection = connection.execution_options(ostiary_write=True)
        with connection.begin():
            if not db.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            config.attributes["connection"] = connection
            command.upgrade(config, revision)


def _is_newest(db: Database) -> bool:
    """Whether the database has the newest revision: files begin with theirs."""
    newest = max(path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:4]
    with db.sync_engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return list(found) == [newest]
