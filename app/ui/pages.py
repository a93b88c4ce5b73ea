"""The web page: sign in, ask, read the answer with its sources, open the passage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from markupsafe import Markup, escape
from starlette.staticfiles import StaticFiles

from app.api.common import ERRORS, Id
from app.errors import OstiaryError
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.gateway.identity import COOKIE
from app.llm.openai_types import FileSearchTool, ResponsesRequest
from app.llm.responses import Responses
from app.ui import render

router = APIRouter(include_in_schema=False)
governed = APIRouter(
    prefix="/ui", route_class=GovernedRoute, include_in_schema=False, responses=ERRORS
)
Ask = Annotated[Call, Depends(Scope("responses:write", screens=("input", "output")))]
Read = Annotated[Call, Depends(Scope("vector_stores:read"))]
Document = Annotated[Call, Depends(Scope("vector_stores:read", screens=("output",)))]
Question = Annotated[str, Form(min_length=1, max_length=2000)]
Store = Annotated[str, Form(max_length=128)]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SESSION_S = 12 * 3600


def static_files() -> StaticFiles:
    """Style sheet, script and icon."""
    return StaticFiles(directory=Path(__file__).parent / "static")


def _html(body: str, status: int = 200) -> HTMLResponse:
    headers = {
        "content-security-policy": POLICY,
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
    }
    return HTMLResponse(body, status_code=status, headers=headers)


@router.get("/")
async def home(request: Request) -> Response:
    """The search page, or the sign-in page without a session."""
    if COOKIE not in request.cookies:
        return _html(render.page("sign_in.html"))
    return RedirectResponse("/ui/ask", status_code=303)


@router.post("/ui/sign-in")
async def sign_in(request: Request, key: Annotated[str, Form(max_length=4096)]) -> Response:
    """Check the key and keep it in a cookie that scripts cannot read."""
    services: Any = request.app.state.services
    scope = {"path": "/ui/", "headers": []}
    try:
        await services.identity.authenticate(
            scope, {b"authorization": f"Bearer {key.strip()}".encode("utf-8", "replace")}
        )
    except OstiaryError as error:
        return _html(render.page("sign_in.html", problem=error.message), error.status)
    reply = RedirectResponse("/ui/ask", status_code=303)
    reply.set_cookie(
        COOKIE,
        key.strip(),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return reply


@router.post("/ui/sign-out")
async def sign_out() -> Response:
    """Forget the session."""
    reply = RedirectResponse("/", status_code=303)
    reply.delete_cookie(COOKIE)
    return reply


async def _home(request: Request, call: Call, status: int = 200, **values: Any) -> HTMLResponse:
    stores = request.app.state.services.vector_stores
    page = await stores.page(call.tenant_id, limit=100, order="asc")
    counts = await stores.counts([s.id for s in page.rows])
    shown = [
        {"id": s.id, "name": s.name, "documents": counts[s.id]["completed"]}
        for s in page.rows
        if not s.expired
    ]
    return _html(render.page("home.html", stores=shown, **values), status)


@governed.get("/ask")
async def ask_page(request: Request, call: Read) -> Response:
    """The empty search page."""
    return await _home(request, call)


@governed.post("/ask")
async def ask(request: Request, call: Ask, q: Question, store: Store) -> Response:
    """Answer a question: streamed to the page's script, or as a whole page without it."""
    service: Responses = request.app.state.services.responses
    wanted = ResponsesRequest(
        model=request.app.state.services.settings.llm_model,
        input=q,
        tools=[FileSearchTool(type="file_search", vector_store_ids=[store])],
        include=["file_search_call.results"],
        store=False,
    )
    wanted = await service.screen_input(call, wanted)
    if "text/event-stream" in request.headers.get("accept", ""):
        events = await service.open_stream(call, wanted)
        return StreamingResponse(_stream(call, store, events), media_type="text/event-stream")
    final = await service.complete(call, wanted)
    result = Markup(render.result(store, final, call.request_id))  # noqa: S704 (rendered above)
    return await _home(request, call, question=q, store_id=store, result=result)


async def _stream(
    call: Call, store: str, events: AsyncIterator[tuple[str, dict[str, Any]]]
) -> AsyncIterator[bytes]:
    try:
        async for kind, value in events:
            if kind == "response.output_text.delta":
                yield _event("text", str(escape(value["delta"])))
            elif kind in ("response.completed", "response.incomplete"):
                last = _event("result", render.result(store, value["response"], call.request_id))
                await call.settle(200, last)
                yield last
    except OstiaryError as error:
        call.error_code = error.code
        await call.settle(error.status)
        yield _event("result", render.page("problem.html", message=error.message))


def _event(kind: str, html: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in html.split("\n"))
    return f"event: {kind}\n{lines}\n".encode()


@governed.get("/documents/{store_id}/{file_id}")
async def document(
    request: Request,
    call: Document,
    store_id: Id,
    file_id: Id,
    at: Annotated[int, Query(ge=0, le=10**9)] = 0,
    quote: Annotated[str, Query(max_length=2000)] = "",
) -> Response:
    """A whole document with the cited passage marked."""
    services: Any = request.app.state.services
    filename, passages = await services.vector_stores.document(call.tenant_id, store_id, file_id)
    texts = await services.guardrails.screen(call, [p.text for p in passages], "output")
    return _html(await asyncio.to_thread(render.document, filename, passages, texts, at, quote))


router.include_router(governed)
