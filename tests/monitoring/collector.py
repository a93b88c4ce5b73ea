"""A collector of traces, OTLP over HTTP, that keeps what it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Seen:
    """A span as it came over the wire."""

    name: str
    kind: int  # 1 internal, 2 server, 3 client
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """Serves ``/v1/traces`` on a free port."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.raw = b""  # everything that it was sent
        self.resource: dict[str, Any] = {}
        self.url = ""
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
            ExportTraceServiceResponse,
        )

        body = await request.read()
        self.raw += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += map(_seen, scope.spans)
        async with self._came:
            self._came.notify_all()
        reply = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=reply, content_type="application/x-protobuf")

    async def wait(self, accepts: Callable[[Seen], bool], timeout_s: float = 20) -> Seen:
        """The first span that is accepted, once it came."""
        async with asyncio.timeout(timeout_s), self._came:
            while True:
                for span in self.spans:
                    if accepts(span):
                        return span
                await self._came.wait()

    async def trace_of(self, request_id: str) -> tuple[Seen, list[Seen]]:
        """The span of a call, and those of its trace; a batch later than the call's end."""
        own = await self.wait(lambda s: s.attributes.get("ostiary.request.id") == request_id)
        return own, [s for s in self.spans if s.trace_id == own.trace_id]


def _seen(span: Any) -> Seen:
    return Seen(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == 2,
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    found = {}
    for pair in attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found
