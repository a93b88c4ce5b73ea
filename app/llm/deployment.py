"""One model server: its health, what it has to do, and a breaker that heals by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the door that names roles should not load an HTTP client
    from app.llm.upstream import ChatStream, Upstream
    from app.llm.upstream_errors import UpstreamUnavailable

log = logging.getLogger(__name__)

Role = Literal["stable", "canary", "shadow"]  # answers all, a share of the callers, or nobody

_FAILURES_TO_OPEN = 3
_PROBE_FIRST_S, _PROBE_MOST_S = 0.25, 2.0
_LOOK_EVERY_S = 5.0
_LOOK_MOST_S = 1.0  # that a call waits to hear how a server is that has just failed
MOST_CALLS = 1024  # as many as vLLM answers at a time on a large card
_FULL = 0.95  # of the memory for keys and values; beyond, a server turns requests out of it


class Deployment:
    """A server of a model.

    Args:
        id: names it in the router and in audit records.
        model: the name under which callers know what it serves.
        served: the name under which the server knows it.
        weight: its share of the calls, against the other servers of the model.
        most: calls that it is sent at a time; more wait in the gateway.
        role: whom it answers.
    """

    def __init__(
        self,
        id: str,
        model: str,
        upstream: Upstream,
        *,
        served: str | None = None,
        weight: float = 1.0,
        draining: bool = False,
        most: int = MOST_CALLS,
        role: Role = "stable",
    ) -> None:
        self.id, self.model, self.upstream, self.role = id, model, upstream, role
        self.served, self.weight, self.draining = served or model, weight, draining
        self.most = most
        self.up = False
        self.on_change: Callable[[], None] | None = None  # it may have more room, or none
        self._busy_since, self._busy_s = 0.0, 0.0
        self.outstanding = 0  # calls of this gateway that it is answering
        self.idle = asyncio.Event()  # while there are none
        self.idle.set()
        self.foreign = 0  # requests beside ours that it told of when it was last looked at
        self.waiting = 0  # requests in its queue then
        self.is_vllm = False  # by its metrics
        self.failed = self.opened = 0  # calls that it failed; times that it went down
        self.cache_usage: float | None = None  # of its memory for keys and values, 0..1
        self._failures = 0
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()  # since the last failure
        self._watch: asyncio.Task[None] | None = None

    @property
    def load(self) -> float:
        """What it has to do, as the next call would find it, by its weight."""
        return (self.outstanding + self.foreign + 1) / self.weight

    @property
    def room(self) -> int:
        """How many calls more it may be sent now."""
        return max(0, self.most - self.outstanding) if self.up and not self.draining else 0

    @property
    def busy_s(self) -> float:
        """How long it has had calls of this gateway to answer, seconds."""
        under_way = time.monotonic() - self._busy_since if self.outstanding else 0.0
        return self._busy_s + under_way

    @property
    def full(self) -> bool:
        """Whether it queues requests or is short of memory for them."""
        return self.waiting > 0 or (self.cache_usage or 0.0) >= _FULL

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body as the server knows its model.

        vLLM tells the usage so far with each chunk, so that a stream that is cut is charged right.
        """
        changed: dict[str, Any] = {} if self.served == body["model"] else {"model": self.served}
        options = body.get("stream_options") or {}
        if self.is_vllm and options.get("include_usage"):
            changed["stream_options"] = {**options, "continuous_usage_stats": True}
        return {**body, **changed} if changed else body

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """One more call, until the block ends."""
        self._begun()
        try:
            yield
        finally:
            self._over()

    def carry(self, stream: ChatStream) -> None:
        """One more call, until the stream ends."""
        self._begun()
        stream.on_end = self._over

    def _begun(self) -> None:
        if not self.outstanding:
            self._busy_since = time.monotonic()
        self.outstanding += 1
        self.idle.clear()

    def _over(self) -> None:
        self.outstanding -= 1
        if not self.outstanding:
            self._busy_s += time.monotonic() - self._busy_since
            self.idle.set()
        self.changed()

    def changed(self) -> None:
        """It may have more room now, or none."""
        if self.on_change is not None:
            self.on_change()

    async def start(self) -> None:
        """Look once, then keep looking in the background."""
        await self._look()
        self._looked.set()
        self._watch = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Stop looking and close the connections."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self.upstream.close()

    def succeed(self) -> None:
        """Note that a call was answered."""
        self._failures = 0

    def fail(self, error: UpstreamUnavailable) -> None:
        """Note a failed call: down at once when nothing answered, else after three in a row."""
        self._failures += 1
        self.failed += 1
        if error.gone or self._failures >= _FAILURES_TO_OPEN:
            self._set(False)
            self._looked.clear()
            self.look_again()

    async def ready(self) -> bool:
        """Whether the server can answer.

        A broken connection alone does not tell whether its server died, so a call that comes
        right after one waits until the server was looked at: milliseconds, a second at most.
        """
        if not self.up and not self._looked.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_MOST_S):
                    await self._looked.wait()
        return self.up

    def look_again(self) -> None:
        """Look at once instead of at the next turn."""
        self._wake.set()

    async def _look(self) -> bool:
        """Ask how it is; False when it failed a call meanwhile, so that what was seen is old."""
        up = await self.upstream.health()
        told = await self.upstream.metrics() if up else {}
        if self._wake.is_set():
            return False
        self.is_vllm = bool(told) if up else self.is_vllm
        self.waiting = int(told.get("waiting", 0))
        running = int(told.get("running", 0)) + self.waiting
        self.foreign = max(0, running - self.outstanding)
        self.cache_usage = told.get("cache_usage")
        self._set(up)
        return True

    def _set(self, up: bool) -> None:
        if up != self.up:
            log.warning("model server %s of %s is %s", self.id, self.model, "up" if up else "down")
            self.up = up
            self.opened += not up
            self.changed()
        self._failures = 0

    async def _keep_looking(self) -> None:
        pause = _PROBE_FIRST_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S if self.up else pause):
                    await self._wake.wait()
                    pause = _PROBE_FIRST_S
            self._wake.clear()
            if await self._look():
                self._looked.set()
            pause = _PROBE_FIRST_S if self.up else min(2 * pause, _PROBE_MOST_S)
