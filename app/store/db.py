"""The SQL database: SQLite in WAL mode or PostgreSQL, with one way to read and one to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    Select,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import BadRequest

READERS = 4  # threads in which SQLite is read


class Database:
    """Holds an async engine for the services and a sync one for the audit thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self.engine: AsyncEngine
        self.sync_engine: Engine
        if self.is_sqlite:
            async_url = url.replace("sqlite://", "sqlite+aiosqlite://", 1)
            self.engine = create_async_engine(async_url, pool_size=8, max_overflow=8)
            self.sync_engine = create_engine(url)
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ostiary-sql")
            for engine in (self.engine.sync_engine, self.sync_engine):
                event.listen(engine, "connect", _prepare_sqlite)
                event.listen(engine, "begin", _begin_sqlite)
        else:
            self.engine = create_async_engine(url, pool_size=10, pool_pre_ping=True)
            self.sync_engine = create_engine(url, pool_size=4, pool_pre_ping=True)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a read transaction."""
        with _storable():
            async with self.engine.connect() as connection:
                yield connection

    async def rows(
        self, query: Select[Any], values: Mapping[str, Any] | None = None
    ) -> Sequence[RowMapping]:
        """All rows of one query, for what a call waits for.

        A query that is made once, with ``bindparam`` where each call has values of its own, is
        run in half the time of one that is made for the call.

        SQLite is read in one step to a thread. Through its async driver each of six steps is
        one, and a query by key takes three times as long.
        """
        with _storable():
            if self.is_sqlite:
                loop = asyncio.get_running_loop()
                read = partial(self._rows, query, values)
                return await loop.run_in_executor(self._readers, read)
            async with self.engine.connect() as connection:
                found = await connection.execute(query, values)
                rows: Sequence[RowMapping] = found.mappings().all()
                return rows

    def _rows(self, query: Select[Any], values: Mapping[str, Any] | None) -> Sequence[RowMapping]:
        with self.sync_engine.connect() as connection:
            rows: Sequence[RowMapping] = connection.execute(query, values).mappings().all()
            return rows

    async def one_or_none(
        self, query: Select[Any], values: Mapping[str, Any] | None = None
    ) -> RowMapping | None:
        """The only row of a query, None where there is none; see :meth:`rows`."""
        found = await self.rows(query, values)
        if len(found) > 1:
            raise AssertionError("a query for one row found several")
        return found[0] if found else None

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a write transaction, committed when the block ends well."""
        with _storable():
            async with self.engine.connect() as connection:
                await connection.execution_options(ostiary_write=True)
                async with connection.begin():
                    yield connection

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An insert of this database's dialect, which may be told what to do on a conflict."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    async def ping(self) -> None:
        """Raise what the driver raises when the database does not answer."""
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Give all connections back."""
        await self.engine.dispose()
        if self.is_sqlite:
            self._readers.shutdown()
        self.sync_engine.dispose()


@contextmanager
def _storable() -> Iterator[None]:
    """Refuse what no column can hold; the two databases differ in what that is."""
    try:
        yield
    except (DataError, StatementError, UnicodeEncodeError, OverflowError) as error:
        cause = error.orig if isinstance(error, StatementError) else error
        if isinstance(error, DataError) or isinstance(cause, UnicodeEncodeError | OverflowError):
            raise BadRequest(
                "The request holds a value that cannot be stored: a NUL character, a broken "
                "character, a number out of range or a text that is too long. Correct it and "
                "send the request again."
            ) from error
        raise


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    # FULL: in WAL mode NORMAL does not sync at commit, and we acknowledge after commit.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "busy_timeout=30000",
        "foreign_keys=ON",
        "cache_size=-32000",
        "wal_autocheckpoint=4000",  # pages; each checkpoint makes a call wait for two syncs
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that later writes can fail as busy at once; take the lock first.
    write = connection.get_execution_options().get("ostiary_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
