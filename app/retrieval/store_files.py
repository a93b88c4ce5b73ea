"""The files of vector stores: attach, label, show to whom it may concern, detach; batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.gateway.call import Call
from app.ids import new_id
from app.retrieval.access import AccessList, access_list, require_seen, sees
from app.retrieval.collections import STATUSES, VectorStores, passage_of
from app.retrieval.contents import remove_passages
from app.retrieval.index import StoreIndex
from app.retrieval.types import AttributeValue, Passage
from app.retrieval.visible import visible_files
from app.store.db import Database
from app.store.models import (
    connector_items,
    file_batches,
    files,
    passages,
    vector_store_files,
    vector_stores,
)
from app.store.paging import Page, page_of


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file attached to a vector store."""

    vector_store_id: str
    file_id: str
    status: str
    attributes: dict[str, AttributeValue]
    access: dict[str, list[str]] | None
    replaces: str | None
    chunking: dict[str, Any]
    last_error: dict[str, str] | None
    usage_bytes: int
    batch_id: str | None
    job_id: str | None
    created_at: float

    def waits_for(self, job_id: str) -> bool:
        """Whether this job is to ingest it; not one of an earlier attachment."""
        return self.status == "in_progress" and self.job_id == job_id


class Unfinished(NamedTuple):
    """An attached file whose job is still to be done."""

    tenant_id: str
    store_id: str
    file_id: str
    job_id: str


