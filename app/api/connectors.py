"""Connectors: what keeps a vector store in step with a place outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from app.api.common import ERRORS, Cursor, Id, Limit, Order, one_cursor
from app.api.connector_shapes import (
    ConnectorBody,
    ConnectorChange,
    ConnectorDeleted,
    ConnectorList,
    ConnectorObject,
    ItemList,
    SourceList,
    SourceObject,
    SyncBody,
    show_connector,
    show_item,
)
from app.api.jobs import JobObject, show_job
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.services import Services

sources = APIRouter(
    prefix="/v1/sources", route_class=GovernedRoute, tags=["connectors"], responses=ERRORS
)
router = APIRouter(
    prefix="/v1/vector_stores/{vector_store_id}/connectors",
    route_class=GovernedRoute,
    tags=["connectors"],
    responses=ERRORS,
)
Read = Annotated[Call, Depends(Scope("connectors:read"))]
Write = Annotated[Call, Depends(Scope("connectors:write"))]


@sources.get("")
async def list_sources(request: Request, call: Read) -> SourceList:
    """List the sources that the caller's tenant may follow, by name and kind."""
    services: Services = request.app.state.services
    found = await services.connectors.declared.of(call.tenant_id)
    return SourceList(data=[SourceObject(name=n, kind=s.kind) for n, s in found.items()])


@router.post("")
async def create_connector(
    request: Request, call: Write, vector_store_id: Id, body: ConnectorBody
) -> ConnectorObject:
    """Follow a part of a source; the first sync begins at once."""
    services: Services = request.app.state.services
    made = await services.connectors.create(
        call,
        vector_store_id,
        source=body.source,
        path=body.path,
        include=body.include,
        exclude=body.exclude,
        freshness_s=body.freshness_s,
        attributes=body.attributes,
        access=body.readers(),
        chunking=body.chunking_strategy.limits() if body.chunking_strategy else {},
    )
    return show_connector(made, call.principal)


@router.get("")
async def list_connectors(
    request: Request,
    call: Read,
    vector_store_id: Id,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> ConnectorList:
    """List the connectors of a vector store."""
    one_cursor(after, before)
    services: Services = request.app.state.services
    page = await services.connectors.page(
        call.tenant_id, vector_store_id, limit=limit, order=order, after=after, before=before
    )
    data = [show_connector(c, call.principal) for c in page.rows]
    return ConnectorList.of(data, page.has_more)


@router.get("/{connector_id}")
async def get_connector(
    request: Request, call: Read, vector_store_id: Id, connector_id: Id
) -> ConnectorObject:
    """Get a connector with its newest sync."""
    services: Services = request.app.state.services
    found = await services.connectors.get(call.tenant_id, vector_store_id, connector_id)
    return show_connector(found, call.principal)


@router.post("/{connector_id}")
async def change_connector(
    request: Request, call: Write, vector_store_id: Id, connector_id: Id, body: ConnectorChange
) -> ConnectorObject:
    """Pause or resume a connector, or set another freshness."""
    services: Services = request.app.state.services
    changed = await services.connectors.change(
        call.tenant_id, vector_store_id, connector_id, body.enabled, body.freshness_s
    )
    return show_connector(changed, call.principal)


@router.post("/{connector_id}/sync", status_code=202)
async def sync_connector(
    request: Request,
    call: Write,
    vector_store_id: Id,
    connector_id: Id,
    body: SyncBody | None = None,
) -> JobObject:
    """Begin a sync now; 409 while one runs."""
    services: Services = request.app.state.services
    allow = body is not None and body.allow_removal
    job_id = await services.connectors.sync(call.tenant_id, vector_store_id, connector_id, allow)
    return show_job(await services.jobs.get(call.tenant_id, job_id))


@router.get("/{connector_id}/items")
async def list_connector_items(
    request: Request,
    call: Read,
    vector_store_id: Id,
    connector_id: Id,
    status: Annotated[Literal["pending", "completed", "failed"] | None, Query()] = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> ItemList:
    """List the documents of the source that the caller may see, with what became of each."""
    one_cursor(after, before)
    services: Services = request.app.state.services
    page = await services.connectors.items(
        call,
        vector_store_id,
        connector_id,
        status=status,
        limit=limit,
        order=order,
        after=after,
        before=before,
    )
    data = [show_item(i) for i in page.rows]
    return ItemList.of(data, page.has_more)


@router.delete("/{connector_id}")
async def delete_connector(
    request: Request,
    call: Write,
    vector_store_id: Id,
    connector_id: Id,
    documents: Annotated[
        Literal["delete", "keep"],
        Query(description="What becomes of the documents that it brought in."),
    ] = "delete",
) -> ConnectorDeleted:
    """Delete a connector; a job deletes its documents with it, unless they are kept."""
    services: Services = request.app.state.services
    job_id = await services.connectors.delete(
        call.tenant_id, vector_store_id, connector_id, documents == "keep"
    )
    return ConnectorDeleted(id=connector_id, job_id=job_id)
