"""Vector stores: create, open, count, delete."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from app.errors import Conflict, NotFound, Unavailable
from app.gateway.call import Call
from app.ids import new_id
from app.pools import Pool
from app.retrieval.embedding import Embedder
from app.retrieval.engines.base import EngineState
from app.retrieval.engines.choice import Engines
from app.retrieval.index import StoreIndex
from app.retrieval.types import Passage
from app.store.db import Database
from app.store.models import (
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


class VectorStores:
    """The service of one gateway; stores are opened when first searched."""

    def __init__(
        self,
        db: Database,
        embedder: Embedder | None,
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
    def embedder(self) -> Embedder:
        """Raises Unavailable when this gateway runs without retrieval."""
        if self._embedder is None:
            raise Unavailable(
                "This gateway runs without retrieval (OSTIARY_EMBEDDED_RETRIEVAL=false).",
                code="retrieval_disabled",
            )
        return self._embedder

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
