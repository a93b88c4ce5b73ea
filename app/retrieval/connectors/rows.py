"""Makes a document of a row: its Markdown, name, fingerprint, attributes and access list."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from app.retrieval.access import AccessList
from app.retrieval.connectors.base import NO_NAME
from app.retrieval.connectors.readers import access_from
from app.retrieval.connectors.settings import SqlSettings
from app.retrieval.types import LONGEST_ATTRIBUTE, AttributeValue

Row = Mapping[Any, Any]
_LONGEST_NAME = 120  # characters of a title in a filename


def markdown(row: Row, columns: SqlSettings) -> bytes | None:
    """The document: the title as its heading, then the text; None: the row has no text."""
    text, title = plain(row[columns.text_column]), title_of(row, columns)
    if not text.strip():
        return None
    document = f"# {title}\n\n{text}" if title else text
    return document.encode("utf-8", "replace")


def title_of(row: Row, columns: SqlSettings) -> str:
    """The title in one line; empty: none."""
    return " ".join(plain(row[columns.title_column]).split()) if columns.title_column else ""


def plain(value: object) -> str:
    """A value of a column as text; what is made of several values is JSON."""
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, list | tuple | dict):
        return orjson.dumps(value, default=str).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)


def filename(key: str, row: Row, columns: SqlSettings) -> str:
    """The title, else the key, as the name of a Markdown file."""
    name = NO_NAME.sub(" ", title_of(row, columns) or key).strip()
    return f"{name[:_LONGEST_NAME].strip() or 'row'}.md"


def fingerprint(row: Row, columns: SqlSettings) -> str:
    """When the row was changed, and its title; without that time, its title and text."""
    updated = row[columns.updated_column] if columns.updated_column else None
    text = row[columns.text_column] if updated is None else None
    parts = [type(updated).__name__, plain(updated), title_of(row, columns), plain(text)]
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "replace")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def attributes(row: Row, columns: SqlSettings) -> dict[str, AttributeValue]:
    """The values of the attribute columns that are there; longer texts are cut."""
    found = {name: _attribute(row[name]) for name in columns.attribute_columns}
    return {name: value for name, value in found.items() if value is not None}


def _attribute(value: object) -> AttributeValue | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float | Decimal):
        number = float(value)
        return number if math.isfinite(number) else None
    return plain(value)[:LONGEST_ATTRIBUTE]


def access(row: Row, columns: SqlSettings) -> AccessList | None:
    """Who may see the row; None: no column says so. Where those that do are empty: nobody."""
    users, groups = columns.users_column, columns.groups_column
    if users is None and groups is None:
        return None
    return access_from(row[users] if users else None, row[groups] if groups else None)


def key_type(value: object) -> type[str] | type[int] | type[UUID] | None:
    """The type of a key; None: it is none that a row can be asked for by."""
    for kind in (str, int, UUID):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind
    return None
