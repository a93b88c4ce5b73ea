"""Where kept replies lie: in this process, or in Redis for all gateways."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MOST_QUESTIONS = 1000  # of a kind that are compared with a new one


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was answered: its vector, its text, and the key of its reply."""

    vector: NDArray[np.float32]
    text: str
    key: str
    until: float  # Unix seconds


class CacheStore(Protocol):
    """Replies by key, and questions by kind; both are forgotten after their time."""

    async def get(self, key: str) -> bytes | None:
        """The reply under a key."""
        ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a reply."""
        ...

    async def asked(self, kind: str) -> list[Asked]:
        """The newest questions of a kind, at most ``MOST_QUESTIONS``."""
        ...

    async def note(self, kind: str, question: Asked) -> None:
        """Keep a question."""
        ...

    async def names(self) -> set[str]:
        """What replies and kinds of questions are kept under."""
        ...

    async def clear(self) -> None:
        """Forget all of them."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryCache:
    """In this process: the replies used last, up to so many bytes.

    Args:
        most_bytes: of replies and vectors.
        clock: Unix seconds.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._most, self._clock = most_bytes, clock
        self._replies: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._asked: OrderedDict[str, deque[Asked]] = OrderedDict()
        self.size = 0

    async def get(self, key: str) -> bytes | None:
        kept = self._replies.get(key)
        if kept is None:
            return None
        if kept[0] <= self._clock():
            self._drop(key)
            return None
        self._replies.move_to_end(key)
        return kept[1]

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._drop(key)
        if len(value) > self._most // 8:
            return  # it would push out too many others
        self._replies[key] = (self._clock() + ttl_s, value)
        self.size += len(value)
        self._shrink()

    async def asked(self, kind: str) -> list[Asked]:
        known, now = self._asked.get(kind), self._clock()
        return [] if known is None else [q for q in known if q.until > now]

    async def note(self, kind: str, question: Asked) -> None:
        known = self._asked.setdefault(kind, deque())
        self._asked.move_to_end(kind)
        known.append(question)
        self.size += _bytes(question)
        if len(known) > MOST_QUESTIONS:
            self.size -= _bytes(known.popleft())
        self._shrink()

    async def names(self) -> set[str]:
        return {*self._replies, *self._asked}

    async def clear(self) -> None:
        self._replies.clear()
        self._asked.clear()
        self.size = 0

    async def close(self) -> None:
        await self.clear()

    def _drop(self, key: str) -> None:
        kept = self._replies.pop(key, None)
        if kept is not None:
            self.size -= len(kept[1])

    def _shrink(self) -> None:
        while self.size > self._most and self._replies:
            self._drop(next(iter(self._replies)))
        while self.size > self._most and self._asked:
            _, gone = self._asked.popitem(last=False)
            self.size -= sum(map(_bytes, gone))


class RedisCache:
    """In Redis: a string for each reply, a stream of questions for each kind.

    What another gateway noted is read from where this one read last, so that a look costs what
    is new, not what is there.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        from redis.asyncio import Redis

        self._redis = Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=0.5)
        self._clock = clock
        self._read: OrderedDict[str, tuple[str, deque[Asked]]] = OrderedDict()
        self._reading = asyncio.Lock()

    async def get(self, key: str) -> bytes | None:
        found: Any = await self._redis.get(f"ostiary:cache:{key}")
        return None if found is None else bytes(found)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._redis.set(f"ostiary:cache:{key}", value, px=max(1, int(ttl_s * 1000)))

    async def asked(self, kind: str) -> list[Asked]:
        async with self._reading:
            last, known = self._read.get(kind, ("0", deque[Asked]()))
            new: Any = await self._redis.xread({_stream(kind): last}, count=MOST_QUESTIONS)
            for _, entries in new or ():
                for place, fields in entries:
                    last = place.decode()
                    known.append(
                        Asked(
                            np.frombuffer(fields[b"vector"], np.float32),
                            fields[b"text"].decode(),
                            fields[b"key"].decode(),
                            float(fields[b"until"]),
                        )
                    )
            while len(known) > MOST_QUESTIONS:
                known.popleft()
            self._read[kind] = (last, known)
            self._read.move_to_end(kind)
            while len(self._read) > 100:
                self._read.popitem(last=False)
        now = self._clock()
        return [q for q in known if q.until > now]

    async def note(self, kind: str, question: Asked) -> None:
        stream = _stream(kind)
        fields: dict[str, str | bytes | float] = {
            "vector": question.vector.astype(np.float32).tobytes(),
            "text": question.text,
            "key": question.key,
            "until": question.until,
        }
        async with self._redis.pipeline() as pipeline:
            pipeline.xadd(stream, fields, maxlen=MOST_QUESTIONS, approximate=False)  # type: ignore[arg-type]
            pipeline.expire(stream, max(1, int(question.until - self._clock()) + 1))
            await pipeline.execute()

    async def names(self) -> set[str]:
        return {name.decode() async for name in self._names()}

    async def clear(self) -> None:
        async with self._reading:
            self._read.clear()
            async for name in self._names():
                await self._redis.delete(name)

    async def _names(self) -> AsyncIterator[bytes]:
        for kind in ("ostiary:cache:*", "ostiary:asked:*"):
            async for name in self._redis.scan_iter(kind, count=1000):
                yield name

    async def close(self) -> None:
        await self._redis.aclose()


def make_cache(redis_url: str | None, most_bytes: int) -> CacheStore:
    """In Redis when there is one, else in this process."""
    return RedisCache(redis_url) if redis_url else MemoryCache(most_bytes)


def _stream(kind: str) -> str:
    return f"ostiary:asked:{kind}"


def _bytes(question: Asked) -> int:
    return question.vector.nbytes + len(question.text) + 200
