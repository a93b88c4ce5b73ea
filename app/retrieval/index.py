"""One vector store opened for search: vectors, words and who owns which passage."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFound
from app.pools import Pool
from app.retrieval.engines.base import SegmentInfo
from app.retrieval.engines.faiss import FaissEngine
from app.retrieval.fusion import weighted_sum
from app.retrieval.lexical import LexicalIndex
from app.retrieval.types import AttributeValue
from app.store.db import Database
from app.store.models import files, passages, segments, vector_store_files, vector_stores

MOST_SEGMENTS = 32
WORDS_BATCH = 1000
# A segment without a manifest is what a crash left, or what another gateway is about to name.
ABANDONED_S = 3600.0
DENSE_WEIGHT = 0.6  # measured on Cranfield: nDCG@10 0.437, dense alone 0.417, BM25 0.372
# bge-small cosines of unrelated texts lie near 0.4, of paraphrases near 0.9
COSINE_LOW, COSINE_HIGH = 0.4, 0.9


@dataclass(frozen=True, slots=True)
class Found:
    """A passage number with its fused score and what each side gave."""

    number: int
    score: float
    dense: float | None
    lexical: float | None


@dataclass(frozen=True, slots=True)
class NewPassage:
    """A passage on its way into the index."""

    number: int
    id: str
    ordinal: int
    text: str
    page: int | None
    section: str | None
    tokens: int


class StoreIndex:
    """SQL says what is live; vectors and words only help to find it.

    Order of an ingest: words, segment file, one SQL transaction, memory. A crash before the
    transaction leaves words and a file that SQL does not name: both are ignored and swept.
    """

    def __init__(
        self, db: Database, pool: Pool, store_id: str, dim: int, folder: Path, vectors_url: str
    ) -> None:
        self._db, self._pool = db, pool
        self.store_id = store_id
        self._folder = folder
        self._engine = FaissEngine(vectors_url, dim)
        self._lexical = LexicalIndex.open(folder / "words")
        self._segments: list[SegmentInfo] = []
        # Searches read these in other threads: looked up there, never walked through.
        self._id_of: dict[int, str] = {}  # live passage number -> id
        self._number_of: dict[str, int] = {}  # and back
        self._numbers_of: dict[str, list[int]] = {}  # file id -> its live passages
        self.attributes: dict[str, dict[str, AttributeValue]] = {}  # by live file id
        self.filenames: dict[str, str] = {}
        self.version = -1
        self.users = 0
        self._gone = False
        self._writing = asyncio.Lock()
        self._compacting: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """The number of live passages."""
        return len(self._id_of)

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
            if 0 < at_least <= self.version:
                return
            if self._gone:
                raise NotFound("vector store", self.store_id)
            async with self._db.read() as connection:
                version = await connection.scalar(
                    select(vector_stores.c.version).where(
                        vector_stores.c.id == self.store_id, vector_stores.c.deleted_at.is_(None)
                    )
                )
                if version is None:
                    raise NotFound("vector store", self.store_id)
                manifest = await connection.execute(
                    select(segments)
                    .where(segments.c.vector_store_id == self.store_id)
                    .order_by(segments.c.created_at, segments.c.name)  # later ones win
                )
                infos = [
                    SegmentInfo(r["name"], r["count"], r["dim"], r["sha256"], r["bytes"])
                    for r in manifest.mappings()
                ]
                live = await connection.execute(
                    select(passages.c.number, passages.c.id, passages.c.file_id).where(
                        passages.c.vector_store_id == self.store_id
                    )
                )
                rows = live.all()
                await self._load_files(connection)
            numbers = np.array([r.number for r in rows], np.int64)
            await self._pool.run(self._engine.load, infos, numbers)
            self._segments = infos
            self._id_of = {r.number: r.id for r in rows}
            self._number_of = {r.id: r.number for r in rows}
            numbers_of: dict[str, list[int]] = {}
            for row in rows:
                numbers_of.setdefault(row.file_id, []).append(row.number)
            self._numbers_of = numbers_of
            self.version = int(version)
            await self._pool.run(self._sweep, {i.name for i in infos}, ABANDONED_S)
            if self._lexical.count != len(rows):
                await self._rebuild_words()

    async def _load_files(self, connection: AsyncConnection) -> None:
        rows = await connection.execute(
            select(files.c.id, files.c.filename, vector_store_files.c.attributes)
            .join(vector_store_files, vector_store_files.c.file_id == files.c.id)
            .where(vector_store_files.c.vector_store_id == self.store_id)
        )
        found = rows.all()
        self.attributes = {r.id: dict(r.attributes) for r in found}
        self.filenames = {r.id: r.filename for r in found}

    def _sweep(self, named: set[str], older_than_s: float) -> None:
        """Delete segments that no manifest names and that nobody can be about to name."""
        for name in self._engine.segment_names():
            if name not in named and time.time() - _made_at(name) >= older_than_s:
                self._engine.delete_segment(name)

    async def _rebuild_words(self) -> None:
        """Write the words anew from SQL: a crash left some that SQL does not know."""
        folder = self._folder / "words"
        await self._pool.run(self._lexical.close)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        lexical = await self._pool.run(LexicalIndex.open, folder)
        columns = (passages.c.id, passages.c.file_id, passages.c.section, passages.c.text)
        query = select(passages.c.number, *columns).order_by(passages.c.number).limit(WORDS_BATCH)
        query, last = query.where(passages.c.vector_store_id == self.store_id), -1
        while True:
            async with self._db.read() as connection:
                rows = (await connection.execute(query.where(passages.c.number > last))).all()
            if not rows:
                break
            last = rows[-1].number
            await self._pool.run(lexical.add, [(r.id, r.file_id, r.section, r.text) for r in rows])
        await self._pool.run(lexical.commit)
        self._lexical = lexical

    async def add(
        self,
        file_id: str,
        job_id: str,
        new: list[NewPassage],
        vectors: NDArray[np.float32],
        usage_bytes: int,
    ) -> bool:
        """Make one file searchable; False when it no longer waits for this job.

        Args:
            vectors: float32 array of shape (len(new), dim), unit norm.
        """
        waiting = (
            (vector_store_files.c.vector_store_id == self.store_id)
            & (vector_store_files.c.file_id == file_id)
            & (vector_store_files.c.job_id == job_id)
            & (vector_store_files.c.status == "in_progress")
        )
        async with self._writing:
            async with self._db.read() as connection:
                if (
                    await connection.scalar(select(vector_store_files.c.file_id).where(waiting))
                    is None
                ):
                    return False  # before its words replace those of another attachment
            await self._pool.run(self._write_words, file_id, new)
            numbers = np.array([p.number for p in new], np.int64)
            info = None
            if new:
                info = await self._pool.run(self._engine.write_segment, numbers, vectors)
            async with self._db.write() as connection:
                done = await connection.execute(
                    update(vector_store_files)
                    .where(waiting)
                    .values(status="completed", usage_bytes=usage_bytes, last_error=None)
                )
                if done.rowcount:
                    await self._insert(connection, file_id, new, info)
                    await self._load_files(connection)
            if not done.rowcount:
                await self._pool.run(self._forget_words, file_id)
                return False
            if info is not None:
                self._segments.append(info)
                await self._pool.run(self._engine.add, numbers, vectors)
            for passage in new:
                self._id_of[passage.number] = passage.id
                self._number_of[passage.id] = passage.number
            self._numbers_of[file_id] = [p.number for p in new]
            self.version += 1
        if len(self._segments) > MOST_SEGMENTS:
            self.compact_soon()
        return True

    async def _insert(
        self,
        connection: AsyncConnection,
        file_id: str,
        new: list[NewPassage],
        info: SegmentInfo | None,
    ) -> None:
        if info is not None:
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
            await connection.execute(insert(passages), rows)
            await connection.execute(insert(segments).values(**self._row(info)))
        await self._bump(connection)

    def _row(self, info: SegmentInfo) -> dict[str, object]:
        return {
            "vector_store_id": self.store_id,
            "name": info.name,
            "count": info.count,
            "dim": info.dim,
            "sha256": info.sha256,
            "bytes": info.bytes,
            "created_at": time.time(),
        }

    async def _bump(self, connection: AsyncConnection) -> None:
        await connection.execute(
            update(vector_stores)
            .where(vector_stores.c.id == self.store_id)
            .values(version=vector_stores.c.version + 1, last_active_at=time.time())
        )

    def _write_words(self, file_id: str, new: list[NewPassage]) -> None:
        self._lexical.delete_file(file_id)
        self._lexical.add((p.id, file_id, p.section, p.text) for p in new)
        self._lexical.commit()

    def _forget_words(self, file_id: str) -> None:
        self._lexical.delete_file(file_id)
        self._lexical.commit()

    async def remove_file(self, file_id: str) -> bool:
        """Detach a file: gone from SQL first, then from memory, words and segments."""
        async with self._writing:
            async with self._db.write() as connection:
                done = await connection.execute(
                    delete(vector_store_files).where(
                        vector_store_files.c.vector_store_id == self.store_id,
                        vector_store_files.c.file_id == file_id,
                    )
                )
                if not done.rowcount:
                    return False
                await connection.execute(
                    delete(passages).where(
                        passages.c.vector_store_id == self.store_id,
                        passages.c.file_id == file_id,
                    )
                )
                await self._bump(connection)
            await self._forget(file_id)
        return True

    async def forget_file(self, file_id: str) -> None:
        """Drop a file that SQL no longer knows from memory, words and segments."""
        async with self._writing:
            await self._forget(file_id)

    async def _forget(self, file_id: str) -> None:
        if self._gone:
            return
        gone = self._numbers_of.pop(file_id, [])
        for number in gone:
            self._number_of.pop(self._id_of.pop(number), None)
        self.attributes.pop(file_id, None)
        self.filenames.pop(file_id, None)
        self.version += 1
        await self._pool.run(self._engine.remove, np.array(gone, np.int64))
        await self._pool.run(self._forget_words, file_id)
        if gone:
            self.compact_soon()

    async def set_attributes(self, file_id: str, attributes: dict[str, AttributeValue]) -> bool:
        """Replace a file's attributes; False when it is not attached."""
        async with self._writing:
            async with self._db.write() as connection:
                done = await connection.execute(
                    update(vector_store_files)
                    .where(
                        vector_store_files.c.vector_store_id == self.store_id,
                        vector_store_files.c.file_id == file_id,
                    )
                    .values(attributes=attributes)
                )
                if done.rowcount:
                    await self._bump(connection)
            if done.rowcount:
                self.attributes[file_id] = attributes
                self.version += 1
            return bool(done.rowcount)

    def compact_soon(self) -> None:
        """Rewrite the segments without what was deleted, in the background."""
        if self._compacting is None or self._compacting.done():
            self._compacting = asyncio.create_task(self._compact())

    async def _compact(self) -> None:
        async with self._writing:
            if self._gone:
                return
            old = self._segments
            live = np.array(sorted(self._id_of), np.int64)
            info = None
            if len(live):
                info = await self._pool.run(self._engine.merge, old, live)
            async with self._db.write() as connection:
                await connection.execute(
                    delete(segments).where(
                        segments.c.vector_store_id == self.store_id,
                        segments.c.name.in_([s.name for s in old]),
                    )
                )
                if info is not None:
                    await connection.execute(insert(segments).values(**self._row(info)))
            self._segments = [] if info is None else [info]
            for segment in old:
                await self._pool.run(self._engine.delete_segment, segment.name)

    async def close(self) -> None:
        """Finish writing and release the files."""
        if self._compacting is not None:
            await asyncio.gather(self._compacting, return_exceptions=True)
        async with self._writing:
            await self._pool.run(self._lexical.close)

    async def destroy(self) -> None:
        """Close, and remove the files from disk; what is still to be written is dropped."""
        self._gone = True
        await self.close()
        await self._pool.run(self._sweep, set(), 0.0)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def search(
        self,
        query: str,
        vector: NDArray[np.float32],
        k: int,
        file_ids: set[str] | None = None,
    ) -> list[Found]:
        """Return the best ``k`` passages by fused dense and lexical rank; blocking.

        The fused ranking is scaled by how near the best vector is, so that a query which
        nothing resembles gets low scores throughout.

        Args:
            vector: float32 array of shape (dim,), unit norm.
            file_ids: search these files only; all where None.
        """
        wide = max(4 * k, 50)
        allowed = None
        if file_ids is not None:
            numbers = [n for f in file_ids for n in self._numbers_of.get(f, ())]
            allowed = np.array(numbers, np.int64)
        ids, cosines = self._engine.search(vector, wide, allowed)
        dense = {
            int(n): float(c) for n, c in zip(ids, cosines, strict=True) if int(n) in self._id_of
        }
        lexical = {
            self._number_of[i]: s
            for i, s in self._lexical.search(query, wide, file_ids)
            if i in self._number_of
        }
        if not dense and not lexical:
            return []
        fused = weighted_sum(
            [
                [(str(n), c) for n, c in dense.items()],
                [(str(n), s) for n, s in lexical.items()],
            ],
            [DENSE_WEIGHT, 1 - DENSE_WEIGHT],
        )
        nearest = max(dense.values(), default=COSINE_LOW)
        strength = min(1.0, max(0.0, (nearest - COSINE_LOW) / (COSINE_HIGH - COSINE_LOW)))
        return [
            Found(int(n), s * strength, dense.get(int(n)), lexical.get(int(n)))
            for n, s in fused[:k]
        ]


def _made_at(segment: str) -> float:
    """When a segment was written, Unix seconds: its name is a UUIDv7."""
    try:
        return int(segment.removeprefix("seg_")[:12], 16) / 1e3
    except ValueError:
        return 0.0
