"""Which FAISS segments of a store's build count, kept in SQL."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.retrieval.engines.base import SegmentInfo
from app.store.db import Database
from app.store.models import removals, segments

_FIELDS = tuple(SegmentInfo.__dataclass_fields__)


class Manifest:
    """The segments of one build of one store, and the files removed since they were written."""

    def __init__(self, db: Database, store_id: str, build: str) -> None:
        self._db, self.store_id, self.build = db, store_id, build
        self._mine = (segments.c.vector_store_id == store_id) & (segments.c.build == build)

    async def read(
        self, connection: AsyncConnection
    ) -> tuple[list[SegmentInfo], list[tuple[str, int]]]:
        """Return the segments, oldest first, and (file id, version) of the removals."""
        rows = await connection.execute(
            select(segments).where(self._mine).order_by(segments.c.created_at, segments.c.name)
        )
        infos = [SegmentInfo(**{name: row[name] for name in _FIELDS}) for row in rows.mappings()]
        gone = await connection.execute(
            select(removals.c.file_id, removals.c.version).where(
                removals.c.vector_store_id == self.store_id
            )
        )
        return infos, [(r.file_id, r.version) for r in gone]

    async def put(self, connection: AsyncConnection, info: SegmentInfo) -> None:
        """Name a segment."""
        named = {name: getattr(info, name) for name in _FIELDS}
        await connection.execute(
            insert(segments).values(
                vector_store_id=self.store_id, build=self.build, created_at=time.time(), **named
            )
        )

    async def replace(self, names: Sequence[str], merged: SegmentInfo | None) -> bool:
        """Name a merged segment in place of others; False when they are gone already."""
        async with self._db.write() as connection:
            found = select(segments.c.name).where(self._mine, segments.c.name.in_(names))
            if len((await connection.execute(found.with_for_update())).all()) != len(names):
                return False
            await connection.execute(delete(segments).where(self._mine, segments.c.name.in_(names)))
            if merged is not None:
                await self.put(connection, merged)
            # removals are noted for all builds: the oldest segment of any of them counts
            every = segments.c.vector_store_id == self.store_id
            oldest = await connection.scalar(select(func.min(segments.c.version)).where(every))
            done = removals.c.vector_store_id == self.store_id
            if oldest is not None:
                done &= removals.c.version <= oldest
            await connection.execute(delete(removals).where(done))
        return True
