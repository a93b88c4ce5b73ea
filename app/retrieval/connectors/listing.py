"""Notes what a source lists, and tells what is new, changed or gone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict
from app.ids import new_id
from app.retrieval.connectors.base import Item, ItemUnavailable, Source
from app.retrieval.connectors.connector import Connector
from app.store.db import Database
from app.store.models import connector_items, connectors, vector_store_files

BATCH = 500  # documents noted in one transaction
FEW = 10  # documents of which all may go at once
_ITEMS = connector_items.c


async def note_listing(db: Database, connector: Connector, source: Source) -> int:
    """List a source to its end and note what differs; returns the number of the listing.

    A listing that was cut has no end, so nothing is taken for removed by it; the next attempt
    is another listing.

    Raises:
        SourceError: the source cannot be listed to its end.
        Conflict: more than half of the known documents are not in it, and that was not allowed.
    """
    async with db.write() as connection:
        number = await connection.scalar(
            update(connectors)
            .where(connectors.c.id == connector.id)
            .values(listing=connectors.c.listing + 1)
            .returning(connectors.c.listing)
        )
    if number is None:
        return 0  # deleted meanwhile
    batch: list[Item] = []
    async for item in source.items(connector.part):
        batch.append(item)
        if len(batch) == BATCH:
            await _note(db, connector, number, batch)
            batch = []
    await _note(db, connector, number, batch)
    async with db.write() as connection:
        await _require_most(connection, connector, number)
        await _fetch_lost_files_anew(connection, connector)
        await connection.execute(
            update(connectors).where(connectors.c.id == connector.id).values(listed=number)
        )
    return int(number)


async def _note(db: Database, connector: Connector, number: int, batch: Sequence[Item]) -> None:
    listed = {_hash(item.key): item for item in batch}
    mine = _ITEMS.connector_id == connector.id
    query = select(connector_items).where(mine, _ITEMS.key_hash.in_(list(listed)))
    new: list[dict[str, Any]] = []
    same: list[str] = []
    async with db.write() as connection:
        known = {r["key_hash"]: r for r in (await connection.execute(query)).mappings()}
        for key_hash, item in listed.items():
            row = known.get(key_hash)
            if row is None:
                new.append(_first(connector, number, key_hash, item))
                continue
            changes = _changes(row, item)
            if not changes:
                same.append(row["id"])
                continue
            await connection.execute(
                update(connector_items)
                .where(_ITEMS.id == row["id"])
                .values(**changes, listing=number)
            )
        if same:
            await connection.execute(
                update(connector_items).where(_ITEMS.id.in_(same)).values(listing=number)
            )
        if new:
            await connection.execute(insert(connector_items), new)


def _first(connector: Connector, number: int, key_hash: str, item: Item) -> dict[str, Any]:
    """The row of a document that was not known."""
    key, readable = _storable(item.key), item.key == _storable(item.key)
    error = None
    if not readable:
        error = {
            "code": "unusable_key",
            "message": "The name of this document is no Unicode text. Rename it in the source.",
        }
    return {
        "id": new_id("ci_"),
        "connector_id": connector.id,
        "key": key,
        "key_hash": key_hash,
        **_about(item),
        "relabel": False,
        "status": "pending" if readable else "failed",
        "error": error,
        "listing": number,
    }


def _about(item: Item) -> dict[str, Any]:
    return {
        "fingerprint": _storable(item.fingerprint),
        "filename": _storable(item.filename)[:500],
        "attributes": {
            _storable(name): _storable(value) if isinstance(value, str) else value
            for name, value in item.attributes.items()
        },
        "access": None if item.access is None else item.access.stored(),
    }


def _changes(row: Any, item: Item) -> dict[str, Any]:
    """What differs from the row of a known document."""
    about = _about(item)
    changes = {name: value for name, value in about.items() if row[name] != value}
    if "access" in changes or "attributes" in changes:
        changes["relabel"] = True
    failed = row["status"] == "failed"
    if row["key"] != item.key:
        return changes  # an unusable key: nothing can be fetched by it
    if "fingerprint" in changes or "filename" in changes:
        changes |= {"status": "pending", "error": None}
    elif failed and (row["error"] or {}).get("code") == ItemUnavailable.code:
        changes["status"] = "pending"
    return changes


async def _require_most(connection: AsyncConnection, connector: Connector, number: int) -> None:
    """Refuse a listing in which most of what is known is missing: a disk may not be mounted."""
    gone = case((_ITEMS.listing != number, 1), else_=0)
    counted = select(func.count(), func.coalesce(func.sum(gone), 0)).where(
        _ITEMS.connector_id == connector.id, _ITEMS.file_id.is_not(None)
    )
    known, missing = (await connection.execute(counted)).one()
    if known >= FEW and missing * 2 > known and not connector.allow_removal:
        raise Conflict(
            f"The source does not list {missing} of {known} known documents, so none was "
            'removed. If they are really gone, send {"allow_removal": true} to POST '
            "/v1/vector_stores/{vector_store_id}/connectors/{connector_id}/sync; else mend the "
            "source.",
            code="removal_refused",
        )


async def _fetch_lost_files_anew(connection: AsyncConnection, connector: Connector) -> None:
    """Bring in anew the documents whose files somebody deleted or detached here.

    Their ids stay noted: what is left of such a file goes when the new one is there.
    """
    table = vector_store_files.c
    attached = select(table.file_id).where(
        table.vector_store_id == connector.vector_store_id, table.file_id == _ITEMS.file_id
    )
    await connection.execute(
        update(connector_items)
        .where(
            _ITEMS.connector_id == connector.id,
            _ITEMS.status == "completed",
            ~attached.exists(),
        )
        .values(status="pending")
    )


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _storable(text: str) -> str:
    """Without what no text column holds: NUL characters and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
