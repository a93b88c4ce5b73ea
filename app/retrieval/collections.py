"""Vector stores: create, fill, search, empty, delete."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.errors import Conflict, NotFound, Unavailable
from app.gateway.call import Call
from app.ids import new_id
from app.pools import Pool
from app.retrieval.embedding import OnnxEmbedder
from app.retrieval.engines.base import EngineState
from app.retrieval.engines.choice import Engines
from app.retrieval.index import StoreIndex, remove_passages
from app.retrieval.types import AttributeValue, Passage
from app.store.db import Database
from app.store.models import (
    file_batches,
    files,
    passages,
    removals,
    segments,
    vector_store_files,
    vector_stores,
)
from app.store.paging import Page, page_of

OPEN_STORES = 64
ACTIVE_EVERY_S = 60.0
STATUSES = ("in_progress", "completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class VectorStore:
    id: str
    tenant_id: str
    name: str | None
    description: str | None
    metadata: dict[str, str]
    embedding_model: str
    dim: int
    engine: str
    chunking: dict[str, Any]
    version: int
    created_at: float
    last_active_at: float
    expires_after_days: int | None
    deleted_at: float | None

    @property
    def expires_at(self) -> float | None:
        if self.expires_after_days is None:
            return None
        return self.last_active_at + self.expires_after_days * 86_400

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at < time.time()


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


class VectorStores:
    """The service of one gateway; stores are opened when first searched."""

    def __init__(
        self,
        db: Database,
        embedder: OnnxEmbedder | None,
        query_pool: Pool,
        work_pool: Pool,
        folder: Path,
        engines: Engines,
        language: str = "en",
    ) -> None:
        self._db, self._embedder = db, embedder
        self._query_pool, self._work_pool = query_pool, work_pool
        self._folder = folder
        self._engines = engines
        self._language = language
        self._open: OrderedDict[str, StoreIndex] = OrderedDict()
        self._opening: dict[str, asyncio.Lock] = {}

    @property
    def embedder(self) -> OnnxEmbedder:
        """Raises Unavailable when this gateway runs without retrieval."""
        if self._embedder is None:
            raise Unavailable(
                "This gateway runs without retrieval (OSTIARY_EMBEDDED_RETRIEVAL=false).",
                code="retrieval_disabled",
            )
        return self._embedder

    async def embed_query(self, text: str) -> Any:
        """Embed one query: float32 array of shape (dim,), unit norm."""
        return await self._query_pool.run(self.embedder.encode_query, text)

    async def embed_passages(self, texts: list[str]) -> Any:
        """Embed passages in the background pool: float32 array of shape (n, dim)."""
        return await self._work_pool.run(self.embedder.encode_passages, texts)

    # -- stores -----------------------------------------------------------------------

    async def create(
        self,
        call: Call,
        *,
        name: str | None,
        description: str | None,
        metadata: dict[str, str],
        chunking: dict[str, Any],
        expires_after_days: int | None,
    ) -> VectorStore:
        """Make an empty store."""
        now = time.time()
        store = VectorStore(
            new_id("vs_"),
            call.tenant_id,
            name,
            description,
            metadata,
            self.embedder.name,
            self.embedder.dim,
            self._engines.default,
            chunking,
            0,
            now,
            now,
            expires_after_days,
            None,
        )
        async with self._db.write() as connection:
            await connection.execute(
                insert(vector_stores).values(
                    {c.name: getattr(store, c.name) for c in vector_stores.columns}
                )
            )
        return store

    async def get(self, tenant_id: str, store_id: str) -> VectorStore:
        """Raises NotFound for an unknown or deleted id, or another tenant's."""
        query = select(vector_stores).where(
            vector_stores.c.id == store_id,
            vector_stores.c.tenant_id == tenant_id,
            vector_stores.c.deleted_at.is_(None),
        )
        async with self._db.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("vector store", store_id)
        return VectorStore(**row)

    async def searchable(self, tenant_id: str, store_id: str) -> VectorStore:
        """A store that has not expired.

        Raises:
            NotFound: as :meth:`get`.
            Conflict: it has expired.
        """
        store = await self.get(tenant_id, store_id)
        if store.expired:
            raise Conflict("This vector store has expired. Create a new one.", code="expired")
        return store

    async def touch(self, store: VectorStore) -> None:
        """Note that a store was used, where that moves its expiry."""
        if store.expires_after_days is None or time.time() - store.last_active_at < ACTIVE_EVERY_S:
            return
        async with self._db.write() as connection:
            await connection.execute(
                update(vector_stores)
                .where(vector_stores.c.id == store.id)
                .values(last_active_at=time.time())
            )

    async def page(self, tenant_id: str, **paging: Any) -> Page[VectorStore]:
        """One page of the tenant's stores."""
        query = select(vector_stores).where(
            vector_stores.c.tenant_id == tenant_id, vector_stores.c.deleted_at.is_(None)
        )
        found = await page_of(self._db, query, vector_stores.c.id, **paging)
        return Page([VectorStore(**r) for r in found.rows], found.has_more)

    async def change(self, tenant_id: str, store_id: str, values: dict[str, Any]) -> VectorStore:
        """Set some of name, metadata, expires_after_days."""
        await self.get(tenant_id, store_id)
        async with self._db.write() as connection:
            await connection.execute(
                update(vector_stores)
                .where(vector_stores.c.id == store_id)
                .values(**values, last_active_at=time.time())
            )
        return await self.get(tenant_id, store_id)

    async def delete(self, tenant_id: str, store_id: str) -> None:
        """Delete a store with its passages, vectors and words; the files stay."""
        store = await self.get(tenant_id, store_id)
        async with self._db.write() as connection:
            # in the order in which an ingest writes, so that the two never wait for each other
            mine = vector_store_files.c.vector_store_id == store_id
            await connection.execute(delete(vector_store_files).where(mine))
            done = await connection.execute(
                update(vector_stores)
                .where(vector_stores.c.id == store_id, vector_stores.c.deleted_at.is_(None))
                .values(deleted_at=time.time(), version=vector_stores.c.version + 1)
            )
            for table in (passages, segments, removals):
                await connection.execute(delete(table).where(table.c.vector_store_id == store_id))
        if not done.rowcount:
            raise NotFound("vector store", store_id)
        async with self._lock(store_id):
            index = self._open.pop(store_id, None)
            if index is not None:
                await index.destroy()
            else:
                await asyncio.to_thread(self._remove, store)

    def _remove(self, store: VectorStore) -> None:
        folder = self._folder / store.id
        self._engines.make(store.engine, store.id, store.dim, folder).destroy()
        shutil.rmtree(folder, ignore_errors=True)

    async def sweep(self) -> None:
        """Remove the indexes of deleted stores that a crash left on disk."""
        if not self._folder.is_dir():
            return
        found = {f.name for f in self._folder.iterdir() if f.is_dir()}
        query = select(vector_stores).where(
            vector_stores.c.id.in_(found), vector_stores.c.deleted_at.is_not(None)
        )
        async with self._db.read() as connection:
            deleted = [VectorStore(**r) for r in (await connection.execute(query)).mappings()]
        for store in deleted:
            await asyncio.to_thread(self._remove, store)

    async def counts(self, store_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """File counts by status and the bytes used, by store."""
        table = vector_store_files.c
        query = (
            select(table.vector_store_id, table.status, func.count(), func.sum(table.usage_bytes))
            .where(table.vector_store_id.in_(store_ids))
            .group_by(table.vector_store_id, table.status)
        )
        out = {i: {**dict.fromkeys(STATUSES, 0), "total": 0, "bytes": 0} for i in store_ids}
        async with self._db.read() as connection:
            for store_id, status, count, size in await connection.execute(query):
                out[store_id][status] += count
                out[store_id]["total"] += count
                out[store_id]["bytes"] += int(size or 0)
        return out

    # -- files of a store ---------------------------------------------------------------

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
        store = await self.searchable(call.tenant_id, store_id)
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
            dialect = sqlite if self._db.is_sqlite else postgresql
            made = await connection.execute(
                dialect.insert(vector_store_files)
                .values(rows)
                .on_conflict_do_nothing()  # attached before, or by a twin at this moment
                .returning(vector_store_files.c.file_id, vector_store_files.c.job_id)
            )
            fresh = {r.file_id: r.job_id for r in made}
        return batch_id, fresh

    async def file(self, tenant_id: str, store_id: str, file_id: str) -> StoreFile:
        """Raises NotFound when the file is not attached."""
        await self.get(tenant_id, store_id)
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
        await self.get(tenant_id, store_id)
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
        async with self.using(await self.get(tenant_id, store_id)) as index:
            await index.set_attributes(file_id, attributes)
        return await self.file(tenant_id, store_id, file_id)

    async def detach(self, tenant_id: str, store_id: str, file_id: str) -> None:
        """Remove a file's passages from a store; the file itself stays."""
        await self.file(tenant_id, store_id, file_id)
        async with self.using(await self.get(tenant_id, store_id)) as index:
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
                async with self.using(await self.get(tenant_id, store_id)) as index:
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

    # -- opened indexes -----------------------------------------------------------------

    @asynccontextmanager
    async def using(
        self, store: VectorStore, version: int | None = None
    ) -> AsyncIterator[StoreIndex]:
        """The index of a store, opened, at least of ``version``.

        It stays open while it is used, so that a store never has two indexes that write.

        Raises:
            NotFound: the store was deleted.
        """
        async with self._lock(store.id):
            index = self._open.get(store.id)
            if index is None:
                index = await self._opened(store)
            index.users += 1
        try:
            self._open.move_to_end(store.id)
            await self._close_oldest()
            if version is not None and version > index.version:
                await index.load(version)  # another gateway on this database has written
            yield index
        finally:
            index.users -= 1

    def _lock(self, store_id: str) -> asyncio.Lock:
        return self._opening.setdefault(store_id, asyncio.Lock())

    async def _opened(self, store: VectorStore) -> StoreIndex:
        folder = self._folder / store.id
        folder.mkdir(parents=True, exist_ok=True)
        engine = await self._work_pool.run(
            self._engines.make, store.engine, store.id, store.dim, folder
        )
        index = StoreIndex(self._db, self._work_pool, store.id, engine, folder, self._language)
        try:
            await index.load()
        except NotFound:
            await index.destroy()
            raise
        self._open[store.id] = index
        return index

    async def _close_oldest(self) -> None:
        while len(self._open) > OPEN_STORES:
            idle = next((i for i, index in self._open.items() if index.idle), None)
            if idle is None:
                return
            await self._open.pop(idle).close()

    async def state(self, tenant_id: str, store_id: str) -> EngineState:
        """What a store's index is like now."""
        store = await self.get(tenant_id, store_id)
        async with self.using(store, store.version) as index:
            return await self._query_pool.run(index.engine.state)

    async def document(
        self, tenant_id: str, store_id: str, file_id: str
    ) -> tuple[str, list[Passage]]:
        """A file's name and all its passages in order."""
        await self.file(tenant_id, store_id, file_id)
        store = await self.get(tenant_id, store_id)
        query = (
            select(passages)
            .where(passages.c.vector_store_id == store_id, passages.c.file_id == file_id)
            .order_by(passages.c.ordinal)
        )
        async with self.using(store, store.version) as index:
            async with self._db.read() as connection:
                rows = (await connection.execute(query)).mappings().all()
            return index.filenames.get(file_id, file_id), [passage_of(r, index) for r in rows]

    async def close(self) -> None:
        """Close every opened store."""
        for index in self._open.values():
            await index.close()
        self._open.clear()


def passage_of(row: Any, index: StoreIndex) -> Passage:
    """The passage of a row, with its file's name and attributes."""
    file_id = row["file_id"]
    return Passage(
        row["id"],
        file_id,
        index.filenames.get(file_id, file_id),
        row["ordinal"],
        row["text"],
        row["page"],
        row["section"],
        index.attributes.get(file_id, {}),
    )
