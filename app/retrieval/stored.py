"""How many bytes each tenant keeps: of files, of vectors, of words."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import func, select

from app.store.db import Database
from app.store.models import files, passages, segments, vector_store_files, vector_stores

NUMBER_BYTES = 4  # of a vector in an engine that does not tell its bytes


@dataclass(slots=True)
class Stored:
    """Bytes of one tenant.

    Attributes:
        files: uploaded, as they came.
        vectors: segments with their index; in Milvus, four bytes a number.
        words: the texts of passages, which the word index holds.
    """

    files: int = 0
    vectors: int = 0
    words: int = 0

    @property
    def bytes(self) -> int:
        return self.files + self.vectors + self.words


async def stored(db: Database) -> dict[str, Stored]:
    """What each tenant keeps at this moment, by its id."""
    found: dict[str, Stored] = defaultdict(Stored)
    of, store = vector_stores.c.tenant_id, vector_stores.c.id
    there = vector_stores.c.deleted_at.is_(None)
    uploaded = (
        select(files.c.tenant_id, func.sum(files.c.bytes).label("bytes"))
        .where(files.c.deleted_at.is_(None))
        .group_by(files.c.tenant_id)
    )
    for row in await db.rows(uploaded):
        found[row["tenant_id"]].files = int(row["bytes"])
    words = (
        select(of, func.sum(vector_store_files.c.usage_bytes).label("bytes"))
        .join(vector_stores, store == vector_store_files.c.vector_store_id)
        .where(there, vector_store_files.c.status == "completed")
        .group_by(of)
    )
    for row in await db.rows(words):
        found[row["tenant_id"]].words = int(row["bytes"])
    local = (
        select(of, func.sum(segments.c.bytes + segments.c.index_bytes).label("bytes"))
        .join(vector_stores, store == segments.c.vector_store_id)
        .where(there)
        .group_by(of)
    )
    size = func.sum(vector_stores.c.dim * NUMBER_BYTES).label("bytes")
    elsewhere = (
        select(of, size)
        .join(passages, store == passages.c.vector_store_id)
        .where(there, vector_stores.c.engine != "faiss")
        .group_by(of)
    )
    for query in (local, elsewhere):
        for row in await db.rows(query):
            found[row["tenant_id"]].vectors += int(row["bytes"])
    return dict(found)
