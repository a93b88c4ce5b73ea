"""Batches, as in OpenAI's API: many calls in one file, answered within a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.api.common import ERRORS, Cursor, Id, Limit, ListPage, Metadata, second
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.llm.batches import Batch, Batches

router = APIRouter(
    prefix="/v1/batches", route_class=GovernedRoute, tags=["batches"], responses=ERRORS
)
Read = Annotated[Call, Depends(Scope("batches:read"))]
Write = Annotated[Call, Depends(Scope("batches:write"))]


class BatchBody(BaseModel):
    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    endpoint: Annotated[str, Field(min_length=1, max_length=60)]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


class BatchError(BaseModel):
    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Literal[
        "validating",
        "failed",
        "in_progress",
        "finalizing",
        "completed",
        "expired",
        "cancelling",
        "cancelled",
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(ListPage[BatchObject]):
    pass


def shown(batch: Batch) -> BatchObject:
    """The wire shape of a batch."""
    times: dict[str, Any] = {
        name: second(getattr(batch, name))
        for name in BatchObject.model_fields
        if name.endswith("_at")
    }
    errors = [BatchError(**error) for error in batch.errors or ()]
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=batch.input_file_id,
        status=batch.status,
        output_file_id=batch.output_file_id if batch.over else None,
        error_file_id=batch.error_file_id if batch.over else None,
        request_counts=RequestCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        metadata=batch.metadata,
        **times,
    )


@router.post("")
async def create_batch(request: Request, call: Write, body: BatchBody) -> BatchObject:
    """Start a batch over an uploaded file of the purpose `batch`; it survives a restart."""
    batches: Batches = request.app.state.services.batches
    return shown(await batches.create(call, body.input_file_id, body.endpoint, body.metadata))


@router.get("")
async def list_batches(
    request: Request, call: Read, limit: Limit = 20, after: Cursor = None
) -> BatchList:
    """List the caller's batches, newest first."""
    batches: Batches = request.app.state.services.batches
    page = await batches.page(call, limit=limit, after=after)
    return BatchList.of([shown(b) for b in page.rows], page.has_more)


@router.get("/{batch_id}")
async def get_batch(request: Request, call: Read, batch_id: Id) -> BatchObject:
    """Get a batch."""
    batches: Batches = request.app.state.services.batches
    return shown(await batches.get(call, batch_id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(request: Request, call: Write, batch_id: Id) -> BatchObject:
    """Ask no more lines; the answers that are there are put into the output file."""
    batches: Batches = request.app.state.services.batches
    return shown(await batches.cancel(call, batch_id))
