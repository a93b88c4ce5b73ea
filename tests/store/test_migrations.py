"""The migrations and the tables say the same."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import metadata


def test_migrations_lead_to_the_tables_of_the_code(database_url: str) -> None:
    db = Database(database_url)
    migrate(db)
    with db.sync_engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    db.sync_engine.dispose()


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    from sqlalchemy import inspect

    db = Database(database_url)
    migrate(db)
    migrate(db)
    tables = set(inspect(db.sync_engine).get_table_names())
    assert tables == set(metadata.tables) | {"alembic_version"}
    db.sync_engine.dispose()
