"""The least a FastAPI gateway can be: one route that hands the body on and the reply back.

The peer for what governance costs: the same framework, HTTP client, event loop and parser as
the gateway, one worker, and nothing else. No key, no limit, no guardrail, no record.

    python -m benchmarks.bare_proxy --port 9001 --upstream http://127.0.0.1:9000
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse


def create_app(upstream: str) -> FastAPI:
    """A proxy of ``upstream``'s chat completions."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        session: aiohttp.ClientSession = request.app.state.session
        reply = await session.post(
            f"{upstream}/v1/chat/completions",
            data=await request.body(),
            headers={"content-type": "application/json"},
        )
        if reply.content_type != "text/event-stream":
            async with reply:
                return Response(await reply.read(), reply.status, media_type=reply.content_type)

        async def pieces() -> AsyncIterator[bytes]:
            async with reply:
                async for piece in reply.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), reply.status, media_type=reply.content_type)

    return app


def main() -> None:
    """Read the command line and serve with one worker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    given = parser.parse_args()
    uvicorn.run(
        create_app(given.upstream),
        host="127.0.0.1",
        port=given.port,
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
