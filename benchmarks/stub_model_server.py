"""A stub of an OpenAI-compatible model server: fixed text at once, for timing only.

It is no model and never a stand-in for one: it exists so that what a gateway adds can be
measured without the model's own time, and so that tests of the gateway need no model. Written
on a bare asyncio protocol, because it has to be far faster than anything put before it.

    python -m benchmarks.stub_model_server --port 9000

``--vary`` puts another word into every sentence of each reply, so that no cache of findings
behind it can help. A streamed call may set its own pace in the body, as the command line does
for all: ``{"stream": true, "stub": {"chunks": 20, "interval_ms": 500, "words": 1}}``.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import signal
from typing import Any, cast

import orjson
import uvloop

MODEL = "stub"
TAG = b"@@@@@@"  # where --vary puts a word of the same length
SAME = b"simple"
TEXT = (
    "This @@@@@@ reply comes from a stub that answers at once and knows nothing at all. "
    "It stands where a model would stand, so that the @@@@@@ door before it can be timed. "
    "Whoever reads these 60 words for @@@@@@ advice has come to the wrong house, yet the "
    "path that they took to get here was the right one."
)
WORDS = TEXT.split(" ")
WORDS_A_CHUNK = 8  # 8 chunks
PROMPT_TOKENS = 120
MOST_CHUNKS = 100_000


def _usage(completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion,
        "total_tokens": PROMPT_TOKENS + completion,
    }


def _reply(status: bytes, value: Any) -> bytes:
    body = orjson.dumps(value)
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


def _error(status: bytes, message: str) -> bytes:
    return _reply(status, {"error": {"message": message, "type": "invalid_request_error"}})


HEALTH = _reply(b"200 OK", {"status": "ok"})
MODELS = _reply(
    b"200 OK",
    {
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "benchmarks"}],
    },
)
WHOLE = _reply(
    b"200 OK",
    {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": _usage(len(WORDS)),
    },
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"
NOT_FOUND = _error(b"404 Not Found", "The stub serves /health, /v1/models and chat completions.")
NO_LENGTH = _error(b"411 Length Required", "The stub takes bodies with a content-length only.")
BAD_BODY = _error(b"400 Bad Request", "The body is not a JSON object the stub understands.")


def _piece(data: bytes) -> bytes:
    """One server-sent event as one chunk of the HTTP transfer."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return _piece(
        orjson.dumps(
            {
                "id": "chatcmpl-stub",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
                **more,
            }
        )
    )


@functools.lru_cache(maxsize=64)
def stream_pieces(chunks: int | None, words: int, usage: bool) -> tuple[bytes, ...]:
    """What a stream writes, one entry a turn; ``chunks`` None: the whole text once."""
    groups = [WORDS[i : i + words] for i in range(0, len(WORDS), words)]
    count = len(groups) if chunks is None else chunks
    texts = [" ".join(groups[i % len(groups)]) for i in range(count)]
    made = [_chunk({"content": (" " if i else "") + t}) for i, t in enumerate(texts)]
    made[0] = _chunk({"role": "assistant", "content": ""}) + made[0]
    made[-1] += _chunk({}, "stop")
    if usage:
        total = _usage(sum(t.count(" ") + 1 for t in texts))
        made[-1] += _chunk({}, choices=[], usage=total)
    made[-1] += _piece(b"[DONE]") + STREAM_END
    return tuple(made)


class Pace:
    """How replies differ and how fast streams go, as the command line says."""

    def __init__(self, chunks: int | None, interval_ms: float, words: int, vary: bool) -> None:
        self.chunks, self.interval_ms, self.words = chunks, interval_ms, words
        self._tags = (
            ("".join(letters).encode() for letters in itertools.product(_LETTERS, repeat=6))
            if vary
            else itertools.repeat(SAME)
        )

    def tag(self) -> bytes:
        """The word of the next reply."""
        return next(self._tags)


_LETTERS = "bcdfghklmnprstvz"  # 16.7 million words that are nobody's name


