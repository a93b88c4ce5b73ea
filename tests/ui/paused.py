"""The scripted model with a breath in the middle of what it says."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from tests.llm.scripted import ScriptedModel


class PausedModel(ScriptedModel):
    """Streams ``first``, if any, then waits for ``go_on`` before it says its text."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""
        self._go = asyncio.Event()

    def says(self, text: str, first: str = "") -> None:
        super().says(text)
        self.first = first
        self._go.clear()

    def go_on(self) -> None:
        self._go.set()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self.first:
            return await super()._chat(request)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(content: str, finish: str | None = None) -> None:
            choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
            chunk = {"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [choice]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

        await send(self.first)
        await self._go.wait()
        await send(self.text, "stop")
        await response.write(b"data: [DONE]\n\n")
        return response
