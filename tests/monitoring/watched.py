"""A gateway that is watched: traced, logging JSON, with calls of every kind behind it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.api.calls import multipart
from tests.api.scripted_house import ScriptedHouse, scripted_gateway
from tests.monitoring.collector import Collector

ALICE = "alice.smith@example.com"  # in a body: must be in no line and in no span
SECRET = "sk-live-4eC39HqLyjWDarjtT1zdp7dc"  # in a header
ANSWER = "The toll is three crowns."
QUESTION = "What is the toll?"


class Watched(ScriptedHouse):
    """The gateway, its model and its collector of traces."""

    collector: Collector
    store: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.gateway.log.read_text().splitlines()]

    async def chat(self, text: str = "Hello", **headers: str) -> Any:
        """A chat that is answered."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        return await self.good("POST", "/v1/chat/completions", body, **headers)

    async def stream(self, request_id: str) -> None:
        """A streamed chat, read to its end."""
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        request = urllib.request.Request(
            self.gateway.url + "/v1/chat/completions",
            json.dumps(body).encode(),
            {
                "authorization": f"Bearer {self.gateway.key}",
                "content-type": "application/json",
                "x-request-id": request_id,
            },
        )
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=20).read())


@asynccontextmanager
async def watched_gateway(data: Path) -> AsyncIterator[Watched]:
    """Start it and make some calls: chats, a stream, a file, a search, refusals."""
    async with AsyncExitStack() as stack:
        collector = Collector()
        await collector.start()
        stack.push_async_callback(collector.stop)
        settings = {
            "otlp_endpoint": collector.url,
            "log_format": "json",
            "budget_usd_per_day": "100",
        }
        gateway, model = await stack.enter_async_context(scripted_gateway(data, **settings))
        house = Watched(gateway, model)
        house.collector = collector
        model.says(ANSWER)
        house.store = (await house.good("POST", "/v1/vector_stores", {"name": "s"}))["id"]
        body, head = multipart(b"# Rates\n\nThe toll is three crowns.\n", "rates.md")
        sent = {name.replace("-", "_"): value for name, value in head.items()}
        file = await house.good("POST", "/v1/files", body, **sent)
        path = f"/v1/vector_stores/{house.store}"
        attached = {"file_id": file["id"]}
        await house.good("POST", f"{path}/files", attached, x_request_id="attached")
        while True:
            found = await house.good("GET", f"{path}/files/{file['id']}")
            if found["status"] == "completed":
                break
            assert found["status"] == "in_progress", found
        search = {"query": QUESTION, "ranking_options": {"ranker": "cross-encoder"}}
        await house.good("POST", f"{path}/search", search, x_request_id="searched")
        yield house
