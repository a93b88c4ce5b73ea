"""The web page: ask, read the answer with its sources, open the passage."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from markupsafe import Markup
from pydantic import StringConstraints
from starlette.staticfiles import StaticFiles

from app.api.common import ERRORS, Id
from app.errors import OstiaryError
from app.gateway.call import Call
from app.gateway.corridor import Scope
from app.llm.responses_types import FileSearchTool, ResponsesRequest
from app.ui import render, session
from app.ui.page_route import GUARDED, PageRoute, html
from app.ui.stream import fragments

if TYPE_CHECKING:
    from app.llm.responses import Responses

router = APIRouter(include_in_schema=False)
governed = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False, responses=ERRORS)
Ask = Annotated[Call, Depends(Scope("responses:write", screens=("input", "output")))]
Read = Annotated[Call, Depends(Scope("vector_stores:read"))]
Document = Annotated[Call, Depends(Scope("vector_stores:read", screens=("output",)))]
Question = Annotated[
    str, Form(max_length=2000), StringConstraints(strip_whitespace=True, min_length=1)
]
Store = Annotated[str, Form(max_length=128)]
Place = Annotated[int | None, Query(ge=0, le=10**9)]


class _Static(StaticFiles):
    """Files that the browser asks for anew each time: a page never runs last week's script."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        response.headers["x-content-type-options"] = "nosniff"
        return response


def static_files() -> StaticFiles:
    """Style sheet, script and icon."""
    return _Static(directory=Path(__file__).parent / "static")


async def _home(request: Request, call: Call, status: int = 200, **values: Any) -> HTMLResponse:
    stores = request.app.state.services.vector_stores
    page = await stores.page(call.tenant_id, limit=100, order="asc")
    counts = await stores.counts([s.id for s in page.rows])
    shown = [
        {"id": s.id, "name": s.name or s.id, "documents": counts[s.id]["completed"]}
        for s in page.rows
        if not s.expired
    ]
    return html(render.page("home.html", stores=shown, **values), status)


@governed.get("/ask")
async def ask_page(request: Request, call: Read) -> Response:
    """The empty search page."""
    return await _home(request, call)


@governed.post("/ask")
async def ask(request: Request, call: Ask, q: Question, store: Store) -> Response:
    """Answer a question: streamed to the page's script, or as a whole page without it.

    The question comes in the body, so that no log or history of addresses keeps it.
    """
    service: Responses = request.app.state.services.responses
    wanted = ResponsesRequest(
        model=request.app.state.services.settings.llm_model,
        input=q,
        tools=[FileSearchTool(type="file_search", vector_store_ids=[store])],
        include=["file_search_call.results"],
        store=False,
    )
    if "text/event-stream" in request.headers.get("accept", ""):
        wanted = await service.screen_input(call, wanted)
        await call.begin_stream()
        events, pairs = await service.open_stream(call, wanted)
        return StreamingResponse(
            fragments(call, store, events, pairs),
            media_type="text/event-stream",
            headers={**GUARDED, "x-accel-buffering": "no"},
        )
    status = 200
    try:
        final = await service.complete(call, await service.screen_input(call, wanted))
        result = render.result(store, final, call.request_id)
    except OstiaryError as error:  # on the page, so that the question is not lost
        call.error_code, status = error.code, error.status
        result = render.problem(error.message, error.status, error.code, call.request_id)
    shown = Markup(result)  # noqa: S704 (rendered above)
    return await _home(request, call, status, question=q, store_id=store, result=shown)


@governed.get("/documents/{store_id}/{file_id}")
async def document(
    request: Request,
    call: Document,
    store_id: Id,
    file_id: Id,
    at: Place = None,
    start: Place = None,
    end: Place = None,
    check: Annotated[str, Query(max_length=8)] = "",
) -> Response:
    """A whole document with the cited words marked.

    The words are given by their place in the passage, not by themselves: addresses end up
    in logs and histories, where no part of a document belongs.
    """
    services: Any = request.app.state.services
    filename, passages = await services.store_files.document(call, store_id, file_id)
    texts = await services.guardrails.screen(
        call, [p.text for p in passages], "output", passages=True
    )
    words = None if start is None or end is None else render.Words(start, end, check)
    return html(await asyncio.to_thread(render.document, filename, passages, texts, at, words))


router.include_router(session.router)
router.include_router(governed)
