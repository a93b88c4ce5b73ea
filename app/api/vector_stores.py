"""Vector stores, as in OpenAI's API: fill, search, empty."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from app.api.common import ERRORS, Cursor, Deleted, Id, Limit, Order, one_cursor
from app.api.vector_store_shapes import (
    AttachBody,
    AttributesBody,
    BatchBody,
    BatchObject,
    ChangeBody,
    ContentPage,
    CreateBody,
    CreateExtras,
    SearchBody,
    SearchPage,
    StoreFileList,
    StoreFileObject,
    StoreList,
    StoreObject,
    StoreState,
    TextContent,
    ranking_of,
    show_batch,
    show_file,
    show_hit,
    show_store,
)
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.retrieval.access import require_seen
from app.retrieval.rewrite import Turn

if TYPE_CHECKING:
    from app.retrieval.collections import VectorStore
    from app.retrieval.store_files import StoreFiles

router = APIRouter(
    prefix="/v1/vector_stores", route_class=GovernedRoute, tags=["vector stores"], responses=ERRORS
)
Read = Annotated[Call, Depends(Scope("vector_stores:read"))]
Write = Annotated[Call, Depends(Scope("vector_stores:write"))]
Search = Annotated[Call, Depends(Scope("vector_stores:search", screens=("input", "output")))]
Content = Annotated[Call, Depends(Scope("vector_stores:read", screens=("output",)))]
Filter = Annotated[
    Literal["in_progress", "completed", "failed", "cancelled"] | None, Query(alias="filter")
]


async def _shown(services: Any, tenant_id: str, store_id: str) -> StoreObject:
    return await _with_counts(services, await services.vector_stores.get(tenant_id, store_id))


async def _with_counts(services: Any, store: VectorStore) -> StoreObject:
    counts = await services.vector_stores.counts([store.id])
    return show_store(store, counts[store.id])


@router.post("")
async def create_vector_store(request: Request, call: Write, body: CreateBody) -> StoreObject:
    """Make a vector store, and attach files to it."""
    services: Any = request.app.state.services
    if body.file_ids:  # before anything is made
        await services.files.require(call, body.file_ids, "file_ids")
    extras = body.ostiary or CreateExtras()
    access = extras.readers()
    require_seen(call.principal, access)
    store = await services.vector_stores.create(
        call,
        name=body.name,
        description=body.description,
        metadata=body.metadata or {},
        chunking=body.chunking_strategy.limits() if body.chunking_strategy else {},
        expires_after_days=body.expires_after.days if body.expires_after else None,
        embedding_model=extras.embedding_model,
        engine=extras.engine,
    )
    if body.file_ids:
        _, fresh = await services.store_files.attach(
            call, store.id, body.file_ids, {}, {}, access=access
        )
        await services.ingestion.begin(call, store.id, fresh)
    return await _shown(services, call.tenant_id, store.id)


@router.get("")
async def list_vector_stores(
    request: Request,
    call: Read,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> StoreList:
    """List the vector stores."""
    one_cursor(after, before)
    stores = request.app.state.services.vector_stores
    page = await stores.page(call.tenant_id, limit=limit, order=order, after=after, before=before)
    counts = await stores.counts([s.id for s in page.rows])
    data = [show_store(s, counts[s.id]) for s in page.rows]
    return StoreList.of(data, page.has_more)


@router.get("/{vector_store_id}")
async def get_vector_store(request: Request, call: Read, vector_store_id: Id) -> StoreObject:
    """Get a vector store, with the state of its index."""
    services: Any = request.app.state.services
    store = await services.vector_stores.get(call.tenant_id, vector_store_id)
    shown = await _with_counts(services, store)
    state = await services.vector_stores.state(store)
    shown.ostiary = StoreState(
        **asdict(state), embedding_model=store.embedding_model, build=store.build
    )
    return shown


@router.post("/{vector_store_id}")
async def change_vector_store(
    request: Request, call: Write, vector_store_id: Id, body: ChangeBody
) -> StoreObject:
    """Rename a vector store, or change its metadata or expiry."""
    services: Any = request.app.state.services
    values: dict[str, Any] = {}
    if body.name is not None:
        values["name"] = body.name
    if body.metadata is not None:
        values["metadata"] = body.metadata
    if "expires_after" in body.model_fields_set:
        values["expires_after_days"] = body.expires_after.days if body.expires_after else None
    await services.vector_stores.change(call.tenant_id, vector_store_id, values)
    return await _shown(services, call.tenant_id, vector_store_id)


@router.delete("/{vector_store_id}")
async def delete_vector_store(request: Request, call: Write, vector_store_id: Id) -> Deleted:
    """Delete a vector store; its files stay."""
    await request.app.state.services.vector_stores.delete(call.tenant_id, vector_store_id)
    return Deleted(id=vector_store_id, object="vector_store.deleted")


@router.post("/{vector_store_id}/search")
async def search_vector_store(
    request: Request, call: Search, vector_store_id: Id, body: SearchBody
) -> SearchPage:
    """Find passages by meaning and by words."""
    services: Any = request.app.state.services
    given = [body.query] if isinstance(body.query, str) else body.query
    queries = await services.guardrails.screen(call, given, "input")
    if body.rewrite_query:
        turns = [Turn("user", q) for q in queries]
        query = (await services.rewriter.rewrite(call, turns)).query
        queries = [query]
    else:  # documents hold values, not what stands for them where a model reads
        queries = [services.guardrails.restored(call, q) for q in queries]
        query = " ".join(queries)
    hits = await services.searches.hits(
        call,
        [vector_store_id],
        query,
        body.max_num_results,
        body.filters,
        ranking_of(body.ranking_options, body.ostiary),
    )
    threshold = body.ranking_options.score_threshold if body.ranking_options else 0.0
    hits = [h for h in hits if h.score >= threshold]
    results = [(h, h.passage.text, [h.passage.ordinal]) for h in hits]
    if body.ostiary is not None and (expand := body.ostiary.expand) is not None:
        windows = await services.searches.widened(
            call, vector_store_id, hits, expand.by, expand.reach, expand.max_tokens
        )
        results = [(hits[w.hits[0]], w.text, [p.ordinal for p in w.passages]) for w in windows]
    texts = await services.guardrails.screen(
        call, [text for _, text, _ in results], "output", passages=True
    )
    return SearchPage(
        search_query=queries,
        data=[show_hit(h, t, o) for (h, _, o), t in zip(results, texts, strict=True)],
    )


@router.post("/{vector_store_id}/files")
async def attach_file(
    request: Request, call: Write, vector_store_id: Id, body: AttachBody
) -> StoreFileObject:
    """Attach a file; it is read and embedded by a durable job."""
    services: Any = request.app.state.services
    _, fresh = await services.store_files.attach(
        call,
        vector_store_id,
        [body.file_id],
        body.attributes or {},
        body.chunking_strategy.limits() if body.chunking_strategy else {},
        access=body.ostiary.readers() if body.ostiary else None,
    )
    await services.ingestion.begin(call, vector_store_id, fresh)
    return show_file(await services.store_files.file(call, vector_store_id, body.file_id))


@router.get("/{vector_store_id}/files")
async def list_store_files(
    request: Request,
    call: Read,
    vector_store_id: Id,
    status: Filter = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> StoreFileList:
    """List the files of a vector store that the caller may see."""
    return await _files(request, call, vector_store_id, None, status, limit, order, after, before)


async def _files(
    request: Request,
    call: Call,
    store_id: str,
    batch_id: str | None,
    status: str | None,
    limit: int,
    order: str,
    after: str | None,
    before: str | None,
) -> StoreFileList:
    one_cursor(after, before)
    page = await request.app.state.services.store_files.file_page(
        call,
        store_id,
        status=status,
        batch_id=batch_id,
        limit=limit,
        order=order,
        after=after,
        before=before,
    )
    data = [show_file(f) for f in page.rows]
    return StoreFileList.of(data, page.has_more)


@router.get("/{vector_store_id}/files/{file_id}")
async def get_store_file(
    request: Request, call: Read, vector_store_id: Id, file_id: Id
) -> StoreFileObject:
    """Get an attached file with its status and last error."""
    stores = request.app.state.services.store_files
    return show_file(await stores.file(call, vector_store_id, file_id))


@router.post("/{vector_store_id}/files/{file_id}")
async def set_store_file_attributes(
    request: Request, call: Write, vector_store_id: Id, file_id: Id, body: AttributesBody
) -> StoreFileObject:
    """Replace an attached file's attributes, or who may see it."""
    stores: StoreFiles = request.app.state.services.store_files
    if body.ostiary is not None:
        access = body.ostiary.access
        shown = await stores.set_access(
            call, vector_store_id, file_id, access.readers() if access else None
        )
    if "attributes" in body.model_fields_set:
        shown = await stores.set_attributes(call, vector_store_id, file_id, body.attributes or {})
    return show_file(shown)


