"""Builds of a vector store's index: another engine or model beside the one that is searched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from app.api.common import ERRORS, Deleted, Id, second
from app.api.jobs import JobError
from app.api.vector_store_shapes import StoreExtras
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.retrieval.builds import Build

router = APIRouter(
    prefix="/v1/vector_stores/{vector_store_id}/builds",
    route_class=GovernedRoute,
    tags=["vector stores"],
    responses=ERRORS,
)
Read = Annotated[Call, Depends(Scope("vector_stores:read"))]
Write = Annotated[Call, Depends(Scope("vector_stores:write"))]


class BuildBody(StoreExtras):
    """What to build; what is left out stays as it is."""

    activate: bool = Field(True, description="Search it as soon as it is ready.")


class BuildObject(BaseModel):
    id: str = Field(description="`original` is what the store was made with.")
    object: Literal["vector_store.build"] = "vector_store.build"
    vector_store_id: str
    engine: str
    embedding_model: str
    dimensions: int
    status: Literal["building", "ready", "failed"]
    searched: bool = Field(description="Whether searches use it now.")
    passages: int = Field(description="How many it holds so far.")
    recall: float | None = Field(description="recall@10, measured before it was ready.")
    error: JobError | None
    job_id: str | None = Field(description="Of its latest job; see `/v1/jobs`.")
    created_at: int
    ready_at: int | None


class BuildList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BuildObject]


def _shown(build: Build) -> BuildObject:
    return BuildObject(
        id=build.id,
        vector_store_id=build.vector_store_id,
        engine=build.engine,
        embedding_model=build.embedding_model,
        dimensions=build.dim,
        status=build.status,
        searched=build.searched,
        passages=build.passages,
        recall=build.recall,
        error=JobError(**build.error) if build.error else None,
        job_id=build.job_id,
        created_at=int(build.created_at),
        ready_at=second(build.ready_at),
    )


@router.post("")
async def create_build(
    request: Request, call: Write, vector_store_id: Id, body: BuildBody
) -> BuildObject:
    """Build the index anew, beside the one that is searched, with another engine or model."""
    services: Any = request.app.state.services
    build = await services.builds.begin(
        call, vector_store_id, body.engine, body.embedding_model, body.activate
    )
    return _shown(build)


@router.get("")
async def list_builds(request: Request, call: Read, vector_store_id: Id) -> BuildList:
    """List the builds of a vector store, oldest first."""
    services: Any = request.app.state.services
    found = await services.builds.all(call.tenant_id, vector_store_id)
    return BuildList(data=[_shown(b) for b in found])


@router.get("/{build_id}")
async def get_build(request: Request, call: Read, vector_store_id: Id, build_id: Id) -> BuildObject:
    """Get a build."""
    services: Any = request.app.state.services
    return _shown(await services.builds.get(call.tenant_id, vector_store_id, build_id))


@router.post("/{build_id}/activate")
async def activate_build(
    request: Request, call: Write, vector_store_id: Id, build_id: Id
) -> BuildObject:
    """Search this build from now on, also an older one; a job brings it up to date first."""
    services: Any = request.app.state.services
    build = await services.builds.activate(call, vector_store_id, build_id)
    return _shown(build)


@router.delete("/{build_id}")
async def delete_build(request: Request, call: Write, vector_store_id: Id, build_id: Id) -> Deleted:
    """Delete a build that is not searched."""
    await request.app.state.services.builds.drop(call.tenant_id, vector_store_id, build_id)
    return Deleted(id=build_id, object="vector_store.build.deleted")
