"""Finds the model server for a model name, and keeps away from one that is down until it heals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from app.errors import NotFound
from app.llm.upstream import CHAT, ChatStream, Upstream
from app.llm.upstream_errors import UNKNOWN_MODEL, UpstreamUnavailable

log = logging.getLogger(__name__)

_FAILURES_TO_OPEN = 3
_PROBE_FIRST_S, _PROBE_MOST_S = 0.25, 2.0
_LOOK_EVERY_S = 5.0
_LOOK_MOST_S = 1.0  # that a call waits to hear how a server is that has just failed


class Deployment:
    """One model server with its health: a breaker that closes by itself once probes succeed."""

    def __init__(self, model: str, upstream: Upstream) -> None:
        self.model = model
        self.upstream = upstream
        self.up = False
        self._failures = 0
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()  # since the last failure
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, then keep looking in the background."""
        self._set(await self.upstream.health())
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

    def _set(self, up: bool) -> None:
        if up != self.up:
            log.warning("model server of %s is %s", self.model, "up" if up else "down")
        self.up = up
        self._failures = 0

    async def _keep_looking(self) -> None:
        pause = _PROBE_FIRST_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S if self.up else pause):
                    await self._wake.wait()
                    pause = _PROBE_FIRST_S
            self._wake.clear()
            up = await self.upstream.health()
            if self._wake.is_set():
                continue  # it failed meanwhile: what was seen is old
            self._set(up)
            self._looked.set()
            pause = _PROBE_FIRST_S if self.up else min(2 * pause, _PROBE_MOST_S)


class Router:
    """The served models and their servers; every model call of the gateway goes through here."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._deployments = {name: Deployment(name, up) for name, up in upstreams.items()}

    async def start(self) -> None:
        """Look at every server once and begin to watch them."""
        await asyncio.gather(*(d.start() for d in self._deployments.values()))

    async def stop(self) -> None:
        """Stop watching and close all connections."""
        await asyncio.gather(*(d.stop() for d in self._deployments.values()))

    @property
    def names(self) -> list[str]:
        """The names of the served models."""
        return list(self._deployments)

    def available(self, model: str) -> bool:
        """Return whether `model` can answer now; raises NotFound for an unknown name."""
        return self._find(model).up

    async def ready(self, model: str) -> bool:
        """Return whether `model` can answer; waits for a look at a server that just failed.

        Raises NotFound for an unknown name.
        """
        return await self._find(model).ready()

    def look_again(self) -> None:
        """Look at every server at once, as when one is known to have come up."""
        for deployment in self._deployments.values():
            deployment.look_again()

    async def send(self, body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
        """Return the whole reply to `body`.

        Raises NotFound (`model_not_found`), UpstreamUnavailable, or the server's own refusal.
        """
        found = await self._open(body)
        try:
            reply = await found.upstream.send(body, path)
        except UpstreamUnavailable as error:
            found.fail(error)
            raise
        found.succeed()
        return reply

    async def stream(self, body: dict[str, Any], path: str = CHAT) -> ChatStream:
        """Start a streamed reply; raises as `send`, and UpstreamCut while it is iterated."""
        found = await self._open(body)
        try:
            stream = await found.upstream.stream(body, path)
        except UpstreamUnavailable as error:
            found.fail(error)
            raise
        found.succeed()
        stream.on_failure = found.fail
        return stream

    def _find(self, model: str) -> Deployment:
        found = self._deployments.get(model)
        if found is None:
            raise NotFound(
                "model", model, remedy=UNKNOWN_MODEL, param="model", code="model_not_found"
            )
        return found

    async def _open(self, body: dict[str, Any]) -> Deployment:
        found = self._find(body["model"])
        if not await found.ready():
            raise UpstreamUnavailable(f"The model '{found.model}' is not running now.", gone=True)
        return found