@router.get("/{vector_store_id}/files/{file_id}/content")
async def get_store_file_content(
    request: Request, call: Content, vector_store_id: Id, file_id: Id
) -> ContentPage:
    """Get the text of an attached file as it was read, in passages."""
    services: Any = request.app.state.services
    _, found = await services.store_files.document(call, vector_store_id, file_id)
    texts = await services.guardrails.screen(call, [p.text for p in found], "output", passages=True)
    return ContentPage(data=[TextContent(text=t) for t in texts])


@router.delete("/{vector_store_id}/files/{file_id}")
async def detach_file(request: Request, call: Write, vector_store_id: Id, file_id: Id) -> Deleted:
    """Remove a file's passages from a vector store; the file itself stays."""
    await request.app.state.services.store_files.detach(call, vector_store_id, file_id)
    return Deleted(id=file_id, object="vector_store.file.deleted")


@router.post("/{vector_store_id}/file_batches")
async def create_file_batch(
    request: Request, call: Write, vector_store_id: Id, body: BatchBody
) -> BatchObject:
    """Attach many files at once."""
    services: Any = request.app.state.services
    batch_id, fresh = await services.store_files.attach(
        call,
        vector_store_id,
        body.file_ids,
        body.attributes or {},
        body.chunking_strategy.limits() if body.chunking_strategy else {},
        batch=True,
        access=body.ostiary.readers() if body.ostiary else None,
    )
    await services.ingestion.begin(call, vector_store_id, fresh)
    return show_batch(await services.store_files.batch(call.tenant_id, vector_store_id, batch_id))


