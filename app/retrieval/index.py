"""One vector store opened for search: vectors, words and who owns which passage."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.gateway.call import Principal
from app.pools import Pool
from app.retrieval.access import AccessList, access_list, sees
from app.retrieval.contents import bump, passage_count, remove_passages
from app.retrieval.engines.base import SegmentInfo, VectorEngine
from app.retrieval.engines.faiss import FaissEngine
from app.retrieval.lexical import LexicalIndex
from app.retrieval.manifest import Manifest
from app.retrieval.store_words import StoreWords
from app.retrieval.types import AttributeValue, NewPassage
from app.retrieval.visible import StoreAccess
from app.store.db import Database
from app.store.models import files, passages, vector_store_files, vector_stores

# A segment without a manifest is what a crash left, or what another gateway is about to name.
ABANDONED_S = 3600.0

MakeEngine = Callable[[str, int, str], VectorEngine]  # of an engine's name, dim and build


class BuildChanged(Exception):
    """Another build is searched now: vectors may be of another model. Begin again."""


@dataclass(frozen=True, slots=True)
class Live:
    """One build of a store's vectors, opened."""

    build: str
    engine: VectorEngine
    manifest: Manifest


class StoreIndex:
    """SQL says what is live; vectors and words only help to find it.

    Order of an ingest: words, vectors, one SQL transaction, memory. A crash before the
    transaction leaves words and vectors that SQL does not name: they are never returned, and
    they are swept. Searches wait for none of it.
    """

    def __init__(
        self,
        db: Database,
        pool: Pool,
        store_id: str,
        make: MakeEngine,
        folder: Path,
        language: str = "en",
    ) -> None:
        self._db, self._pool = db, pool
        self.store_id = store_id
        self._folder = folder
        self._make = make
        self._live: Live | None = None
        self._words = StoreWords(db, pool, store_id, folder / "words", language)
        # Searches read these in other threads: looked up there, never walked through.
        self.attributes: dict[str, dict[str, AttributeValue]] = {}  # by live file id
        self.filenames: dict[str, str] = {}
        self.access = StoreAccess()
        self.version = -1
        self.users = 0
        self._gone = False
        self._writing = asyncio.Lock()
        self._compacting: asyncio.Task[None] | None = None

    @property
    def live(self) -> Live:
        """The build that is searched; there once :meth:`load` has ended. Read it once a search."""
        assert self._live is not None
        return self._live

    @property
    def engine(self) -> VectorEngine:
        """The engine of the build that is searched."""
        return self.live.engine

    @property
    def words(self) -> LexicalIndex:
        """The word index; there once :meth:`load` has ended."""
        return self._words.index

    @property
    def idle(self) -> bool:
        """Whether nobody searches it, writes to it or compacts it."""
        compacting = self._compacting is not None and not self._compacting.done()
        return not self.users and not compacting

    async def load(self, at_least: int = 0) -> None:
        """Read the manifest and what is live from SQL; verify and map the segments.

        Nothing is read when memory has reached the version ``at_least`` by the time that
        whoever was writing is done.

        Raises:
            NotFound: the store was deleted.
            Unavailable: a segment is missing or damaged.
        """
        async with self._writing:
            if not 0 < at_least <= self.version:
                await self._load()

    async def _load(self) -> None:
        if self._gone:
            raise NotFound("vector store", self.store_id)
        async with self._db.read() as connection:
            about = vector_stores.c
            found = await connection.execute(
                select(about.version, about.build, about.engine, about.dim).where(
                    about.id == self.store_id, about.deleted_at.is_(None)
                )
            )
            row = found.one_or_none()
            if row is None:
                raise NotFound("vector store", self.store_id)
            infos, removed = await Manifest(self._db, self.store_id, row.build).read(connection)
            live = await passage_count(connection, self.store_id)
            await self._load_files(connection)
        opened = self._live
        if opened is None or opened.build != row.build:
            opened = await self._made(row.engine, row.dim, row.build)
        await self._mapped(opened, infos, removed)
        self._live, self.version = opened, int(row.version)
        await self._words.open(live, self.filenames)
        self.compact_soon()

    async def _made(self, engine: str, dim: int, build: str) -> Live:
        """A build, nothing loaded yet."""
        made = await self._pool.run(self._make, engine, dim, build)
        return Live(build, made, Manifest(self._db, self.store_id, build))

    async def _mapped(
        self, live: Live, infos: list[SegmentInfo], removed: list[tuple[str, int]]
    ) -> None:
        """Map the segments of a build's manifest, and sweep what a crash left beside them."""
        if isinstance(live.engine, FaissEngine):
            await self._pool.run(live.engine.load, infos, removed)
            await self._pool.run(live.engine.sweep, {i.name for i in infos}, ABANDONED_S)

    async def open_build(self, engine: str, dim: int, build: str) -> Live:
        """Open a build beside the one that is searched, with what it holds so far.

        Raises:
            Unavailable: a segment is missing or damaged, or the engine is not reached.
        """
        live = await self._made(engine, dim, build)
        async with self._db.read() as connection:
            infos, removed = await live.manifest.read(connection)
        await self._mapped(live, infos, removed)
        return live

    async def _load_files(self, connection: AsyncConnection) -> None:
        rows = await connection.execute(
            select(
                files.c.id,
                files.c.filename,
                vector_store_files.c.attributes,
                vector_store_files.c.access,
            )
            .join(vector_store_files, vector_store_files.c.file_id == files.c.id)
            .where(vector_store_files.c.vector_store_id == self.store_id)
        )
        found = rows.all()
        access = await self._pool.run(StoreAccess, [(r.id, r.access) for r in found])
        self.attributes = {r.id: dict(r.attributes) for r in found}
        self.filenames = {r.id: r.filename for r in found}
        self.access = access

    # -- changes ------------------------------------------------------------------------

    async def add(
        self,
        file_id: str,
        job_id: str,
        new: list[NewPassage],
        vectors: NDArray[np.float32],
        usage_bytes: int,
        build: str,
    ) -> bool:
        """Make one file searchable; False when it no longer waits for this job.

        A file that it replaces is gone in the same transaction, so that SQL never shows both or
        neither; memory forgets it last, and a search that held on to it begins again.

        Args:
            vectors: float32 array of shape (len(new), dim), unit norm.
            build: that the vectors were made for.

        Raises:
            BuildChanged: another build has become the one that is searched.
        """
        waiting = (
            (vector_store_files.c.vector_store_id == self.store_id)
            & (vector_store_files.c.file_id == file_id)
            & (vector_store_files.c.job_id == job_id)
            & (vector_store_files.c.status == "in_progress")
        )
        async with self._writing:
            if self.live.build != build:
                raise BuildChanged
            async with self._db.read() as connection:
                known = select(files.c.filename).join(
                    vector_store_files, vector_store_files.c.file_id == files.c.id
                )
                filename = await connection.scalar(known.where(waiting))
            if filename is None:
                return False  # before its words replace those of another attachment
            await self._pool.run(self._words.write, file_id, filename, new)
            info = None
            if new:
                numbers = np.array([p.number for p in new], np.int64)
                info = await self._pool.run(self.engine.write, file_id, numbers, vectors)
            async with self._db.write() as connection:
                done = await connection.execute(
                    update(vector_store_files)
                    .where(waiting)
                    .values(status="completed", usage_bytes=usage_bytes, last_error=None)
                )
                if done.rowcount:
                    version = await bump(connection, self.store_id)
                    if info is not None:
                        info = replace(info, version=version)
                    await self._insert(connection, file_id, new, info)
                    table = vector_store_files.c
                    about = select(table.attributes, table.access, table.replaces)
                    labels = (await connection.execute(about.where(self._is(file_id)))).one()
                    replaced = await self._replaced(connection, labels.replaces)
            if not done.rowcount:
                await self._pool.run(self._words.forget, file_id)
                if info is None:
                    await self._pool.run(self.engine.remove, file_id)
                return False
            self.access.put(file_id, access_list(labels.access))  # before it can be found
            self.attributes[file_id], self.filenames[file_id] = dict(labels.attributes), filename
            if new:
                await self._pool.run(self.engine.publish, info)
            self._advance(version)
            if replaced:
                await self._forget(labels.replaces, replaced)
        self.compact_soon()
        return True

    async def _replaced(self, connection: AsyncConnection, file_id: str | None) -> int:
        """Detach a file for the one that replaces it; returns the version, 0 where it is not in."""
        if file_id is None:
            return 0
        gone = await connection.execute(delete(vector_store_files).where(self._is(file_id)))
        if not gone.rowcount:
            return 0
        return await remove_passages(connection, self.store_id, file_id)

    def _advance(self, version: int) -> None:
        """Note that memory has followed a change; not when another gateway's came before it."""
        if version == self.version + 1:
            self.version = version

    async def _insert(
        self,
        connection: AsyncConnection,
        file_id: str,
        new: list[NewPassage],
        info: SegmentInfo | None,
    ) -> None:
        rows = [
            {
                "number": p.number,
                "id": p.id,
                "vector_store_id": self.store_id,
                "file_id": file_id,
                "ordinal": p.ordinal,
                "text": p.text,
                "page": p.page,
                "section": p.section,
                "tokens": p.tokens,
            }
            for p in new
        ]
        if rows:
            await connection.execute(insert(passages), rows)
        if info is not None:
            await self.live.manifest.put(connection, info)

    async def remove_file(self, file_id: str) -> bool:
        """Detach a file: gone from SQL first, then from memory, words and segments."""
        async with self._writing:
            async with self._db.write() as connection:
                done = await connection.execute(delete(vector_store_files).where(self._is(file_id)))
                if not done.rowcount:
                    return False
                version = await remove_passages(connection, self.store_id, file_id)
            await self._forget(file_id, version)
        return True

    async def forget_file(self, file_id: str, version: int) -> None:
        """Drop a file that SQL no longer knows since ``version`` from memory, words, vectors."""
        async with self._writing:
            await self._forget(file_id, version)

    async def _forget(self, file_id: str, version: int) -> None:
        if self._gone:
            return
        self.attributes.pop(file_id, None)
        self.filenames.pop(file_id, None)
        self.access.drop(file_id)
        self._advance(version)
        await self._pool.run(self.engine.remove, file_id)
        await self._pool.run(self._words.forget, file_id)
        self.compact_soon()

    async def set_attributes(self, file_id: str, attributes: dict[str, AttributeValue]) -> bool:
        """Replace a file's attributes; False when it is not attached."""
        async with self._writing:
            async with self._db.write() as connection:
                version = await self._change(connection, file_id, attributes=attributes)
            if version:
                self.attributes[file_id] = attributes
                self._advance(version)
        return bool(version)

    async def set_access(self, who: Principal, file_id: str, access: AccessList | None) -> bool:
        """Replace a file's access list; False when it is not attached, or not for ``who`` to see.

        Searches that have begun read the list again with the texts, so none that ends after
        this returns shows the file to those who may not see it any more.
        """
        async with self._writing:
            async with self._db.write() as connection:
                # looked at again: another may have taken the file from him a moment ago
                now = select(vector_store_files.c.access).where(self._is(file_id))
                row = (await connection.execute(now.with_for_update())).one_or_none()
                if row is None or not sees(who, access_list(row.access)):
                    return False
                version = await self._change(
                    connection, file_id, access=access.stored() if access else None
                )
            self.access.put(file_id, access)
            self._advance(version)
        return True

    async def _change(self, connection: AsyncConnection, file_id: str, **values: Any) -> int:
        """Change a file's row; returns the version that it makes, 0 when it is not attached."""
        about = update(vector_store_files).where(self._is(file_id))
        if not (await connection.execute(about.values(**values))).rowcount:
            return 0
        return await bump(connection, self.store_id)

    def _is(self, file_id: str) -> Any:
        table = vector_store_files.c
        return (table.vector_store_id == self.store_id) & (table.file_id == file_id)

    # -- merging ------------------------------------------------------------------------

    def compact_soon(self) -> None:
        """Merge segments in the background where that is due."""
        if self._compacting is None or self._compacting.done():
            self._compacting = asyncio.create_task(self.compact(self.live))

    async def compact(self, live: Live) -> None:
        """Merge a build's segments while it is due; writers and searches go on meanwhile."""
        engine = live.engine
        if not isinstance(engine, FaissEngine):
            return
        while not self._gone:
            async with self._writing:
                version = self.version
                if live is not self._live:
                    version = await self.refresh(live)
                due = engine.due()
            if not due:
                return
            merged = await self._pool.run(engine.merge, due)
            names = [s.info.name for s in due]
            async with self._writing:
                if self._gone:
                    return  # the folder is removed as a whole
                if merged is not None:
                    merged = replace(merged, version=version)
                if not await live.manifest.replace(names, merged):
                    if merged is not None:  # another gateway merged them first
                        await self._pool.run(engine.delete_segment, merged.name)
                    if live is self._live:
                        await self._load()
                    return
                await self._pool.run(engine.swap, due, merged)
            for name in names:
                await self._pool.run(engine.delete_segment, name)

    async def refresh(self, live: Live) -> int:
        """Tell a build that is not searched what was removed; returns the version that this is."""
        async with self._db.read() as connection:
            about = select(vector_stores.c.version).where(vector_stores.c.id == self.store_id)
            version = int(await connection.scalar(about) or 0)
            infos, removed = await live.manifest.read(connection)
        if isinstance(live.engine, FaissEngine):
            await self._pool.run(live.engine.load, infos, removed)
        return version

    async def close(self) -> None:
        """Finish writing and release the files."""
        if self._compacting is not None:
            await asyncio.gather(self._compacting, return_exceptions=True)
        async with self._writing:
            await self._words.close()

    async def destroy(self) -> None:
        """Close, and remove the folder; what is still to be written is dropped.

        The engines are the caller's to destroy, those of other builds among them.
        """
        self._gone = True
        await self.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep everybody else from changing the store; searches go on."""
        async with self._writing:
            yield

    async def reload(self) -> None:
        """Read SQL anew; only while :meth:`held`."""
        await self._load()
