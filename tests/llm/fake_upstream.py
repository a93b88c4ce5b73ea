"""A model server for fault and timing injection only; the `model` of a body names the fault.

What real answers look like is tested against real vLLM in `test_server.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

DELTAS: dict[str, list[dict[str, Any]]] = {
    "empty-first": [
        {"role": "assistant", "content": ""},
        {"content": "grüß"},
        {"content": " Gott"},
    ],
    "null-first": [
        {"role": "assistant", "content": None},
        {"content": "grüß"},
        {"content": " Gott"},
    ],
    "absent-first": [{"role": "assistant"}, {"content": "grüß"}, {"content": " Gott"}],
}


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """Return one streamed chunk."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def event(value: Any, end: str = "\n") -> bytes:
    """Return one server-sent event; its characters stay unescaped, to be split."""
    return f"data: {json.dumps(value, ensure_ascii=False)}{end}{end}".encode()


def abort(request: web.Request) -> None:
    """Reset the connection."""
    assert request.transport is not None
    request.transport.abort()


class FakeUpstream:
    """Serves on a free port; `gone` is set when a client leaves in mid-answer."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.streaming = asyncio.Event()
        self.healthy = True
        self.metrics = ""  # what a GET of /metrics tells
        self.calls: list[dict[str, Any]] = []
        self.connections: set[Any] = set()
        self.url = ""
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.metrics)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "object": "model", "root": "/srv/secret"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(body)
        self.connections.add(request.transport)
        fault = body["model"]
        if fault.isdigit():
            leak = f"bad value at {self.url}/chat in /srv/models/x/y.bin, 'input': 'secret 123'"
            reply = {"error": {"message": leak, "param": "temperature", "code": int(fault)}}
            return web.json_response(reply, status=int(fault), headers={"retry-after": "7"})
        if fault == "unknown":
            reply = {"error": {"message": "The model `unknown` does not exist.", "code": 404}}
            return web.json_response(reply, status=404)
        if fault == "abort":
            abort(request)
            return web.Response()
        if fault == "silent":
            await self._until_left()
        if fault == "garbage" and not body.get("stream"):
            return web.Response(body=b"<html>", content_type="text/html")
        if not body.get("stream"):
            message = {"role": "assistant", "content": "grüß Gott"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({"id": "c", "object": "chat.completion", "choices": [choice]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await self._stream(fault, response, request)
        return response

    async def _until_left(self) -> None:
        self.streaming.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()

    async def _stream(self, fault: str, response: web.StreamResponse, request: web.Request) -> None:
        write: Callable[[bytes], Awaitable[None]] = response.write
        parts = [chunk(d) for d in DELTAS.get(fault, DELTAS["empty-first"])]
        last, done = chunk({}, "stop"), b"data: [DONE]\n\n"
        if fault == "bytewise":
            for byte in b"".join([*map(event, parts), event(last), done]):
                await write(bytes([byte]))
        elif fault == "crlf":
            lines = b": hello\r\nevent: x\r\n" + b"".join(event(p, "\r\n") for p in parts)
            await write(lines + event(last, "\r\n") + b"data: [DONE]\r\n\r\n")
        elif fault == "multi-line":
            for part in [*parts, last]:
                text = json.dumps(part, indent=1)
                await write("".join(f"data: {t}\n" for t in text.splitlines()).encode() + b"\n")
            await write(done)
        elif fault == "no-done":
            await write(b"".join(map(event, [*parts, last])))
        elif fault == "unended":
            await write(b"".join(map(event, [*parts, last])) + b"data: [DONE]")
        elif fault in ("cut", "clean-cut", "half-event"):
            await write(b"".join(map(event, parts)) + (b'data: {"id"' if fault[0] == "h" else b""))
            if fault == "cut":
                abort(request)
        elif fault == "error-event":
            await write(event(parts[0]) + event({"error": {"message": "EngineCore died /a/b/c"}}))
        elif fault == "garbage":
            await write(event(parts[0]) + b"data: {oops\n\n")
        elif fault in ("endless", "falls-silent"):
            await write(event(parts[1]))
            await self._until_left()
        else:
            await write(b"".join(map(event, [*parts, last])) + done)
