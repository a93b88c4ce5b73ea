"""Files, as in OpenAI's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.api.common import ERRORS, Cursor, Deleted, Id, ListPage, Order
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.retrieval.files import File

router = APIRouter(prefix="/v1/files", route_class=GovernedRoute, tags=["files"], responses=ERRORS)
Read = Annotated[Call, Depends(Scope("files:read"))]
Write = Annotated[Call, Depends(Scope("files:write"))]
Upload = Annotated[Call, Depends(Scope("files:write", upload=True))]
CHUNK_BYTES = 1 << 20


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(ListPage[FileObject]):
    pass


def shown(file: File) -> FileObject:
    """The wire shape of a file."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at),
        filename=file.filename,
        purpose=file.purpose,
    )


@router.post("")
async def upload_file(
    request: Request, call: Upload, file: UploadFile, purpose: Annotated[str, Form()]
) -> FileObject:
    """Upload one file; it is stored durably when this returns."""
    services = request.app.state.services
    key = request.headers.get("idempotency-key")
    return shown(await services.files.upload(call, file.filename or "", purpose, file.file, key))


@router.get("")
async def list_files(
    request: Request,
    call: Read,
    purpose: Annotated[str | None, Query(max_length=40)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    after: Cursor = None,
) -> FileList:
    """List the files that the caller may see."""
    page = await request.app.state.services.files.page(
        call, purpose=purpose, limit=limit, order=order, after=after
    )
    data = [shown(f) for f in page.rows]
    return FileList.of(data, page.has_more)


@router.get("/{file_id}")
async def get_file(request: Request, call: Read, file_id: Id) -> FileObject:
    """Get a file's description."""
    return shown(await request.app.state.services.files.get(call, file_id))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes."}},
)
async def get_file_content(request: Request, call: Read, file_id: Id) -> StreamingResponse:
    """Get a file's bytes."""
    file, stream = await request.app.state.services.files.content(call, file_id)
    headers = {
        "content-length": str(file.bytes),
        # never shown in place: an uploaded page must not run as one of ours
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(
        _chunks(stream), media_type="application/octet-stream", headers=headers
    )


async def _chunks(stream: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while chunk := await asyncio.to_thread(stream.read, CHUNK_BYTES):
            yield chunk
    finally:
        stream.close()


@router.delete("/{file_id}")
async def delete_file(request: Request, call: Write, file_id: Id) -> Deleted:
    """Delete a file, and its passages from every vector store."""
    services: Any = request.app.state.services
    file = await services.files.get(call, file_id)
    await services.store_files.delete_file(call, file_id)
    await services.files.erase(file_id, file.blob)
    return Deleted(id=file_id, object="file")
