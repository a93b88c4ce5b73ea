"""Vector stores: create, open, count, delete."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from app.errors import Conflict, NotFound, Unavailable
from app.gateway.call import Call
from app.ids import new_id
from app.pools import Pool
from app.retrieval.embedding import Embedder
from app.retrieval.engines.base import EngineState, VectorEngine
from app.retrieval.engines.choice import ORIGINAL, Engines
from app.retrieval.index import StoreIndex
from app.retrieval.types import Passage
from app.store.db import Database
from app.store.models import (
    build_files,
    connector_items,
    connectors,
    index_builds,
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
    build: str
    embedding_version: str | None
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


_STORE = select(vector_stores).where(
    vector_stores.c.id == bindparam("store"),
    vector_stores.c.tenant_id == bindparam("tenant"),
    vector_stores.c.deleted_at.is_(None),
)


class VectorStores:
    """The service of one gateway; stores are opened when first searched."""

    def __init__(
        self,
        db: Database,
        models: Mapping[str, Embedder],
        query_pool: Pool,
        work_pool: Pool,
        folder: Path,
        engines: Engines,
        language: str = "en",
    ) -> None:
        self._db, self.models = db, models
        self._query_pool, self._work_pool = query_pool, work_pool
        self._folder = folder
        self._engines = engines
        self._language = language
        self._open: OrderedDict[str, StoreIndex] = OrderedDict()
        self._opening: dict[str, asyncio.Lock] = {}

    def model(self, name: str | None = None) -> tuple[str, Embedder]:
        """An embedding model and the name it is served under; the default one where None.

        Raises:
            NotFound: no model has this name.
            Unavailable: this gateway runs without retrieval.
        """
        if not self.models:
            raise Unavailable(
                "This gateway runs without retrieval (OSTIARY_EMBEDDED_RETRIEVAL=false).",
                code="retrieval_disabled",
            )
        name = next(iter(self.models)) if name is None else name
        if name not in self.models:
            raise NotFound(
                "embedding model",
                name,
                remedy="GET /v1/models lists the served ones.",
                param="model",
                code="model_not_found",
            )
        return name, self.models[name]

    @property
    def embedder(self) -> Embedder:
        """The default model. Raises Unavailable when this gateway runs without retrieval."""
        return self.model()[1]

    def embedder_of(self, store: VectorStore) -> Embedder:
        """The model that the store's vectors were made with.

        Raises:
            Conflict: it is not served any more, or has other weights now.
            Unavailable: this gateway runs without retrieval.
        """
        self.model()  # refuses where there are none at all
        found = self.models.get(store.embedding_model)
        if found is None:
            raise Conflict(
                f"This vector store was made with the embedding model '{store.embedding_model}', "
                "which is not served here. Operator: add it to OSTIARY_EMBEDDING_MODELS, or "
                "build the index anew with another model (POST "
                "/v1/vector_stores/{vector_store_id}/builds).",
                code="embedding_model_not_served",
            )
        if store.embedding_version not in (None, found.fingerprint):
            raise Conflict(
                f"The embedding model '{store.embedding_model}' is not the one that this vector "
                "store was made with: its weights or settings have changed. Set them back, or "
                "build the index anew (POST /v1/vector_stores/{vector_store_id}/builds).",
                code="embedding_model_changed",
            )
        return found

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
        embedding_model: str | None = None,
        engine: str | None = None,
    ) -> VectorStore:
        """Make an empty store, with the default model and engine unless others are named.

        Raises:
            NotFound: no embedding model has this name.
            BadRequest: the engine is not configured.
        """
        model, embedder = self.model(embedding_model)
        self.check_engine(engine or self._engines.default)
        now = time.time()
        store = VectorStore(
            new_id("vs_"),
            call.tenant_id,
            name,
            description,
            metadata,
            model,
            embedder.dim,
            engine or self._engines.default,
            ORIGINAL,
            embedder.fingerprint,
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
        row = await self._db.one_or_none(_STORE, {"store": store_id, "tenant": tenant_id})
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
            following = select(connectors.c.id).where(connectors.c.vector_store_id == store_id)
            items = connector_items.c.connector_id.in_(following)
            await connection.execute(delete(connector_items).where(items))
            await connection.execute(
                delete(connectors).where(connectors.c.vector_store_id == store_id)
            )
        if not done.rowcount:
            raise NotFound("vector store", store_id)
        async with self._lock(store_id):
            index = self._open.pop(store_id, None)
            if index is not None:
                await index.destroy()
            await self._remove(store)

    async def _remove(self, store: VectorStore) -> None:
        """Delete the vectors of all builds of a deleted store, and its folder."""
        table = index_builds.c
        query = select(table.engine, table.dim, table.id).where(table.vector_store_id == store.id)
        async with self._db.read() as connection:
            found = {tuple(row) for row in await connection.execute(query)}
        for engine, dim, build in found | {(store.engine, store.dim, store.build)}:
            await asyncio.to_thread(self.destroy_build, store.id, engine, dim, build)
        folder = self._folder / store.id
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        async with self._db.write() as connection:
            for told in (build_files, index_builds):
                await connection.execute(delete(told).where(told.c.vector_store_id == store.id))

    def check_engine(self, engine: str) -> None:
        """Raises BadRequest when an index cannot be made with this engine."""
        self._engines.check(engine)

    def make_engine(self, store_id: str, engine: str, dim: int, build: str) -> VectorEngine:
        """The engine of one build of a store, nothing loaded yet; blocking."""
        return self._engines.make(engine, store_id, dim, self._folder / store_id, build)

    def destroy_build(self, store_id: str, engine: str, dim: int, build: str) -> None:
        """Delete the vectors of one build; blocking."""
        self.make_engine(store_id, engine, dim, build).destroy()

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
            await self._remove(store)

    async def counts(self, store_ids: Sequence[str]) -> dict[str, dict[str, int]]:
        """File counts by status and the bytes used, by store."""
        table = vector_store_files.c
        query = (
            select(
                table.vector_store_id,
                table.status,
                func.count().label("files"),
                func.sum(table.usage_bytes).label("bytes"),
            )
            .where(table.vector_store_id.in_(store_ids))
            .group_by(table.vector_store_id, table.status)
        )
        out = {i: {**dict.fromkeys(STATUSES, 0), "total": 0, "bytes": 0} for i in store_ids}
        for row in await self._db.rows(query):
            counts = out[row["vector_store_id"]]
            counts[row["status"]] += row["files"]
            counts["total"] += row["files"]
            counts["bytes"] += int(row["bytes"] or 0)
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
        make = partial(self.make_engine, store.id)
        index = StoreIndex(self._db, self._work_pool, store.id, make, folder, self._language)
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

    async def state(self, store: VectorStore) -> EngineState:
        """What the index of a store that is searched is like now."""
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
