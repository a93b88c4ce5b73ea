"""How many replies of a key are being streamed; in process, or shared through Redis."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any, Protocol

from app.errors import Unavailable

log = logging.getLogger("ostiary.gateway")
LEASE_S = 3600  # after so long a stream is not counted: its gateway may have died


class Streams(Protocol):
    """The streams that are open, by the name of who opened them."""

    async def begin(self, name: str, call_id: str, limit: int) -> bool:
        """Count one more; False, and nothing counted, where ``limit`` are open."""
        ...

    async def end(self, name: str, call_id: str) -> None:
        """It is over; never raises."""
        ...


class MemoryStreams:
    """Counts in this process."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    async def begin(self, name: str, call_id: str, limit: int) -> bool:
        if self._open[name] >= limit:
            return False
        self._open[name] += 1
        return True

    async def end(self, name: str, call_id: str) -> None:
        self._open[name] -= 1
        if self._open[name] <= 0:
            del self._open[name]


def soon() -> dict[str, Any]:
    """How Redis is asked where a call waits: fail soon, once more over a dropped connection."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    retry = Retry(NoBackoff(), 1)
    return {"socket_connect_timeout": 1.0, "socket_timeout": 1.0, "retry": retry}


def unreachable() -> Unavailable:
    """A limit that cannot count refuses."""
    return Unavailable(
        "The shared limits cannot be reached, so the call was refused. Try again shortly.",
        code="limits_unavailable",
        headers={"retry-after": "1"},
    )


class RedisStreams:
    """Counts shared by all gateways: a sorted set of call ids by the time they began."""

    # all at once, so that two gateways cannot both take the last place
    _BEGIN = """
        redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2] - ARGV[4])
        if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
        redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
        redis.call('EXPIRE', KEYS[1], ARGV[4])
        return 1
    """

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis

        self._redis = Redis.from_url(url, **soon())
        self._begin = self._redis.register_script(self._BEGIN)

    async def begin(self, name: str, call_id: str, limit: int) -> bool:
        """Raises Unavailable when Redis does not answer: a limit that cannot count refuses."""
        try:
            args: list[str | float] = [call_id, time.time(), limit, LEASE_S]
            return bool(await self._begin(keys=[_key(name)], args=args))
        except Exception as error:
            raise unreachable() from error

    async def end(self, name: str, call_id: str) -> None:
        try:
            await self._redis.zrem(_key(name), call_id)
        except Exception:
            log.warning("an ended stream is counted for an hour: limits unreachable")


def make_streams(redis_url: str | None) -> Streams:
    """In Redis when there is one, else in this process."""
    return RedisStreams(redis_url) if redis_url else MemoryStreams()


def _key(name: str) -> str:
    return f"ostiary:streams:{name}"
