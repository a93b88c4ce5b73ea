"""The words of one vector store: opened, compared with SQL, written anew where they do not fit."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import select

from app.pools import Pool
from app.retrieval.lexical import LexicalIndex, RebuildNeeded
from app.retrieval.types import NewPassage
from app.store.db import Database
from app.store.models import passages

BATCH = 1000  # passages written anew at a time
# Words that SQL does not know cost only space, until there are many.
ORPHANS_LEAST, ORPHANS_SHARE = 1000, 0.2


class StoreWords:
    """SQL says what is live; the words only help to find it, and can always be made from it."""

    def __init__(self, db: Database, pool: Pool, store_id: str, folder: Path, language: str):
        self._db, self._pool, self._store_id = db, pool, store_id
        self._folder, self._language = folder, language
        self._index: LexicalIndex | None = None

    @property
    def index(self) -> LexicalIndex:
        """The word index; there once :meth:`open` has ended."""
        assert self._index is not None
        return self._index

    async def open(self, live: int, filenames: Mapping[str, str]) -> None:
        """Open the words, or write them anew where some are missing or many are of no use.

        Args:
            live: how many passages SQL has.
            filenames: by the id of the live files.
        """
        if self._index is None:
            try:
                self._index = await self._pool.run(LexicalIndex.open, self._folder, self._language)
            except RebuildNeeded:
                await self._rebuild(filenames)
                return
        orphans = self._index.count - live
        if not 0 <= orphans <= max(ORPHANS_LEAST, ORPHANS_SHARE * live):
            await self._rebuild(filenames)

    async def _rebuild(self, filenames: Mapping[str, str]) -> None:
        await self.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        index = await self._pool.run(LexicalIndex.open, self._folder, self._language)
        columns = (passages.c.file_id, passages.c.section, passages.c.text)
        query = select(passages.c.number, *columns).order_by(passages.c.number).limit(BATCH)
        query, last = query.where(passages.c.vector_store_id == self._store_id), -1
        while True:
            async with self._db.read() as connection:
                rows = (await connection.execute(query.where(passages.c.number > last))).all()
            if not rows:
                break
            last = rows[-1].number
            await self._pool.run(
                index.add,
                [(r.number, r.file_id, r.section, filenames.get(r.file_id), r.text) for r in rows],
            )
        await self._pool.run(index.commit)
        self._index = index

    def write(self, file_id: str, filename: str, new: Sequence[NewPassage]) -> None:
        """Put a file's words in place of those that it had; blocking."""
        self.index.delete_file(file_id)
        self.index.add((p.number, file_id, p.section, filename, p.text) for p in new)
        self.index.commit()

    def forget(self, file_id: str) -> None:
        """Remove a file's words; blocking."""
        self.index.delete_file(file_id)
        self.index.commit()

    async def close(self) -> None:
        """Release the files."""
        if self._index is not None:
            await self._pool.run(self._index.close)
