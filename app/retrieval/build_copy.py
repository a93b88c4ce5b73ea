"""Brings a build that is not searched to what its store holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, insert, select, update

from app.errors import Conflict
from app.gateway.call import Call
from app.pools import Pool
from app.retrieval.collections import VectorStore, VectorStores
from app.retrieval.embedding import Embedder
from app.retrieval.engines.base import SegmentInfo
from app.retrieval.index import Live, StoreIndex
from app.retrieval.ingestion import embedded
from app.retrieval.types import embedded_text
from app.store.db import Database
from app.store.models import (
    build_files,
    index_builds,
    passages,
    vector_store_files,
    vector_stores,
)

if TYPE_CHECKING:
    from app.retrieval.builds import Build

MERGE_EVERY = 8  # files


async def attached(db: Database, store_id: str) -> set[tuple[str, str]]:
    """(file id, attachment) of what a store holds."""
    table = vector_store_files.c
    query = select(table.file_id, table.job_id).where(
        table.vector_store_id == store_id, table.status == "completed"
    )
    async with db.read() as connection:
        return {(r.file_id, r.job_id) for r in await connection.execute(query)}


class BuildCopy:
    """Copies a store into one build, file by file; what was copied is noted in SQL.

    Vectors are taken from the build that is searched where both have the same model, and made
    anew from the texts elsewhere. A crash loses at most the file that was being copied.
    """

    def __init__(
        self,
        db: Database,
        stores: VectorStores,
        pool: Pool,
        call: Call,
        store: VectorStore,
        index: StoreIndex,
        build: Build,
        target: Live,
    ) -> None:
        self._db, self._stores, self._pool, self._call = db, stores, pool, call
        self.store, self.index, self.build, self.target = store, index, build, target

    async def held(self) -> set[tuple[str, str]]:
        """(file id, attachment) of what the build holds."""
        table = build_files.c
        query = select(table.file_id, table.job_id).where(
            table.vector_store_id == self.store.id, table.build == self.build.id
        )
        async with self._db.read() as connection:
            return {(r.file_id, r.job_id) for r in await connection.execute(query)}

    async def behind(self) -> int:
        """How many files the build lacks, or has that the store no longer has."""
        return len(await attached(self._db, self.store.id) ^ await self.held())

    async def catch_up(self, merge: bool = True) -> None:
        """Copy what is missing, remove what is gone; what changes meanwhile is left.

        Args:
            merge: also merge segments, which nobody may do who holds the store.

        Raises:
            Conflict: the build was deleted, or its model has changed.
            NotFound: its model is not served.
        """
        wanted, held = await attached(self._db, self.store.id), await self.held()
        for file_id, attachment in sorted(held - wanted):
            await self._remove(file_id, attachment)
        for n, (file_id, attachment) in enumerate(sorted(wanted - held), start=1):
            await self._copy(file_id, attachment)
            if merge and n % MERGE_EVERY == 0:
                await self.index.compact(self.target)
        if merge:
            await self.index.compact(self.target)

    async def _remove(self, file_id: str, attachment: str) -> None:
        await self._pool.run(self.target.engine.remove, file_id)
        table = build_files.c
        async with self._db.write() as connection:
            await connection.execute(
                delete(build_files).where(
                    table.vector_store_id == self.store.id,
                    table.build == self.build.id,
                    table.file_id == file_id,
                    table.job_id == attachment,
                )
            )

    async def _copy(self, file_id: str, attachment: str) -> None:
        table = passages.c
        query = (
            select(table.number, table.section, table.text, table.tokens)
            .where(table.vector_store_id == self.store.id, table.file_id == file_id)
            .order_by(table.ordinal)
        )
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        info = None
        if rows:
            numbers = np.array([r.number for r in rows], np.int64)
            vectors = await self._stored(file_id, numbers)
            if vectors is None:
                texts = [embedded_text(r.section, r.text) for r in rows]
                vectors = await embedded(self._embedder(), texts)
                self._call.usage.embedding_tokens += sum(r.tokens for r in rows)
                self._call.model = self.build.embedding_model
            info = await self._pool.run(self.target.engine.write, file_id, numbers, vectors)
        noted, info = await self._note(file_id, attachment, info, len(rows))
        if noted and rows:
            await self._pool.run(self.target.engine.publish, info)
        elif rows and info is None:
            await self._pool.run(self.target.engine.remove, file_id)

    def _embedder(self) -> Embedder:
        build = self.build
        _, embedder = self._stores.model(build.embedding_model)
        if build.embedding_version not in (None, embedder.fingerprint):
            raise Conflict(
                f"The embedding model '{build.embedding_model}' has changed since this build was "
                "begun. Start a new build.",
                code="embedding_model_changed",
            )
        return embedder

    async def _stored(self, file_id: str, numbers: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """These vectors from the searched build; None where its model is another one."""
        store, build, live = self.store, self.build, self.index.live
        made_by = (store.embedding_model, store.embedding_version)
        if made_by != (build.embedding_model, build.embedding_version) or live.build != store.build:
            return None
        found, vectors = await self._pool.run(live.engine.vectors_of, file_id)
        place = {number: i for i, number in enumerate(found.tolist())}
        if not all(number in place for number in numbers.tolist()):
            return None  # removed, or attached anew, a moment ago
        stored: NDArray[np.float32] = vectors[[place[number] for number in numbers.tolist()]]
        return stored

    async def _note(
        self, file_id: str, attachment: str, info: SegmentInfo | None, count: int
    ) -> tuple[bool, SegmentInfo | None]:
        """Record a file that was written; False when it is not attached so any more."""
        store_id, entry, told = self.store.id, vector_store_files.c, index_builds.c
        async with self._db.write() as connection:
            counted = await connection.execute(
                update(index_builds)
                .where(told.vector_store_id == store_id, told.id == self.build.id)
                .values(passages=told.passages + count)
            )
            if not counted.rowcount:
                raise Conflict("The build was deleted.", code="build_deleted")
            still = select(entry.job_id).where(
                entry.vector_store_id == store_id, entry.file_id == file_id
            )
            if await connection.scalar(still) != attachment:
                return False, info
            if info is not None:
                about = select(vector_stores.c.version).where(vector_stores.c.id == store_id)
                info = replace(info, version=int(await connection.scalar(about) or 0))
                await self.target.manifest.put(connection, info)
            await connection.execute(
                insert(build_files).values(
                    vector_store_id=store_id,
                    build=self.build.id,
                    file_id=file_id,
                    job_id=attachment,
                )
            )
        return True, info
