"""Long work: its state, its progress, and how to stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel

from app.api.common import ERRORS, Id, with_times
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.store.jobs import JobRow, Jobs

router = APIRouter(prefix="/v1/jobs", route_class=GovernedRoute, tags=["jobs"], responses=ERRORS)
Read = Annotated[Call, Depends(Scope("jobs:read"))]
Write = Annotated[Call, Depends(Scope("jobs:write"))]
POLL_S = 0.25


class JobError(BaseModel):
    code: str
    message: str


class JobObject(BaseModel):
    object: Literal["job"] = "job"
    id: str
    kind: str
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    done: int
    total: int
    error: JobError | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


def show_job(row: JobRow) -> JobObject:
    """The wire shape of a job."""
    values = {k: v for k, v in asdict(row).items() if k in JobObject.model_fields}
    return JobObject(**with_times(values))


@router.get("/{job_id}")
async def get_job(request: Request, call: Read, job_id: Id) -> JobObject:
    """Get a job."""
    return show_job(await request.app.state.services.jobs.get(call.tenant_id, job_id))


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Progress events."}},
)
async def watch_job(request: Request, call: Read, job_id: Id) -> StreamingResponse:
    """Stream a job's progress until it is over."""
    jobs: Jobs = request.app.state.services.jobs
    first = await jobs.get(call.tenant_id, job_id)
    return StreamingResponse(_events(jobs, call, first), media_type="text/event-stream")


async def _events(jobs: Jobs, call: Call, row: JobRow) -> AsyncIterator[bytes]:
    last: Any = None
    while True:
        if row.updated_at != last:
            last = row.updated_at
            if row.over:
                await call.settle(200)
            yield b"event: job\ndata: " + show_job(row).model_dump_json().encode() + b"\n\n"
        if row.over:
            return
        await asyncio.sleep(POLL_S)
        row = await jobs.get(call.tenant_id, row.id)


@router.post("/{job_id}/cancel")
async def cancel_job(request: Request, call: Write, job_id: Id) -> JobObject:
    """Stop a job before its next step."""
    return show_job(await request.app.state.services.jobs.cancel(call.tenant_id, job_id))
