"""Signing in and out: an API key kept in a cookie that no script can read."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.errors import Forbidden, OstiaryError
from app.gateway.call import NOBODY
from app.gateway.cookie import COOKIE
from app.gateway.corridor import Corridor
from app.ui import render
from app.ui.page_route import html, own_page

router = APIRouter(include_in_schema=False)
SESSION_S = 12 * 3600
COOKIE_SAFE = "!#$&'*+-.^_`|~:"  # an operator may choose a key with characters beyond these


@router.get("/")
async def home(request: Request) -> Response:
    """The search page, or the sign-in page without a session."""
    if COOKIE not in request.cookies:
        return html(render.page("sign_in.html"))
    return RedirectResponse("/ui/ask", status_code=303)


@router.post("/ui/sign-in")
async def sign_in(
    request: Request,
    key: Annotated[str, Form(max_length=4096)] = "",
    then: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Check the key like any other call's; the attempt is audited, whatever comes of it."""
    key = key.strip()
    corridor: Corridor = request.app.state.corridor
    try:
        async with corridor.govern("page", "POST /ui/sign-in", NOBODY) as call:
            _require_own_page(request)
            call.principal = await corridor.identity.authenticate(
                {"path": "/ui/sign-in"},
                {b"authorization": b"Bearer " + key.encode("latin-1", "replace")},
            )
    except OstiaryError as error:
        problem = error.message if key else "Paste your API key."
        return html(render.page("sign_in.html", problem=problem, then=own_page(then)), error.status)
    reply = RedirectResponse(own_page(then), status_code=303, headers={"cache-control": "no-store"})
    reply.set_cookie(
        COOKIE,
        quote(key, safe=COOKIE_SAFE),
        max_age=SESSION_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return reply


@router.post("/ui/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the session, and what the browser remembers of our pages."""
    try:
        _require_own_page(request)
    except Forbidden as error:
        told = render.problem(error.message, error.status, error.code)
        return html(render.page("error.html", problem=told), error.status)
    # "cache" also drops the pages that the Back button would show again.
    reply = RedirectResponse("/", status_code=303, headers={"clear-site-data": '"cache"'})
    reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return reply


def _require_own_page(request: Request) -> None:
    """Refuse another site that signs people in (to a key of its own) or out.

    Browsers tell the site only on secure addresses; on plain HTTP the origin tells it.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        origin: Any = request.headers.get("origin")
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not own:
        raise Forbidden("This page can only be used from itself.", code="cross_site")
