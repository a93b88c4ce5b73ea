"""The migrations and the tables say the same."""

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

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


def test_a_database_of_an_older_version_is_brought_to_the_newest(database_url: str) -> None:
    db = Database(database_url)
    migrate(db, "0016")
    migrate(db)
    with db.sync_engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    db.sync_engine.dispose()


def test_an_up_to_date_database_is_not_migrated_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database(database_url)
    migrate(db)
    ran: list[str] = []
    monkeypatch.setattr(command, "upgrade", lambda config, revision: ran.append(revision))
    migrate(db)
    assert ran == []
    with db.sync_engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    migrate(db)
    assert ran == ["head"]
    db.sync_engine.dispose()
