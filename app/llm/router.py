"""Finds a model server for a model name: the warmest or idlest one, and another when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from app.errors import NotFound, RateLimited, Unavailable
from app.gateway.call import Call
from app.llm.affinity import Prefixes, blocks_of
from app.llm.deployment import MOST_CALLS, Deployment
from app.llm.fair_queue import FairQueue, Priority
from app.llm.upstream import CHAT, ChatStream, Upstream
from app.llm.upstream_errors import UNKNOWN_MODEL, UpstreamUnavailable

# A warm server is preferred while it answers at most so many calls more than the idlest one.
SLACK = 4
# Retries may add a fifth to the calls, and ten at once: more would bury a fleet that is down.
RETRIES_A_CALL, RETRIES_AT_ONCE = 0.2, 10.0
QUEUE, QUEUE_S = 1_000, 30.0  # calls that wait for a model, and how long one does
DEADLINE_S = 120.0  # after so long a failed call is not tried elsewhere


class Served:
    """A model: its servers, and the models that answer when none of them can."""

    def __init__(self, name: str, most: int, most_s: float) -> None:
        self.name, self.fallbacks = name, tuple[str, ...]()
        self.deployments: dict[str, Deployment] = {}
        self.queue = FairQueue(self._room, most, most_s)
        self._prefixes = Prefixes()
        self._turn = itertools.count()
        self._retries = RETRIES_AT_ONCE

    @property
    def up(self) -> bool:
        """Whether a server can answer now."""
        return any(d.up and not d.draining for d in self.deployments.values())

    def _room(self) -> int:
        return sum(d.room for d in self.deployments.values())

    def take_in(self, deployment: Deployment) -> None:
        """Send a server calls from now on."""
        self.deployments[deployment.id] = deployment
        deployment.on_change = self.look_again
        self.look_again()

    def look_again(self) -> None:
        """Let calls go that wait: there may be room, or no server at all."""
        if self.up:
            self.queue.look()
        else:
            self.queue.release()

    @contextlib.contextmanager
    def busy(self, deployment: Deployment, tenant: str) -> Iterator[None]:
        """One more call of a tenant at a server, until the block ends."""
        with deployment.busy():
            self.queue.began(tenant)
            try:
                yield
            finally:
                self.queue.ended(tenant)

    def carry(self, deployment: Deployment, tenant: str, stream: ChatStream) -> None:
        """One more call of a tenant at a server, until the stream ends."""
        self.queue.began(tenant)
        deployment.carry(stream)
        over = stream.on_end

        def ended() -> None:
            self.queue.ended(tenant)
            if over is not None:
                over()

        stream.on_end = ended

    async def able(self, tried: Set[str] = frozenset()) -> list[Deployment]:
        """The servers that can answer, of those not yet tried."""
        left = [d for d in self.deployments.values() if not d.draining and d.id not in tried]
        if up := [d for d in left if d.up]:
            return up
        found = await asyncio.gather(*(d.ready() for d in left))  # one that has just failed
        return [d for d, well in zip(left, found, strict=True) if well]

    async def choose(
        self, blocks: list[bytes], tried: Set[str], tenant: str, priority: Priority
    ) -> Deployment | None:
        """The server for a prompt among those not yet tried; None where none can answer.

        Waits where all have as much as they take. What failed elsewhere has waited before.

        Raises:
            RateLimited: too many calls wait.
            Unavailable: this one waited too long.
        """
        while True:
            able = await self.able(tried)
            if not able:
                return None
            if not self.deployments.keys() & tried:
                await self.queue.enter(tenant, priority)
                able = [d for d in able if d.room]
            if able:
                return self._best(able, blocks)

    def _best(self, able: list[Deployment], blocks: list[bytes]) -> Deployment:
        if len(able) < 2:
            return able[0]
        turn = next(self._turn)
        able = able[turn % len(able) :] + able[: turn % len(able)]  # equals take turns
        idlest = min(able, key=lambda d: d.load)
        known = {d.id: d for d in able}
        for name in self._prefixes.warmest(blocks):
            warm = known.get(name)
            if warm is not None and not (warm.full and not idlest.full):
                if warm.outstanding <= idlest.outstanding + SLACK * warm.weight:
                    return warm
                break
        return idlest

    def begin(self, blocks: list[bytes], deployment: Deployment) -> None:
        """A call goes to a server: its prompt will be warm there."""
        if len(self.deployments) > 1:
            self._prefixes.note(blocks, deployment.id)

    def called(self) -> None:
        """A call came in: it adds to what may be tried again."""
        self._retries = min(RETRIES_AT_ONCE, self._retries + RETRIES_A_CALL)

    def may_retry(self) -> bool:
        """Take a retry out of the budget."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True


