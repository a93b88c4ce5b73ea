"""The files of vector stores: attach, label, detach; batches of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, update

from app.errors import NotFound
from app.gateway.call import Call
from app.ids import new_id
from app.retrieval.collections import STATUSES, VectorStores, passage_of
from app.retrieval.index import remove_passages
from app.retrieval.types import AttributeValue, Passage
from app.store.db import Database
from app.store.models import file_batches, files, passages, vector_store_files, vector_stores
from app.store.paging import Page, page_of


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file attached to a vector store."""

    vector_store_id: str
    file_id: str
    status: str
    attributes: dict[str, AttributeValue]
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
    """What is attached to the vector stores of one gateway."""

    def __init__(self, db: Database, stores: VectorStores) -> None:
        self._db, self._stores = db, stores

    async def attach(
        self,
        call: Call,
        store_id: str,
        file_ids: Sequence[str],
        attributes: dict[str, AttributeValue],
        chunking: dict[str, Any],
        batch: bool = False,
    ) -> tuple[str | None, dict[str, str]]:
        """Attach files as ``in_progress``.

        Returns the batch id, and for each newly attached file the id of the job that is to
        ingest it: recorded here, so that a crash before the job begins neither loses nor
        doubles it.

        Raises:
            NotFound: the store or a file does not exist.
            Conflict: the store has expired.
        """
        store = await self._stores.searchable(call.tenant_id, store_id)
        wanted = list(dict.fromkeys(file_ids))
        now = time.time()
        async with self._db.write() as connection:
            known = set(
                await connection.scalars(
                    select(files.c.id)
                    .where(
                        files.c.tenant_id == call.tenant_id,
                        files.c.id.in_(wanted),
                        files.c.deleted_at.is_(None),
                    )
                    .with_for_update(read=True)  # a deletion waits, and then sees the rows
                )
            )
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
            rows = [
                {
                    "vector_store_id": store_id,
                    "file_id": file_id,
                    "status": "in_progress",
                    "attributes": attributes,
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
                .values(rows)
                .on_conflict_do_nothing()  # attached before, or by a twin at this moment
                .returning(vector_store_files.c.file_id, vector_store_files.c.job_id)
            )
            fresh = {r.file_id: r.job_id for r in made}
        return batch_id, fresh

    async def file(self, tenant_id: str, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound when the file is not attached."""
        await self._stores.get(tenant_id, store_id)
        query = select(vector_store_files).where(
            vector_store_files.c.vector_store_id == store_id,
            vector_store_files.c.file_id == file_id,
        )
        async with self._db.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("file of this vector store", file_id)
        return StoreFile(**row)

    async def file_page(
        self,
        tenant_id: str,
        store_id: str,
        *,
        status: str | None,
        batch_id: str | None = None,
        **paging: Any,
    ) -> Page[StoreFile]:
        """One page of a store's files, or of one batch's."""
        await self._stores.get(tenant_id, store_id)
        query = select(vector_store_files).where(vector_store_files.c.vector_store_id == store_id)
        if status is not None:
            query = query.where(vector_store_files.c.status == status)
        if batch_id is not None:
            query = query.where(vector_store_files.c.batch_id == batch_id)
        found = await page_of(self._db, query, vector_store_files.c.file_id, **paging)
        return Page([StoreFile(**r) for r in found.rows], found.has_more)

    async def set_attributes(
        self, tenant_id: str, store_id: str, file_id: str, attributes: dict[str, AttributeValue]
    ) -> StoreFile:
        """Replace a file's attributes."""
        await self.file(tenant_id, store_id, file_id)
        async with self._stores.using(await self._stores.get(tenant_id, store_id)) as index:
            await index.set_attributes(file_id, attributes)
        return await self.file(tenant_id, store_id, file_id)

    async def detach(self, tenant_id: str, store_id: str, file_id: str) -> None:
        """Remove a file's passages from a store; the file itself stays."""
        await self.file(tenant_id, store_id, file_id)
        async with self._stores.using(await self._stores.get(tenant_id, store_id)) as index:
            await index.remove_file(file_id)

    async def delete_file(self, tenant_id: str, file_id: str) -> None:
        """Mark a file deleted and take it out of every store: one transaction, then memory.

        Raises:
            NotFound: unknown, deleted or another tenant's.
        """
        attached = vector_store_files.c.file_id == file_id
        async with self._db.write() as connection:
            done = await connection.execute(
                update(files)
                .where(
                    files.c.id == file_id,
                    files.c.tenant_id == tenant_id,
                    files.c.deleted_at.is_(None),
                )
                .values(deleted_at=time.time())
            )
            if not done.rowcount:
                raise NotFound("file", file_id)
            query = select(vector_store_files.c.vector_store_id).where(attached)
            found = sorted(await connection.scalars(query))
            await connection.execute(delete(vector_store_files).where(attached))
            versions = {
                store_id: await remove_passages(connection, store_id, file_id) for store_id in found
            }
        for store_id, version in versions.items():
            with contextlib.suppress(NotFound):  # the store was deleted meanwhile
                async with self._stores.using(await self._stores.get(tenant_id, store_id)) as index:
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
        """The attached files that are neither searchable nor failed yet."""
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

    async def document(
        self, tenant_id: str, store_id: str, file_id: str
    ) -> tuple[str, list[Passage]]:
        """A file's name and all its passages in order."""
        await self.file(tenant_id, store_id, file_id)
        store = await self._stores.get(tenant_id, store_id)
        query = (
            select(passages)
            .where(passages.c.vector_store_id == store_id, passages.c.file_id == file_id)
            .order_by(passages.c.ordinal)
        )
        async with self._stores.using(store, store.version) as index:
            async with self._db.read() as connection:
                rows = (await connection.execute(query)).mappings().all()
            return index.filenames.get(file_id, file_id), [passage_of(r, index) for r in rows]
