"""Uploaded files: their rows, their bytes, and who may see them."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import IO

from sqlalchemy import func, insert, select, update

from app.errors import BadRequest, NotFound, TooLarge
from app.gateway.call import Call
from app.ids import new_id
from app.store.blobs import Blobs
from app.store.db import Database
from app.store.models import files
from app.store.paging import Page, page_of

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class File:
    id: str
    tenant_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    blob: str
    created_at: float
    expires_at: float | None
    deleted_at: float | None


class FileService:
    """Files of a tenant; the bytes lie in the blob store under the file's id."""

    def __init__(self, db: Database, blobs: Blobs, max_bytes: int) -> None:
        self._db, self.blobs, self._max_bytes = db, blobs, max_bytes

    async def upload(self, call: Call, filename: str, purpose: str, body: IO[bytes]) -> File:
        """Store a file; its bytes and its row are durable on return.

        Raises:
            BadRequest: no usable name, or an unknown purpose.
            TooLarge: the file is over the limit.
        """
        name = _CONTROL.sub("", filename).strip()[:500]
        if not name:
            raise BadRequest("The file needs a filename.", param="file")
        if purpose not in PURPOSES:
            raise BadRequest(f"purpose must be one of {', '.join(PURPOSES)}.", param="purpose")
        size = await asyncio.to_thread(body.seek, 0, 2)
        await asyncio.to_thread(body.seek, 0)
        if size > self._max_bytes:
            raise TooLarge(f"The file is larger than {self._max_bytes:,} bytes. Split it.")
        file_id = new_id("file-")
        stored = await asyncio.to_thread(self.blobs.put, file_id, body)
        row = File(
            file_id,
            call.tenant_id,
            name,
            purpose,
            stored.bytes,
            stored.sha256,
            file_id,
            time.time(),
            None,
            None,
        )
        async with self._db.write() as connection:
            await connection.execute(
                insert(files).values({c.name: getattr(row, c.name) for c in files.columns})
            )
        return row

    async def get(self, tenant_id: str, file_id: str) -> File:
        """Raises NotFound for an unknown or deleted id, or another tenant's."""
        query = select(files).where(
            files.c.id == file_id, files.c.tenant_id == tenant_id, files.c.deleted_at.is_(None)
        )
        async with self._db.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("file", file_id)
        return File(**row)

    async def names(self, tenant_id: str, file_ids: list[str]) -> dict[str, str]:
        """The filenames of those ids that exist."""
        query = select(files.c.id, files.c.filename).where(
            files.c.tenant_id == tenant_id, files.c.id.in_(file_ids), files.c.deleted_at.is_(None)
        )
        async with self._db.read() as connection:
            return {r.id: r.filename for r in await connection.execute(query)}

    async def page(
        self,
        tenant_id: str,
        *,
        purpose: str | None,
        limit: int,
        order: str,
        after: str | None,
    ) -> Page[File]:
        """One page of the tenant's files."""
        query = select(files).where(files.c.tenant_id == tenant_id, files.c.deleted_at.is_(None))
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        found = await page_of(self._db, query, files.c.id, limit=limit, order=order, after=after)
        return Page([File(**r) for r in found.rows], found.has_more)

    async def content(self, tenant_id: str, file_id: str) -> tuple[File, IO[bytes]]:
        """The file and a stream of its bytes."""
        file = await self.get(tenant_id, file_id)
        return file, await asyncio.to_thread(self.blobs.open, file.blob)

    async def delete(self, tenant_id: str, file_id: str) -> None:
        """Mark the row deleted, then remove the bytes."""
        file = await self.get(tenant_id, file_id)
        async with self._db.write() as connection:
            await connection.execute(
                update(files).where(files.c.id == file_id).values(deleted_at=time.time())
            )
        await asyncio.to_thread(self.blobs.delete, file.blob)

    async def count(self, tenant_id: str) -> int:
        """How many files the tenant has."""
        query = select(func.count()).where(
            files.c.tenant_id == tenant_id, files.c.deleted_at.is_(None)
        )
        async with self._db.read() as connection:
            return int((await connection.execute(query)).scalar_one())
