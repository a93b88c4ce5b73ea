"""A model server that fails as its requests say, for fault injection only: it is no model.

The body's field ``fault`` names what goes wrong; ``/sent`` tells how many chunks or whole answers
each request was sent, by the text of its prompt.

    python -m benchmarks.faulty_model_server --port 9000 --fail-share 0.1
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from typing import Any

import orjson
from aiohttp import web

WORDS = [f"word{n} " for n in range(12)]
PROMPT_TOKENS = 20
PAUSE_S = 0.05
FAULTS = (
    *("none", "abort", "hang", "garbage", "cut", "500", "drip"),
    *("unreadable usage", "no usage", "client leaves"),
)


class FaultyModel:
    """Answers chats in ``WORDS``, or fails.

    Args:
        fail_share: of all requests, that are answered 500 whatever they ask for.
    """

    def __init__(self, fail_share: float, seed: int = 0) -> None:
        self._fail_share, self._chance = fail_share, random.Random(seed)
        self.sent: Counter[str] = Counter()

    def app(self) -> web.Application:
        """What is served."""
        made = web.Application()
        made.router.add_post("/v1/chat/completions", self._chat)
        made.router.add_get("/health", self._health)
        made.router.add_get("/sent", self._sent)
        return made

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _sent(self, request: web.Request) -> web.Response:
        return web.json_response(self.sent)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        fault, name = body.get("fault", "none"), str(body["messages"][-1]["content"])
        if self._chance.random() < self._fail_share or fault == "500":
            return web.json_response({"error": {"message": "boom"}}, status=500)
        if fault == "abort":
            return _abort(request)
        if fault == "hang":
            await asyncio.Event().wait()
        if body.get("stream"):
            return await self._stream(request, fault, name)
        if fault == "garbage":
            return web.Response(body=b"<html>not a reply", content_type="application/json")
        if fault in ("drip", "client leaves"):
            await asyncio.sleep(len(WORDS) * PAUSE_S)
        data = orjson.dumps(_whole(fault))
        if fault == "cut":
            response = web.StreamResponse(headers={"content-length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            return _abort(request)
        self.sent[name] += 1
        return web.Response(body=data, content_type="application/json")

    async def _stream(self, request: web.Request, fault: str, name: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, word in enumerate(WORDS):
            if number == 4 and fault == "cut":
                return _abort(request)
            if number == 4 and fault == "garbage":
                await response.write(b"data: {oops\n\n")
                return response
            if fault in ("drip", "client leaves"):
                await asyncio.sleep(PAUSE_S)
            self.sent[name] += 1
            await response.write(_event({"delta": {"content": word}, "finish_reason": None}))
        await response.write(_event({"delta": {}, "finish_reason": "stop"}))
        usage = _usage(fault)
        if usage is not None:
            await response.write(b"data: %s\n\n" % orjson.dumps({**_HEAD, "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response


_HEAD = {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": list[Any]()}


def _event(choice: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % orjson.dumps({**_HEAD, "choices": [{"index": 0, **choice}]})


def _usage(fault: str) -> dict[str, Any] | None:
    if fault == "no usage":
        return None
    if fault == "unreadable usage":
        return {"prompt_tokens": -1_000_000, "completion_tokens": "many"}
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": len(WORDS),
        "total_tokens": PROMPT_TOKENS + len(WORDS),
    }


def _whole(fault: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]}
    usage = _usage(fault)
    return whole if usage is None else {**whole, "usage": usage}


def _abort(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fail-share", type=float, default=0.0)
    given = parser.parse_args()
    app = FaultyModel(given.fail_share).app()
    web.run_app(app, host="127.0.0.1", port=given.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
