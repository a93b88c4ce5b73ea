"""What a person owns in retrieval, found and removed through the ways that files are deleted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update

from app.errors import NotFound, Unavailable
from app.gateway.call import SEES_ALL, Call, Principal
from app.gateway.person import Person
from app.retrieval.access import access_list
from app.retrieval.collections import VectorStores
from app.retrieval.files import FileService
from app.retrieval.store_files import StoreFiles
from app.store.db import Database
from app.store.models import (
    connector_items,
    connectors,
    files,
    passages,
    vector_store_files,
    vector_stores,
)

ERASED = "erased"  # whose a thing is that stays without its owner's name


class RetrievalErasure:
    """Counts and removes by person; documents of connectors stay and lose the name only."""

    def __init__(
        self, db: Database, stores: VectorStores, files: FileService, attached: StoreFiles
    ) -> None:
        self._db, self._stores, self._files, self._attached = db, stores, files, attached

    async def _count(self, query: Any) -> int:
        async with self._db.read() as connection:
            return int(await connection.scalar(query) or 0)

    # -- passages, files ----------------------------------------------------------------

    async def count_passages(self, person: Person) -> int:
        """Passages of files of the person, in any vector store."""
        mine = select(files.c.id).where(_own_files(person))
        return await self._count(
            select(func.count()).select_from(passages).where(passages.c.file_id.in_(mine))
        )

    async def remove_passages(self, person: Person) -> int:
        """Detach the person's files from their vector stores: passages, words and vectors.

        Raises:
            Unavailable: there are some, and this gateway runs without retrieval.
        """
        before = await self.count_passages(person)
        attached = (
            select(vector_store_files.c.vector_store_id, vector_store_files.c.file_id)
            .join(files, files.c.id == vector_store_files.c.file_id)
            .where(_own_files(person))
        )
        rows = await self._db.rows(attached)
        if rows and not self._stores.models:
            raise Unavailable(
                "This gateway runs without retrieval, and the person has files in vector stores. "
                "Ask the gateway that retrieves.",
                code="retrieval_disabled",
            )
        for row in rows:
            try:
                await self._attached.detach(_eraser(person), row["vector_store_id"], row["file_id"])
            except NotFound:
                continue  # the store was deleted, and its contents go with it
        return before - await self.count_passages(person)

    async def count_files(self, person: Person) -> int:
        """Files that the person uploaded, and rows of deleted ones that name the person."""
        return await self._count(select(func.count()).select_from(files).where(_own_files(person)))

    async def remove_files(self, person: Person) -> int:
        """Delete the files and their bytes; what stays of their rows has no name any more."""
        found = await self._db.rows(select(files.c.id, files.c.blob).where(_own_files(person)))
        for row in found:
            with contextlib.suppress(NotFound):  # it was deleted before
                await self._attached.delete_file(_eraser(person), row["id"])
            await self._files.erase(row["id"], row["blob"] or row["id"])
            async with self._db.write() as connection:
                await connection.execute(
                    update(files)
                    .where(files.c.id == row["id"])
                    .values(owner=None, filename=ERASED, upload_key=None)
                )
        return len(found)

    # -- names in what others own -------------------------------------------------------

    async def count_connectors(self, person: Person) -> int:
        """Connectors that the person made, and the documents that these brought in."""
        made = select(func.count()).select_from(connectors)
        made = made.where(connectors.c.tenant_id == person.tenant_id)
        brought = select(func.count()).select_from(files).where(_brought(person))
        return await self._count(made.where(person.owns(connectors.c.owner))) + await self._count(
            brought
        )

    async def remove_connectors(self, person: Person) -> int:
        """Take the name off connectors and their documents; they are the tenant's and stay."""
        mine = (connectors.c.tenant_id == person.tenant_id) & person.owns(connectors.c.owner)
        async with self._db.write() as connection:
            brought = await connection.execute(
                update(files).where(_brought(person)).values(owner=ERASED)
            )
            made = await connection.execute(update(connectors).where(mine).values(owner=ERASED))
        return int(brought.rowcount) + int(made.rowcount)

    async def count_access(self, person: Person) -> int:
        """Access lists of files in vector stores that name the person."""
        return len(await self._listed(person))

    async def remove_access(self, person: Person) -> int:
        """Take the name off access lists; a list that named nobody else lets nobody see."""
        found = await self._listed(person)
        for row in found:
            access = access_list(row["access"])
            assert access is not None and person.user is not None
            await self._attached.set_access(
                _eraser(person),
                row["vector_store_id"],
                row["file_id"],
                type(access)(access.users - {person.user}, access.groups),
            )
        return len(found)

    async def _listed(self, person: Person) -> Sequence[Any]:
        if person.user is None:
            return []
        table = vector_store_files.c
        query = (
            select(table.vector_store_id, table.file_id, table.access)
            .join(vector_stores, vector_stores.c.id == table.vector_store_id)
            .where(
                vector_stores.c.tenant_id == person.tenant_id,
                vector_stores.c.deleted_at.is_(None),
                table.access.is_not(None),
            )
        )
        rows = await self._db.rows(query)
        return [row for row in rows if person.user in (row["access"] or {}).get("users", ())]

    async def count_source_lists(self, person: Person) -> int:
        """Access lists that connectors, or their sources, give anew at each sync."""
        if person.user is None:
            return 0
        mine = connectors.c.tenant_id == person.tenant_id
        own = await self._db.rows(select(connectors.c.access).where(mine))
        items = await self._db.rows(
            select(connector_items.c.access)
            .join(connectors, connectors.c.id == connector_items.c.connector_id)
            .where(mine, connector_items.c.access.is_not(None))
        )
        lists = [r["access"] for r in (*own, *items) if isinstance(r["access"], dict)]
        return sum(person.user in found.get("users", ()) for found in lists)


def _by_connectors() -> ColumnElement[bool]:
    known = (connector_items.c.file_id, connector_items.c.next_file_id)
    return select(connector_items.c.id).where(or_(*(files.c.id == c for c in known))).exists()


def _own_files(person: Person) -> ColumnElement[bool]:
    mine = (files.c.tenant_id == person.tenant_id) & person.owns(files.c.owner)
    return mine & ~_by_connectors()


def _brought(person: Person) -> ColumnElement[bool]:
    mine = (files.c.tenant_id == person.tenant_id) & person.owns(files.c.owner)
    return mine & _by_connectors()


def _eraser(person: Person) -> Call:
    """Sees every file of the tenant; it is part of the governed call of the job's step."""
    who = Principal(person.tenant_id, "system:erasure", None, frozenset({SEES_ALL}))
    return Call("erasure", "erasure", "job", "job:audit_erasure", who)