class Stub(asyncio.Protocol):
    """One connection; requests come one after another, bodies in any number of packets."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()
        self._need = 0
        self._closing = False
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own class

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next is not None:
            self._next.cancel()

    def data_received(self, data: bytes) -> None:
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return
            data = bytes(self._held)
            self._held.clear()
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._held += data
            self._need = 0
            return
        length = _content_length(data[: end + 2])
        if length < 0:
            self._transport.write(NO_LENGTH)
            self._transport.close()
            return
        end += 4
        if len(data) < end + length:
            self._held += data
            self._need = end + length
            return
        self._answer(data, end, end + length)

    def _answer(self, data: bytes, start: int, end: int) -> None:
        self._closing = data.find(b"onnection: close\r\n", 0, start) > 0
        if data.startswith(b"POST /v1/chat/completions "):
            # inside a JSON string the quotes would be escaped, so this looks at keys only
            if data.find(b'"stream":true', start) < 0 and data.find(b'"stream": true', start) < 0:
                self._transport.write(WHOLE.replace(TAG, self._pace.tag()))
            else:
                self._begin_stream(data[start:end])
                return
        elif data.startswith(b"GET /health "):
            self._transport.write(HEALTH)
        elif data.startswith(b"GET /v1/models "):
            self._transport.write(MODELS)
        else:
            self._transport.write(NOT_FOUND)
        self._close_if_asked()

    def _close_if_asked(self) -> None:
        if self._closing:
            self._transport.close()

    def _begin_stream(self, body: bytes) -> None:
        try:
            asked = orjson.loads(body)
            own = asked.get("stub") or {}
            usage = bool((asked.get("stream_options") or {}).get("include_usage"))
            chunks, words = own.get("chunks", self._pace.chunks), own.get("words", self._pace.words)
            interval_s = own.get("interval_ms", self._pace.interval_ms) / 1e3
            if not (chunks is None or 1 <= chunks <= MOST_CHUNKS) or words < 1:
                raise ValueError("out of range")
            pieces = stream_pieces(chunks, words, usage)
        except (ValueError, TypeError, AttributeError):
            self._transport.write(BAD_BODY)
            return
        tag = self._pace.tag()
        if interval_s <= 0:
            self._transport.write((STREAM_HEAD + b"".join(pieces)).replace(TAG, tag))
            self._close_if_asked()
            return
        self._transport.write(STREAM_HEAD)
        self._turn(pieces, 0, tag, self._loop.time(), interval_s)

    def _turn(
        self, pieces: tuple[bytes, ...], i: int, tag: bytes, began: float, interval_s: float
    ) -> None:
        self._transport.write(pieces[i].replace(TAG, tag))
        i += 1
        if i == len(pieces):
            self._next = None
            self._close_if_asked()
            return
        # by the clock, not after the last one: a late turn does not delay the rest
        self._next = self._loop.call_at(
            began + i * interval_s, self._turn, pieces, i, tag, began, interval_s
        )


def _content_length(head: bytes) -> int:
    """Length of the body; 0 without one, -1 when it is sent in a way the stub cannot read."""
    at = head.find(b"ontent-Length:")
    if at < 0:
        lower = head.lower()
        at = lower.find(b"ontent-length:")
        if at < 0:
            return -1 if b"\r\ntransfer-encoding:" in lower else 0
    value = head[at + 14 : head.find(b"\r", at)].strip()
    return int(value) if value.isdigit() else -1


async def serve(host: str, port: int, pace: Pace) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    server = await loop.create_server(lambda: Stub(pace), host, port, backlog=4096)
    print(f"stub model server (timing only, no model) on {host}:{port}", flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, help="content chunks a stream (default: the text)")
    parser.add_argument("--chunk-interval-ms", type=float, default=0.0)
    parser.add_argument("--words", type=int, default=WORDS_A_CHUNK, help="words a chunk")
    parser.add_argument("--vary", action="store_true", help="another word in every sentence")
    given = parser.parse_args()
    pace = Pace(given.chunks, given.chunk_interval_ms, given.words, given.vary)
    uvloop.run(serve(given.host, given.port, pace))


if __name__ == "__main__":
    main()
