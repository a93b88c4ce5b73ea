"""A model server that says what the test wrote, word by word, and can break off."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web


class ScriptedModel:
    """Serves ``text`` on a free port and keeps the bodies it was sent.

    ``cut_after`` words of a stream it resets the connection; ``tool`` is a call it makes;
    ``wait_s`` seconds pass before it answers.
    """

    def __init__(self) -> None:
        self.text = "Hello."
        self.finish = "stop"
        self.cut_after: int | None = None
        self.tool: dict[str, Any] | None = None
        self.thinks = ""  # before it says anything
        self.wait_s = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()  # credentials that it was sent
        self.left = asyncio.Event()  # a client left while it was waiting
        self._before: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._text)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def says(self, text: str, *before: str) -> None:
        """Begin a new scene: this text, told to the end, once those ``before`` were told."""
        self.text, self.finish, self.cut_after, self.tool = text, "stop", None, None
        self.thinks = ""
        self.wait_s, self._before = 0.0, list(before)
        self.bodies.clear()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.left.set()
            raise
        text = self._before.pop(0) if self._before else self.text
        words = re.findall(r"\S+\s*", text)
        usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
        usage["total_tokens"] = 7 + len(words)
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"], "kept": "as is"}
        if not body.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if self.tool:
                message = {**message, "tool_calls": [{"type": "function", **self.tool}]}
            choice = {"index": 0, "message": message, "finish_reason": self.finish}
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [_token(word) for word in words]}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return web.json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(delta: dict[str, Any] | None, finish: str | None = None) -> None:
            choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
            if body.get("logprobs") and delta and delta.get("content"):
                choice["logprobs"] = {"content": [_token(delta["content"])]}
            choices = [choice]
            chunk: dict[str, Any] = {**head, "object": "chat.completion.chunk"}
            chunk["choices"] = [] if delta is None else choices
            if delta is None:
                chunk["usage"] = usage
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

        await send({"role": "assistant", "content": ""})
        for word in re.findall(r"\S+\s*", self.thinks):
            await send({"reasoning": word})
        for number, word in enumerate([] if self.tool else words):
            if number == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            await send({"content": word})
        if self.tool:
            await send({"tool_calls": [{"index": 0, "type": "function", **self.tool}]})
        await send({}, "tool_calls" if self.tool else self.finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            await send(None)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _text(self, request: web.Request) -> web.StreamResponse:
        """Completions: the same words, as plain text."""
        body = await request.json()
        self.bodies.append(body)
        words = re.findall(r"\S+\s*", self.text)
        usage = {
            "prompt_tokens": 7,
            "completion_tokens": len(words),
            "total_tokens": 7 + len(words),
        }
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}

        def choice(said: list[str], finish: str | None) -> dict[str, Any]:
            made: dict[str, Any] = {"index": 0, "text": "".join(said), "finish_reason": finish}
            if body.get("logprobs"):
                made["logprobs"] = {"tokens": said, "token_logprobs": [-0.5] * len(said)}
            return made

        if not body.get("stream"):
            whole = {**head, "choices": [choice(words, "stop")], "usage": usage}
            return web.json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunks: list[dict[str, Any]] = [{**head, "choices": [choice([w], None)]} for w in words]
        chunks.append({**head, "choices": [choice([], "stop")]})
        chunks.append({**head, "choices": [], "usage": usage})
        for chunk in chunks:
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _token(text: str) -> dict[str, Any]:
    """What is told of a token."""
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}
