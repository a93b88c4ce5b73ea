"""Calls to our own routes from inside: through the whole corridor, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from app.gateway.call import Principal

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class Inside:
    """Posts to the gateway's own routes for a principal that was let in before.

    A call is limited, screened, charged and audited like one from outside, and replayed under
    its key: sent again after a crash, what was answered is answered again and charged once.
    """

    def __init__(self, door: str) -> None:
        self._door = door
        self._app: asyncio.Future[App] | None = None

    def opened(self, app: App) -> None:
        """The gateway serves from now on."""
        self._waited().set_result(app)

    def _waited(self) -> asyncio.Future[App]:
        if self._app is None:
            self._app = asyncio.get_running_loop().create_future()
        return self._app

    async def post(self, principal: Principal, path: str, body: bytes, key: str) -> Answer:
        """Post a JSON body under an idempotency key; waits until the gateway serves.

        Args:
            path: of a route that answers with JSON, as ``/v1/embeddings``.
        """
        app = await asyncio.shield(self._waited())
        head = {
            b"content-type": b"application/json",
            b"content-length": str(len(body)).encode(),
            b"idempotency-key": key.encode(),
        }
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(head.items()),
            "client": None,
            "server": None,
            "ostiary_door": self._door,
            "ostiary_principal": principal,
        }
        sent = asyncio.Event()
        found: dict[str, Any] = {"status": 500, "headers": []}
        parts: list[bytes] = []

        async def receive() -> dict[str, Any]:
            if sent.is_set():  # nobody hangs up
                await asyncio.Event().wait()
            sent.set()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                found.update(status=message["status"], headers=message.get("headers", []))
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        await app(scope, receive, send)
        headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in found["headers"]}
        return Answer(int(found["status"]), headers, b"".join(parts))
