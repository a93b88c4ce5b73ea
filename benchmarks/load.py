"""A closed-loop load generator: N clients, each with one kept connection, in its own process.

Written on a bare asyncio protocol, because a client library would cost more than what it
measures. Every prompt differs from every other in each of its sentences, so that no cache of
findings (the gateway remembers the names in sentences it has seen) makes the figures better
than real traffic would. Prints one JSON object.

    python -m benchmarks.load --url http://127.0.0.1:9000 --clients 16 --seconds 2
    python -m benchmarks.load --url http://127.0.0.1:9000 --stream --chunks 8 --interval-ms 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

WARM_S = 0.4
LEAST, MOST_MORE_S = 10, 30.0  # replies that a figure rests on; seconds to wait for them
# 540 characters in five sentences; @@@@@@ is another word in each prompt. It holds numbers, as
# prompts do, so the pattern recognizers have something to look at, and no personal data.
TEMPLATE = (
    "Our @@@@@@ team keeps 14 pumps in the north hall and wants to know how often they need care. "
    "Last spring the @@@@@@ pump stood still for 3 days because a seal had dried out unnoticed. "
    "The manual of the @@@@@@ series asks for new seals every 2,000 hours, but nobody wrote down "
    "when that was done last. Please write a short @@@@@@ plan for the next 12 months, with the "
    "checks for each week and the parts we should keep on the shelf. Say plainly which of the "
    "@@@@@@ steps can wait, and give a reason for each one that everyone here knows well."
)
TAG = "@@@@@@"
_LETTERS = "bcdfghklmnprstvz"


def word(number: int) -> str:
    """A word of six letters, another one for each number under 16**6."""
    return "".join(_LETTERS[number >> (4 * i) & 15] for i in reversed(range(6)))


def prompt(number: int) -> str:
    """The prompt of one request."""
    return TEMPLATE.replace(TAG, word(number))


@dataclass(slots=True)
class Load:
    """What to send, and what came of it; times in seconds."""

    url: str
    key: str
    clients: int
    seconds: float
    stream: bool = False
    streams_each: int = 0  # 0: until the time is over
    ramp_s: float = 0.0
    stub: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    counting: bool = False
    stopping: bool = False
    latencies: array[float] = field(default_factory=lambda: array("d"))
    first_tokens: array[float] = field(default_factory=lambda: array("d"))
    gaps: array[float] = field(default_factory=lambda: array("d"))  # longest of each stream
    statuses: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    open: int = 0
    most_open: int = 0
    _request: bytes = b""

    def __post_init__(self) -> None:
        body: dict[str, Any] = {
            "model": "stub",
            "messages": [{"role": "user", "content": TEMPLATE}],
            "max_tokens": 64,
        }
        if self.stream:
            body |= {"stream": True, "stub": self.stub}
        data = json.dumps(body).encode()
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        ).encode() + data

    def request(self) -> bytes:
        """The bytes of the next request: the prompt differs, its length does not."""
        self.number += 1
        return self._request.replace(TAG.encode(), word(self.number).encode())


class Client(asyncio.Protocol):
    """One connection that sends its next request when the last reply is complete."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._sent = 0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._load.broken += 1
            self._load.open -= 1
        if not self.done.done():
            self.done.set_result(None)

    def _send(self) -> None:
        load = self._load
        if load.stopping or (load.streams_each and self._sent == load.streams_each):
            self._transport.close()
            return
        self._sent += 1
        data = load.request()
        self._busy = True
        self._buffer = b""
        self._chunked = False
        self._total = -1
        self._first = self._last = self._longest = 0.0
        load.open += 1
        load.most_open = max(load.most_open, load.open)
        self._began = time.perf_counter()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._total < 0 and not self._chunked:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(self._buffer[:end], end + 4)
            data = self._buffer
            self._buffer = b"" if self._chunked else self._buffer
        elif not self._chunked:
            self._buffer += data
        if not self._chunked:
            if len(self._buffer) >= self._total:
                self._finish(now)
            return
        if b'"content":"' in data and (self._first or _has_text(data)):
            if not self._first:
                self._first = now - self._began
            else:
                self._longest = max(self._longest, now - self._last)
            self._last = now
        self._buffer = (self._buffer + data)[-8:]  # the end may come in two packets
        if self._buffer.endswith(b"0\r\n\r\n"):
            self._finish(now)

    def _read_head(self, head: bytes, body_at: int) -> None:
        status = head[9:12].decode()
        self._load.statuses[status] = self._load.statuses.get(status, 0) + 1
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at >= 0:
            end = lower.find(b"\r", at)
            self._total = body_at + int(lower[at + 15 : end if end > 0 else None])
        else:
            self._chunked = True
            self._buffer = self._buffer[body_at:]

    def _finish(self, now: float) -> None:
        load = self._load
        self._busy = False
        load.open -= 1
        if load.counting:
            load.latencies.append(now - self._began)
            if load.stream and self._first:
                load.first_tokens.append(self._first)
                load.gaps.append(self._longest)
        self._send()