class StoreFiles:
    """What is attached to the vector stores of one gateway.

    What takes a ``Call`` knows only the files that its caller may see.
    """

    def __init__(self, db: Database, stores: VectorStores) -> None:
        self._db, self._stores = db, stores

    async def backlog(self) -> tuple[int, float]:
        """How many files of all tenants are not searchable yet, and since when the oldest.

        Returns:
            The count, and the age of the oldest in seconds, 0 where there is none.
        """
        table = vector_store_files.c
        query = select(func.count(), func.min(table.created_at))
        async with self._db.read() as connection:
            row = await connection.execute(query.where(table.status == "in_progress"))
            count, oldest = row.one()
        return int(count), 0.0 if oldest is None else max(0.0, time.time() - float(oldest))

    async def attach(
        self,
        call: Call,
        store_id: str,
        file_ids: Sequence[str],
        attributes: dict[str, AttributeValue],
        chunking: dict[str, Any],
        batch: bool = False,
        access: AccessList | None = None,
        replaces: str | None = None,
    ) -> tuple[str | None, dict[str, str]]:
        """Attach files as ``in_progress``.

        Returns the batch id, and for each newly attached file the id of the job that is to
        ingest it: recorded here, so that a crash before the job begins neither loses nor
        doubles it. The file that it ``replaces`` leaves the store in the moment in which the
        new one can be found.

        Raises:
            NotFound: the store or a file does not exist, or the caller may not see the file.
            Forbidden: the access list would hide the file from the caller.
            Conflict: the store has expired, or the file is in it with another access list.
        """
        require_seen(call.principal, access)
        store = await self._stores.searchable(call.tenant_id, store_id)
        wanted = list(dict.fromkeys(file_ids))
        now = time.time()
        async with self._db.write() as connection:
            found = await connection.execute(
                select(files.c.id, files.c.owner)
                .where(
                    files.c.tenant_id == call.tenant_id,
                    files.c.id.in_(wanted),
                    files.c.deleted_at.is_(None),
                )
                .with_for_update(read=True)  # a deletion waits, and then sees the rows
            )
            rows = found.mappings().all()
            known = {r["id"] for r in await visible_files(connection, call.principal, rows)}
            for file_id in wanted:
                if file_id not in known:
                    raise NotFound("file", file_id, param="file_ids" if batch else "file_id")
            batch_id = new_id("vsfb_") if batch else None
            if batch_id is not None:
                await connection.execute(
                    insert(file_batches).values(
                        id=batch_id,
                        tenant_id=call.tenant_id,
                        vector_store_id=store_id,
                        created_at=now,
                    )
                )
            stored = access.stored() if access is not None else None
            new = [
                {
                    "vector_store_id": store_id,
                    "file_id": file_id,
                    "status": "in_progress",
                    "attributes": attributes,
                    "access": stored,
                    "replaces": replaces,
                    "chunking": chunking or store.chunking,
                    "usage_bytes": 0,
                    "batch_id": batch_id,
                    "job_id": new_id("job_"),
                    "created_at": now,
                }
                for file_id in wanted
            ]
            made = await connection.execute(
                self._db.insert(vector_store_files)
                .values(new)
                .on_conflict_do_nothing()  # attached before, or by a twin at this moment
                .returning(vector_store_files.c.file_id, vector_store_files.c.job_id)
            )
            fresh = {r.file_id: r.job_id for r in made}
            if stored is not None:
                again = set(wanted) - fresh.keys()
                await self._require_list(connection, store_id, again, stored)
        return batch_id, fresh

    async def _require_list(
        self, connection: AsyncConnection, store_id: str, again: set[str], stored: dict[str, Any]
    ) -> None:
        """Refuse to leave a file under another list than the one that was asked for."""
        table = vector_store_files.c
        query = select(table.access).where(
            table.vector_store_id == store_id, table.file_id.in_(sorted(again))
        )
        if any(access != stored for access in await connection.scalars(query)):
            raise Conflict(
                "A file is in this vector store already, with another access list. Change it "
                "there: POST /v1/vector_stores/{vector_store_id}/files/{file_id}.",
                code="access_differs",
                param="ostiary.access",
            )

    async def file(self, call: Call, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound when the file is not attached, or the caller may not see it."""
        found = await self.entry(call.tenant_id, store_id, file_id)
        if not sees(call.principal, access_list(found.access)):
            raise _not_attached(file_id)
        return found

    async def entry(self, tenant_id: str, store_id: str, file_id: str) -> StoreFile:
        """An attached file, whoever may see it: for work, not for callers; raises NotFound."""
        await self._stores.get(tenant_id, store_id)
        query = select(vector_store_files).where(
            vector_store_files.c.vector_store_id == store_id,
            vector_store_files.c.file_id == file_id,
        )
        row = await self._db.one_or_none(query)
        if row is None:
            raise _not_attached(file_id)
        return StoreFile(**row)

    async def file_page(
        self,
        call: Call,
        store_id: str,
        *,
        status: str | None,
        batch_id: str | None = None,
        **paging: Any,
    ) -> Page[StoreFile]:
        """One page of a store's files, or of one batch's, that the caller may see."""
        await self._stores.get(call.tenant_id, store_id)
        query = select(vector_store_files).where(vector_store_files.c.vector_store_id == store_id)
        if status is not None:
            query = query.where(vector_store_files.c.status == status)
        if batch_id is not None:
            query = query.where(vector_store_files.c.batch_id == batch_id)

        async def keep(_: AsyncConnection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [r for r in rows if sees(call.principal, access_list(r["access"]))]

        found = await page_of(
            self._db,
            query,
            vector_store_files.c.file_id,
            **paging,
            keep=None if call.principal.sees_all else keep,
        )
        return Page([StoreFile(**r) for r in found.rows], found.has_more)

    async def set_attributes(
        self, call: Call, store_id: str, file_id: str, attributes: dict[str, AttributeValue]
    ) -> StoreFile:
        """Replace a file's attributes."""
        await self.file(call, store_id, file_id)
        async with self._using(call, store_id) as index:
            await index.set_attributes(file_id, attributes)
        return await self.file(call, store_id, file_id)

    async def set_access(
        self, call: Call, store_id: str, file_id: str, access: AccessList | None
    ) -> StoreFile:
        """Replace a file's access list; None lets whoever may search the store see it.

        Raises:
            Forbidden: the list would hide the file from the caller.
        """
        await self.file(call, store_id, file_id)
        require_seen(call.principal, access)
        async with self._using(call, store_id) as index:
            if not await index.set_access(call.principal, file_id, access):
                raise _not_attached(file_id)
        return await self.file(call, store_id, file_id)

    async def detach(self, call: Call, store_id: str, file_id: str) -> None:
        """Remove a file's passages from a store; the file itself stays."""
        await self.file(call, store_id, file_id)
        async with self._using(call, store_id) as index:
            await index.remove_file(file_id)

    @asynccontextmanager
    async def _using(self, call: Call, store_id: str) -> AsyncIterator[StoreIndex]:
        store = await self._stores.get(call.tenant_id, store_id)
        async with self._stores.using(store) as index:
            yield index

    async def delete_file(self, call: Call, file_id: str) -> None:
        """Mark a file deleted and take it out of every store: one transaction, then memory.

        Raises:
            NotFound: unknown, deleted, another tenant's, or the caller may not see it.
        """
        attached = vector_store_files.c.file_id == file_id
        async with self._db.write() as connection:
            done = await connection.execute(
                update(files)
                .where(
                    files.c.id == file_id,
                    files.c.tenant_id == call.tenant_id,
                    files.c.deleted_at.is_(None),
                )
                .values(deleted_at=time.time())
                .returning(files.c.id, files.c.owner)
            )
            if not await visible_files(connection, call.principal, done.mappings().all()):
                raise NotFound("file", file_id)
            query = select(vector_store_files.c.vector_store_id).where(attached)
            found = sorted(await connection.scalars(query))
            await connection.execute(delete(vector_store_files).where(attached))
            versions = {
                store_id: await remove_passages(connection, store_id, file_id) for store_id in found
            }
        for store_id, version in versions.items():
            with contextlib.suppress(NotFound):  # the store was deleted meanwhile
                async with self._using(call, store_id) as index:
                    await index.forget_file(file_id, version)

    async def fail(self, store_id: str, file_id: str, job_id: str, code: str, message: str) -> None:
        """Note that a file could not be ingested."""
        error = {"code": code, "message": message}
        await self._end_file(store_id, file_id, job_id, status="failed", last_error=error)

    async def cancel_file(self, store_id: str, file_id: str, job_id: str) -> None:
        """Note that a file will not be ingested, because its job was cancelled."""
        await self._end_file(store_id, file_id, job_id, status="cancelled")

    async def _end_file(self, store_id: str, file_id: str, job_id: str, **values: Any) -> None:
        async with self._db.write() as connection:
            await connection.execute(
                update(vector_store_files)
                .where(
                    vector_store_files.c.vector_store_id == store_id,
                    vector_store_files.c.file_id == file_id,
                    vector_store_files.c.job_id == job_id,
                    vector_store_files.c.status == "in_progress",
                )
                .values(**values)
            )

    async def unfinished(self) -> list[Unfinished]:
        """The attached files that are neither searchable nor failed yet.

        Without those that a connector brings in: its next sync goes on with them.
        """
        brought = select(connector_items.c.id).where(
            connector_items.c.next_file_id == vector_store_files.c.file_id
        )
        query = (
            select(
                vector_stores.c.tenant_id,
                vector_stores.c.id,
                vector_store_files.c.file_id,
                vector_store_files.c.job_id,
            )
            .join(vector_stores, vector_stores.c.id == vector_store_files.c.vector_store_id)
            .where(
                vector_store_files.c.status == "in_progress",
                vector_store_files.c.job_id.is_not(None),
                ~brought.exists(),
            )
        )
        async with self._db.read() as connection:
            return [Unfinished(*row) for row in await connection.execute(query)]

    # -- batches ------------------------------------------------------------------------

    async def batch(self, tenant_id: str, store_id: str, batch_id: str) -> dict[str, Any]:
        """A batch with its file counts; raises NotFound."""
        query = select(file_batches).where(
            file_batches.c.id == batch_id,
            file_batches.c.tenant_id == tenant_id,
            file_batches.c.vector_store_id == store_id,
        )
        counting = (
            select(vector_store_files.c.status, func.count())
            .where(vector_store_files.c.batch_id == batch_id)
            .group_by(vector_store_files.c.status)
        )
        async with self._db.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
            if row is None:
                raise NotFound("file batch", batch_id)
            counts = dict.fromkeys(STATUSES, 0)
            for status, count in await connection.execute(counting):
                counts[status] = count
        return {**row, "counts": {**counts, "total": sum(counts.values())}}

    async def cancel_batch(self, tenant_id: str, store_id: str, batch_id: str) -> dict[str, Any]:
        """Stop what of a batch is still waiting."""
        await self.batch(tenant_id, store_id, batch_id)
        async with self._db.write() as connection:
            await connection.execute(
                update(file_batches)
                .where(file_batches.c.id == batch_id)
                .values(cancelled_at=time.time())
            )
            await connection.execute(
                update(vector_store_files)
                .where(
                    vector_store_files.c.batch_id == batch_id,
                    vector_store_files.c.status == "in_progress",
                )
                .values(status="cancelled")
            )
        return await self.batch(tenant_id, store_id, batch_id)

    async def document(self, call: Call, store_id: str, file_id: str) -> tuple[str, list[Passage]]:
        """A file's name and all its passages in order.

        Raises:
            NotFound: the file is not attached, or the caller may not see it.
        """
        await self.file(call, store_id, file_id)
        store = await self._stores.get(call.tenant_id, store_id)
        query = (
            select(passages)
            .where(passages.c.vector_store_id == store_id, passages.c.file_id == file_id)
            .order_by(passages.c.ordinal)
        )
        async with self._stores.using(store, store.version) as index:
            async with self._db.read() as connection:
                rows = (await connection.execute(query)).mappings().all()
            return index.filenames.get(file_id, file_id), [passage_of(r, index) for r in rows]


def _not_attached(file_id: str) -> NotFound:
    return NotFound("file of this vector store", file_id)
