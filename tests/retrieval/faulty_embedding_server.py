"""A fake /v1/embeddings server that fails in the ways that real ones do."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiohttp import web

Fault = int | str


class FaultyEmbeddingServer:
    """Vectors are made from a hash of the text; ``faults`` are used up one a request.

    A fault is a status to answer, ``"cut"`` (the connection), ``"silent"``, ``"garbage"``,
    ``"nan"``, ``"missing"`` (one vector), ``"narrow"`` (half the dimensions) or ``"shuffled"``
    (in another order, with the indexes right).

    Args:
        most_chars: longer texts are refused as vLLM refuses a prompt beyond its context.
    """

    def __init__(self, dim: int = 8, most_chars: int = 10**6, key: str | None = None) -> None:
        self.dim, self.most_chars, self.key = dim, most_chars, key
        self.faults: deque[Fault] = deque()
        self.requests: list[dict[str, Any]] = []
        self.open = self.most_open = 0
        self.hold: asyncio.Event | None = None  # requests of more than one text wait for it
        self.retry_after: str | None = None
        self.url = ""

    def vector(self, text: str, dim: int | None = None) -> list[float]:
        """What this server gives for a text."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        found: list[float] = np.random.default_rng(seed).normal(size=dim or self.dim).tolist()
        return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FaultyEmbeddingServer]:
        """Listen on a free port of this machine."""
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/embeddings", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._reply(request, body)
        finally:
            self.open -= 1

    async def _reply(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "invalid api key")
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, int):
            headers = {"retry-after": self.retry_after} if self.retry_after else {}
            return _error(fault, "injected", headers)
        if fault == "cut":
            assert request.transport is not None
            request.transport.abort()
        if fault == "silent":
            await asyncio.sleep(3600)
        if fault == "garbage":
            return web.Response(body=b"<html>", content_type="application/json")
        texts = body["input"]
        if any(len(text) > self.most_chars for text in texts):
            return _error(400, "This model's maximum context length is exceeded.")
        if self.hold is not None and len(texts) > 1:
            await self.hold.wait()
        dim = body.get("dimensions", self.dim)
        vectors = [self.vector(t, dim // 2 if fault == "narrow" else dim) for t in texts]
        data = [{"index": i, "embedding": v} for i, v in enumerate(vectors)]
        if fault == "nan":
            data[0]["embedding"] = [None] * dim
        if fault == "missing":
            data.pop()
        if fault == "shuffled":
            data.reverse()
        return web.json_response({"object": "list", "data": data, "model": body["model"]})


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.StreamResponse:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)
