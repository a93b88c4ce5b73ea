"""Uploaded files: their rows, their bytes, and who may see them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass
from typing import IO, Any

from sqlalchemy import RowMapping, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import BadRequest, Conflict, NotFound, TooLarge
from app.gateway.call import Call
from app.gateway.idempotency import KEPT_S
from app.ids import new_id
from app.retrieval.visible import visible_files
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
    upload_key: str | None = None
    owner: str | None = None


class FileService:
    """Files of a tenant; the bytes lie in the blob store under the file's id."""

    def __init__(self, db: Database, blobs: Blobs, max_bytes: int) -> None:
        self._db, self.blobs, self.max_bytes = db, blobs, max_bytes

    async def upload(
        self,
        call: Call,
        filename: str,
        purpose: str,
        body: IO[bytes],
        idempotency_key: str | None = None,
        *,
        file_id: str | None = None,
        owner: str | None = None,
    ) -> File:
        """Store a file; its bytes and its row are durable on return.

        A call that was cut by a crash after its file was stored, and before its reply was,
        gets the same file when it is sent again with its key. Work that noted a ``file_id`` of
        its own knows by it whether the file was stored.

        Args:
            owner: whose file it is; the caller's where None.

        Raises:
            BadRequest: no usable name, or an unknown purpose.
            TooLarge: the file is over the limit.
            Conflict: the key was used for another file.
        """
        name = _CONTROL.sub("", filename).strip()[:500]
        if not name:
            raise BadRequest("The file needs a filename.", param="file")
        if purpose not in PURPOSES:
            raise BadRequest(f"purpose must be one of {', '.join(PURPOSES)}.", param="purpose")
        return await self._store(call, name, purpose, body, idempotency_key, file_id, owner)

    async def keep(
        self, call: Call, filename: str, purpose: str, body: IO[bytes], file_id: str, owner: str
    ) -> File:
        """Store a file that the gateway made, under an id that its work noted before.

        Raises:
            TooLarge: the file is over the limit.
        """
        return await self._store(call, filename, purpose, body, None, file_id, owner)

    async def _store(
        self,
        call: Call,
        name: str,
        purpose: str,
        body: IO[bytes],
        idempotency_key: str | None,
        file_id: str | None,
        owner: str | None,
    ) -> File:
        size = await asyncio.to_thread(body.seek, 0, 2)
        await asyncio.to_thread(body.seek, 0)
        if size > self.max_bytes:
            raise TooLarge(f"The file is larger than {self.max_bytes:,} bytes. Split it.")
        file_id = file_id or new_id("file-")
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
            None if idempotency_key is None else _upload_key(call, idempotency_key),
            owner or call.principal.owner,
        )
        kept = await self._record(row)
        if kept.id == row.id:
            return row
        await asyncio.to_thread(self.blobs.delete, row.blob)
        if any(getattr(kept, n) != getattr(row, n) for n in ("sha256", "filename", "purpose")):
            raise Conflict(
                "This Idempotency-Key was used for another file. Use a new key for a new file.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return kept

    async def _record(self, row: File) -> File:
        """Insert a file's row; returns the earlier file of the same keyed request, if any."""
        values = {c.name: getattr(row, c.name) for c in files.columns}
        same = files.c.upload_key == row.upload_key
        over = or_(files.c.created_at < row.created_at - KEPT_S, files.c.deleted_at.is_not(None))
        async with self._db.write() as connection:
            if row.upload_key is not None:
                await connection.execute(update(files).where(same, over).values(upload_key=None))
            made = await connection.execute(
                self._db.insert(files)
                .values(values)
                .on_conflict_do_nothing(index_elements=["upload_key"])
                .returning(files.c.id)
            )
            if made.first() is not None:
                return row
            return File(**(await connection.execute(select(files).where(same))).mappings().one())

    async def get(self, call: Call, file_id: str) -> File:
        """Raises NotFound as :meth:`row` does, and for a file that the caller may not see."""
        async with self._db.read() as connection:
            found = await _row(connection, call.tenant_id, file_id)
            if not await visible_files(connection, call.principal, [found]):
                raise NotFound("file", file_id)
        return File(**found)

    async def row(self, tenant_id: str, file_id: str) -> File:
        """A file, whoever may see it: for work, not for callers.

        Raises:
            NotFound: an unknown or deleted id, or another tenant's.
        """
        async with self._db.read() as connection:
            return File(**await _row(connection, tenant_id, file_id))

    async def page(
        self,
        call: Call,
        *,
        purpose: str | None,
        limit: int,
        order: str,
        after: str | None,
    ) -> Page[File]:
        """One page of the tenant's files that the caller may see."""
        who = call.principal
        query = select(files).where(
            files.c.tenant_id == call.tenant_id, files.c.deleted_at.is_(None)
        )
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)

        async def keep(
            connection: AsyncConnection, rows: list[dict[str, Any]]
        ) -> list[dict[str, Any]]:
            return await visible_files(connection, who, rows)

        found = await page_of(
            self._db,
            query,
            files.c.id,
            limit=limit,
            order=order,
            after=after,
            keep=None if who.sees_all else keep,
        )
        return Page([File(**r) for r in found.rows], found.has_more)

    async def require(self, call: Call, file_ids: list[str], param: str) -> None:
        """Raises NotFound for the first id that is not a file that the caller may see."""
        query = select(files.c.id, files.c.owner).where(
            files.c.tenant_id == call.tenant_id,
            files.c.id.in_(file_ids),
            files.c.deleted_at.is_(None),
        )
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            known = {r["id"] for r in await visible_files(connection, call.principal, rows)}
        for file_id in file_ids:
            if file_id not in known:
                raise NotFound("file", file_id, param=param)

    async def content(self, call: Call, file_id: str) -> tuple[File, IO[bytes]]:
        """The file and a stream of its bytes; raises NotFound as :meth:`get` does."""
        file = await self.get(call, file_id)
        try:
            return file, await asyncio.to_thread(self.blobs.open, file.blob)
        except FileNotFoundError:
            raise NotFound("file", file_id) from None  # deleted meanwhile

    async def erase(self, file_id: str, blob: str) -> None:
        """Remove the bytes of a file whose row is marked deleted."""
        await asyncio.to_thread(self.blobs.delete, blob)
        async with self._db.write() as connection:
            await connection.execute(update(files).where(files.c.id == file_id).values(blob=""))

    async def sweep(self) -> None:
        """Remove the bytes of deleted files that a crash left."""
        query = select(files.c.id, files.c.blob).where(
            files.c.deleted_at.is_not(None), files.c.blob != ""
        )
        async with self._db.read() as connection:
            left = (await connection.execute(query)).all()
        for row in left:
            await self.erase(row.id, row.blob)

    async def count(self, tenant_id: str) -> int:
        """How many files the tenant has."""
        query = select(func.count()).where(
            files.c.tenant_id == tenant_id, files.c.deleted_at.is_(None)
        )
        async with self._db.read() as connection:
            return int((await connection.execute(query)).scalar_one())


async def _row(connection: AsyncConnection, tenant_id: str, file_id: str) -> RowMapping:
    query = select(files).where(
        files.c.id == file_id, files.c.tenant_id == tenant_id, files.c.deleted_at.is_(None)
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("file", file_id)
    return row


def _upload_key(call: Call, key: str) -> str:
    said = f"{call.tenant_id}\0{call.principal.owner}\0{key}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
