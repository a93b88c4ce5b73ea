"""A governed route whose refusals a person can read: pages instead of JSON for a browser."""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import Any

from fastapi.responses import HTMLResponse

from app.gateway.body import Receive
from app.gateway.cookie import COOKIE, cookie_of
from app.gateway.corridor import GovernedRoute
from app.ui import render
from app.ui.stream import event

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
GUARDED = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
# Where a sign-in may lead: our own pages only, so that no link can use it to lead elsewhere.
OWN_PAGE = re.compile(r"/ui/(ask|documents/[\w-]+/[\w-]+(\?[a-z0-9=&]*)?)", re.ASCII)
REPLACED = (b"content-type", b"content-length")

Message = MutableMapping[str, Any]


def html(body: str, status: int = 200) -> HTMLResponse:
    """A page that runs our own script alone and is not kept by the browser."""
    return HTMLResponse(body, status_code=status, headers=GUARDED)


class PageRoute(GovernedRoute):
    """Goes through the corridor like every route; only the looks of a refusal differ."""

    async def handle(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        scope["ostiary_door"] = "page"
        accept = dict(scope["headers"]).get(b"accept", b"")
        if b"text/html" in accept or b"text/event-stream" in accept:
            send = _Readable(scope, send, as_page=b"text/html" in accept)
        await super().handle(scope, receive, send)


class _Readable:
    """Passes a reply on, but holds a JSON error back and sends it as HTML."""

    def __init__(self, scope: MutableMapping[str, Any], send: Any, *, as_page: bool) -> None:
        self._scope, self._send, self._as_page = scope, send, as_page
        self._held: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_error(message):
            self._held = message
            return
        if self._held is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        start, self._held = self._held, None
        body, headers = self._shown(int(start["status"]), json.loads(self._body)["error"])
        kept = [(k, v) for k, v in start["headers"] if k.lower() not in REPLACED]
        told = [(k.encode(), v.encode()) for k, v in headers.items()]
        length = (b"content-length", b"%d" % len(body))
        await self._send({**start, "headers": [*kept, *told, length]})
        await self._send({"type": "http.response.body", "body": body})

    def _shown(self, status: int, error: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        headers = {**GUARDED, "content-type": "text/html; charset=utf-8"}
        request_id = error.get("request_id") or ""
        message = str(error["message"])
        if status == 401:
            had_session = bool(cookie_of(dict(self._scope["headers"])))
            if had_session:
                headers["set-cookie"] = f"{COOKIE}=; Max-Age=0; Path=/; HttpOnly; SameSite=strict"
            if error["code"] not in ("revoked_api_key", "expired_api_key"):
                message = "Your session has ended. Sign in again." if had_session else ""
            if self._as_page:
                page = render.page("sign_in.html", problem=message, then=_then(self._scope))
                return page.encode(), headers
        if self._as_page:
            told = render.problem(message, status, error["code"], request_id)
            return render.page("error.html", problem=told).encode(), headers
        headers["content-type"] = "text/event-stream; charset=utf-8"
        told = render.problem(
            message or "You are not signed in.", status, error["code"], request_id
        )
        return event("problem", told), headers


def _is_error(start: Message) -> bool:
    kinds = [v for k, v in start.get("headers", ()) if k.lower() == b"content-type"]
    return start["status"] >= 400 and any(v.startswith(b"application/json") for v in kinds)


def _then(scope: MutableMapping[str, Any]) -> str:
    """The address that was asked for, to be shown after signing in."""
    query = scope.get("query_string", b"").decode("latin-1")
    return own_page(scope["path"] + (f"?{query}" if query else ""))


def own_page(address: str) -> str:
    """``address`` if it is one of our pages, else the search page."""
    address = address.removesuffix("#cited")
    if not OWN_PAGE.fullmatch(address):
        return "/ui/ask"
    return address + ("#cited" if "at=" in address else "")