@router.get("/{vector_store_id}/file_batches/{batch_id}")
async def get_file_batch(
    request: Request, call: Read, vector_store_id: Id, batch_id: Id
) -> BatchObject:
    """Get a batch with its file counts."""
    stores = request.app.state.services.store_files
    return show_batch(await stores.batch(call.tenant_id, vector_store_id, batch_id))


@router.post("/{vector_store_id}/file_batches/{batch_id}/cancel")
async def cancel_file_batch(
    request: Request, call: Write, vector_store_id: Id, batch_id: Id
) -> BatchObject:
    """Stop what of a batch is still waiting."""
    stores = request.app.state.services.store_files
    return show_batch(await stores.cancel_batch(call.tenant_id, vector_store_id, batch_id))


@router.get("/{vector_store_id}/file_batches/{batch_id}/files")
async def list_batch_files(
    request: Request,
    call: Read,
    vector_store_id: Id,
    batch_id: Id,
    status: Filter = None,
    limit: Limit = 20,
    order: Order = "desc",
    after: Cursor = None,
    before: Cursor = None,
) -> StoreFileList:
    """List the files of a batch that the caller may see."""
    await request.app.state.services.store_files.batch(call.tenant_id, vector_store_id, batch_id)
    return await _files(
        request, call, vector_store_id, batch_id, status, limit, order, after, before
    )