def _has_text(data: bytes) -> bool:
    return any(not part.startswith(b'"') for part in data.split(b'"content":"')[1:])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest of some seconds, in milliseconds."""
    if not len(values):
        return {}
    ms = np.asarray(values) * 1e3
    p50, p95, p99 = (round(float(v), 4) for v in np.percentile(ms, (50, 95, 99)))
    return {"p50": p50, "p95": p95, "p99": p99, "max": round(float(ms.max()), 4)}


async def run(load: Load) -> dict[str, Any]:
    """Put the load on and return what was measured."""
    loop = asyncio.get_running_loop()
    where = urlsplit(load.url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    clients: list[Client] = []
    limited = load.streams_each > 0
    load.counting = limited
    began = time.perf_counter()
    for i in range(load.clients):
        wait_s = began + i * load.ramp_s / load.clients - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        _, client = await loop.create_connection(lambda: Client(load), host, port)
        clients.append(client)
    if not limited:
        await asyncio.sleep(WARM_S)
        load.counting, began = True, time.perf_counter()
        await asyncio.sleep(load.seconds)
        while len(load.latencies) < max(LEAST, load.clients):  # slow targets take their time
            if time.perf_counter() - began > load.seconds + MOST_MORE_S:
                break
            await asyncio.sleep(0.05)
        load.counting, load.stopping = False, True
    took_s = time.perf_counter() - began
    await asyncio.wait_for(asyncio.gather(*(c.done for c in clients)), load.seconds + 120)
    took_s = time.perf_counter() - began if limited else took_s
    return {
        "requests": len(load.latencies),
        "rps": round(len(load.latencies) / took_s, 1),
        "latency_ms": percentiles(load.latencies),
        "first_token_ms": percentiles(load.first_tokens),
        "longest_gap_ms": percentiles(load.gaps),
        "statuses": load.statuses,
        "broken": load.broken,
        "most_open": load.most_open,
    }


def main() -> None:
    """Read the command line, put the load on and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--first-number", type=int, default=0, help="where prompts begin to count")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--streams-each", type=int, default=0, help="streams of each client")
    parser.add_argument("--ramp-s", type=float, default=0.0, help="seconds to open all in")
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--interval-ms", type=float)
    parser.add_argument("--words", type=int)
    given = parser.parse_args()
    stub = {"chunks": given.chunks, "interval_ms": given.interval_ms, "words": given.words}
    load = Load(
        given.url,
        given.key,
        given.clients,
        given.seconds,
        stream=given.stream,
        streams_each=given.streams_each,
        ramp_s=given.ramp_s,
        stub={k: v for k, v in stub.items() if v is not None},
        number=given.first_number,
    )
    print(json.dumps(uvloop.run(run(load))))


if __name__ == "__main__":
    main()
