"""Statements that count and change what a vector store holds."""

from __future__ import annotations

import time

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.models import passages, removals, vector_stores


async def passage_count(connection: AsyncConnection, store_id: str) -> int:
    """How many passages a store has."""
    count = select(func.count()).where(passages.c.vector_store_id == store_id)
    return int(await connection.scalar(count) or 0)


async def bump(connection: AsyncConnection, store_id: str) -> int:
    """Count a change of a store's contents; returns the version that it makes."""
    version = await connection.scalar(
        update(vector_stores)
        .where(vector_stores.c.id == store_id)
        .values(version=vector_stores.c.version + 1, last_active_at=time.time())
        .returning(vector_stores.c.version)
    )
    return int(version or 0)


async def remove_passages(connection: AsyncConnection, store_id: str, file_id: str) -> int:
    """Delete a file's passages and note for its segments that it is gone; returns the version."""
    version = await bump(connection, store_id)
    await connection.execute(
        delete(passages).where(
            passages.c.vector_store_id == store_id, passages.c.file_id == file_id
        )
    )
    await connection.execute(
        insert(removals).values(vector_store_id=store_id, file_id=file_id, version=version)
    )
    return version