class Router:
    """The served models and their servers; every model call of the gateway goes through here."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        *,
        most: int = MOST_CALLS,
        queue: int = QUEUE,
        queue_s: float = QUEUE_S,
    ) -> None:
        """One server a model; more come by :meth:`add`.

        Args:
            most: calls that such a server is sent at a time.
            queue: calls that wait for a model before others are refused.
            queue_s: the longest that one waits, seconds.
        """
        self._queue, self._queue_s = queue, queue_s
        self._models: dict[str, Served] = {}
        for name, upstream in upstreams.items():
            self._served(name).take_in(Deployment(name, name, upstream, most=most))

    def _served(self, name: str) -> Served:
        if name not in self._models:
            self._models[name] = Served(name, self._queue, self._queue_s)
        return self._models[name]

    async def start(self) -> None:
        """Look at every server once and begin to watch them."""
        await asyncio.gather(*(d.start() for d in self.deployments()))

    async def stop(self) -> None:
        """Stop watching and close all connections."""
        await asyncio.gather(*(d.stop() for d in self.deployments()))

    @property
    def names(self) -> list[str]:
        """The names of the served models."""
        return list(self._models)

    def deployments(self) -> list[Deployment]:
        """Every server, by model."""
        return [d for served in self._models.values() for d in served.deployments.values()]

    def busy_s(self, model: str) -> float:
        """How long the servers of a model have had calls to answer, all together, seconds."""
        served = self._models.get(model)
        return 0.0 if served is None else sum(d.busy_s for d in served.deployments.values())

    def servers(self, model: str) -> list[str]:
        """The ids of the servers of a model."""
        served = self._models.get(model)
        return [] if served is None else list(served.deployments)

    def waiting(self) -> dict[str, int]:
        """How many calls wait for each model."""
        return {name: len(served.queue) for name, served in self._models.items()}

    def fallbacks(self, model: str) -> tuple[str, ...]:
        """The models that answer when no server of this one can; raises NotFound."""
        return self._find(model).fallbacks

    def set_fallbacks(self, model: str, fallbacks: Iterable[str]) -> None:
        """Name the models that answer when no server of this one can."""
        if model in self._models:
            self._models[model].fallbacks = tuple(fallbacks)

    async def add(self, deployment: Deployment) -> None:
        """Take a server in, at once if it is well; its model is made if it is new."""
        await deployment.start()
        self._served(deployment.model).take_in(deployment)

    async def remove(self, deployment_id: str) -> None:
        """Send a server no more calls; the streams that it is in go on to their end."""
        for served in list(self._models.values()):
            gone = served.deployments.pop(deployment_id, None)
            if gone is None:
                continue
            if not served.deployments:
                del self._models[served.name]
            gone.draining = True
            served.look_again()
            try:
                await gone.idle.wait()
            finally:
                await gone.stop()

    def available(self, model: str) -> bool:
        """Return whether `model` can answer now; raises NotFound for an unknown name."""
        return self._find(model).up

    async def ready(self, model: str) -> bool:
        """Return whether `model`, or what answers for it, can answer.

        Waits for a look at a server that just failed. Raises NotFound for an unknown name.
        """
        for served in self._chain(model):
            if await served.able():
                return True
        return False

    def look_again(self) -> None:
        """Look at every server at once, as when one is known to have come up."""
        for deployment in self.deployments():
            deployment.look_again()

    async def send(
        self, body: dict[str, Any], path: str = CHAT, call: Call | None = None
    ) -> dict[str, Any]:
        """Return the whole reply to `body`.

        Raises NotFound (`model_not_found`), UpstreamUnavailable, or the server's own refusal.
        """
        attempts = _Attempts(self._chain(body["model"]), body, call)
        while True:
            served, found = await attempts.next()
            try:
                with served.busy(found, attempts.tenant):
                    reply = await found.upstream.send(found.body(body), path)
            except (UpstreamUnavailable, RateLimited) as error:
                attempts.failed(found, error)
                continue
            found.succeed()
            if "model" in reply:
                reply["model"] = served.name
            return reply

    async def stream(
        self, body: dict[str, Any], path: str = CHAT, call: Call | None = None
    ) -> ChatStream:
        """Start a streamed reply; returns once its first event is there.

        Until then another server may take over. Raises as `send`, and UpstreamCut while it is
        iterated.
        """
        attempts = _Attempts(self._chain(body["model"]), body, call)
        while True:
            served, found = await attempts.next()
            try:
                with served.busy(found, attempts.tenant):
                    stream = await found.upstream.stream(found.body(body), path)
                    served.carry(found, attempts.tenant, stream)
                await stream.prime()
            except (UpstreamUnavailable, RateLimited) as error:
                attempts.failed(found, error)
                continue
            found.succeed()
            stream.model, stream.on_failure = served.name, found.fail
            return stream

    def _find(self, model: str) -> Served:
        found = self._models.get(model)
        if found is None:
            raise NotFound(
                "model", model, remedy=UNKNOWN_MODEL, param="model", code="model_not_found"
            )
        return found

    def _chain(self, model: str) -> list[Served]:
        """A model and those that answer for it, in order."""
        first = self._find(model)
        others = [self._models[n] for n in first.fallbacks if n in self._models and n != model]
        return [first, *others]


class _Attempts:
    """The servers that one call is sent to, until one answers."""

    def __init__(self, chain: list[Served], body: dict[str, Any], call: Call | None) -> None:
        self._chain = chain
        several = any(len(served.deployments) > 1 for served in chain)
        self._blocks = blocks_of(body) if several else []
        self._call, self._tried = call, set[str]()
        self.tenant = "" if call is None else call.tenant_id
        self._priority: Priority = "interactive" if call is None else call.priority
        self._deadline = time.monotonic() + DEADLINE_S
        self._error: UpstreamUnavailable | RateLimited | None = None
        self._chain[0].called()

    async def next(self) -> tuple[Served, Deployment]:
        """The next server to try; raises what the last one failed with when there is none."""
        if self._error is not None:
            late = time.monotonic() > self._deadline
            if late or not self._chain[0].may_retry():
                raise self._error
        crowded: RateLimited | Unavailable | None = None
        for served in self._chain:
            began = time.monotonic()
            try:
                found = await served.choose(self._blocks, self._tried, self.tenant, self._priority)
            except (RateLimited, Unavailable) as error:
                crowded = crowded or error
                continue
            if found is not None:
                served.begin(self._blocks, found)
                self._note(served, found, time.monotonic() - began)
                return served, found
        failed = self._error or crowded
        if failed is not None:
            raise failed
        name = self._chain[0].name
        raise UpstreamUnavailable(f"The model '{name}' is not running now.", gone=True)

    def failed(self, found: Deployment, error: UpstreamUnavailable | RateLimited) -> None:
        """Another server is to be tried."""
        self._tried.add(found.id)
        self._error = error
        if isinstance(error, UpstreamUnavailable):
            found.fail(error)

    def _note(self, served: Served, found: Deployment, waited_s: float) -> None:
        call = self._call
        if call is None:
            return
        call.lineage["deployment"] = found.id
        if waited_s >= 0.001:
            call.lineage["queued_ms"] = round(1e3 * waited_s)
        if self._tried:
            call.lineage["failed_deployments"] = sorted(self._tried)
        if served is not self._chain[0]:
            call.model = call.versions["model"] = served.name
            call.degraded = f"fallback-model={served.name}"
