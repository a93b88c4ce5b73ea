"""Follows the rows of a query on a database, which it only reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    Engine,
    case,
    column,
    create_engine,
    event,
    null,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from app.retrieval.connectors import rows
from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.batches import AT_A_STEP, stepped
from app.retrieval.connectors.settings import SqlSettings
from app.settings import normal_url

Key = str | int | UUID
CONNECT_S = 10  # seconds


class SqlSource:
    """Rows by the text of their key; each is a Markdown document.

    The query stands within another one, which asks for the columns that are needed, and for
    one row when that is read.
    """

    def __init__(self, settings: SqlSettings) -> None:
        self._columns = settings
        self._engine = _engine(settings)
        # a colon means itself, and a comment at the end ends before the bracket
        query = settings.query.strip().rstrip(";").replace(":", r"\:") + "\n"
        named: list[ColumnClause[Any]] = [column(name) for name in settings.columns]
        self._rows = text(query).columns(*named).subquery("source")
        self._key_type: type[Key] | None = None

    def items(self, part: Part) -> AsyncIterator[Item]:
        """Every row whose key belongs to the part.

        Raises:
            SourceError: the query fails, or a key is empty, of a wrong type or there twice.
        """
        return stepped(self._list(part))

    def _list(self, part: Part) -> Iterator[Item]:
        settings, seen = self._columns, set[int]()
        with self._reading() as connection:
            found = connection.execution_options(yield_per=AT_A_STEP).execute(
                select(*self._listed_columns())
            )
            for row in found.mappings():
                value = row[settings.key_column]
                self._key_type = self._checked(value, self._key_type)
                key = str(value)
                if hash(key) in seen:  # 64 bits each: the keys of a million rows are much more
                    raise SourceError(
                        f"The column '{settings.key_column}' gives a key twice. Let the query "
                        "give each key once, or name another key_column."
                    )
                seen.add(hash(key))
                if part.holds(key):
                    yield Item(
                        key,
                        rows.fingerprint(row, settings),
                        rows.filename(key, row, settings),
                        rows.attributes(row, settings),
                        rows.access(row, settings),
                    )

    def _listed_columns(self) -> Sequence[ColumnElement[Any]]:
        """All columns; texts only of the rows that do not say when they were changed."""
        settings, c = self._columns, self._rows.c
        listed: list[ColumnElement[Any]] = []
        for name in settings.columns:
            if name == settings.text_column and settings.updated_column is not None:
                unknown = c[settings.updated_column].is_(None)
                listed.append(case((unknown, c[name]), else_=null()).label(name))
            else:
                listed.append(c[name])
        return listed

    def _checked(self, value: object, before: type[Key] | None) -> type[Key]:
        """The type of a key, which must be that of the keys before."""
        kind, name = rows.key_type(value), self._columns.key_column
        if kind is None or value == "":
            raise SourceError(
                f"The column '{name}' gives a key that is empty or neither text, a whole number "
                "nor a UUID. Leave such rows out of the query, or cast the column to text there."
            )
        if before not in (None, kind):
            raise SourceError(
                f"The column '{name}' gives keys of different types. Cast it to text in the query."
            )
        return kind

    async def fetch(self, item: Item, into: IO[bytes], max_bytes: int) -> None:
        """Write a row as Markdown.

        Raises:
            ItemUnavailable: it is gone, has no text, is too large, or has other permissions now.
            SourceError: the query fails, or gives several rows of this key.
        """
        document = await asyncio.to_thread(self._document, item)
        if len(document) > max_bytes:
            raise ItemUnavailable(f"Row '{item.key}' has more than {max_bytes} bytes of text.")
        into.write(document)

    def _document(self, item: Item) -> bytes:
        settings, gone = self._columns, ItemUnavailable(f"Row '{item.key}' is gone.")
        with self._reading() as connection:
            key_column = self._rows.c[settings.key_column]
            if self._key_type is None:
                first = connection.scalar(select(key_column).limit(1))
                if first is None:
                    raise gone
                self._key_type = self._checked(first, None)
            try:
                key = self._key_type(item.key)
            except ValueError:
                raise gone from None
            wanted = select(*self._rows.c).where(key_column == key).limit(2)
            found = connection.execute(wanted).mappings().all()
        # a database may compare without regard to capitals
        found = [row for row in found if str(row[settings.key_column]) == item.key]
        if not found:
            raise gone
        if len(found) > 1:
            raise SourceError(f"The column '{settings.key_column}' gives a key twice.")
        if rows.access(found[0], settings) != item.access:
            raise ItemUnavailable(f"Row '{item.key}' has other permissions by now.")
        document = rows.markdown(found[0], settings)
        if document is None:
            raise ItemUnavailable(f"Row '{item.key}' has no text.")
        return document

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection that cannot write, where the database has such a thing."""
        database = self._engine.url.database or ""
        if self._engine.dialect.name == "sqlite" and not Path(database).is_file():
            raise SourceError("The SQLite file of this source is missing. Correct `url`.")
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            state = getattr(getattr(error, "orig", None), "sqlstate", None)
            raise SourceError(
                "The database of this source cannot be read now, or refuses the query. Check "
                "`url`, `query` and the columns that it must give: "
                f"{', '.join(self._columns.columns)} ({state or type(error).__name__})."
            ) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._engine.dispose)


def _engine(settings: SqlSettings) -> Engine:
    try:
        url = make_url(normal_url(settings.url.get_secret_value(), Path()))
        wait = {"connect_timeout": CONNECT_S} if url.get_backend_name() == "postgresql" else {}
        engine = create_engine(url, pool_size=2, pool_pre_ping=True, connect_args=wait)
    except (SQLAlchemyError, ImportError, TypeError) as error:
        raise SourceError(
            "The `url` of this source is no SQLAlchemy URL, or its driver is not installed. "
            "Write it as postgresql://user:password@host/database."
        ) from error
    if engine.dialect.is_async:
        raise SourceError("The `url` of this source names an async driver. Name one without.")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _only_query)
        return engine
    if engine.dialect.name == "postgresql":
        return engine.execution_options(postgresql_readonly=True)
    return engine


def _only_query(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")
