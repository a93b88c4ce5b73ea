"""Finds a model server for a model name: the warmest or idlest one, and another when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from app.errors import NotFound, RateLimited
from app.gateway.call import Call
from app.llm.attempts import Attempts
from app.llm.deployment import MOST_CALLS, Deployment, Role
from app.llm.rollout import Rollout, place_of
from app.llm.served import Served
from app.llm.trial import Trials
from app.llm.upstream import CHAT, ChatStream, Upstream
from app.llm.upstream_errors import UNKNOWN_MODEL, UpstreamUnavailable

T = TypeVar("T")
_ELSEWHERE = UpstreamUnavailable, RateLimited  # failures with which another server is tried
QUEUE, QUEUE_S = 1_000, 30.0  # calls that wait for a model, and how long one does


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
        self._served: dict[tuple[str, Role], Served] = {}
        self._rollouts: dict[str, Rollout] = {}
        self.trials: Trials | None = None  # measures what is rolled out
        for name, upstream in upstreams.items():
            self._take_in(Deployment(name, name, upstream, most=most))

    def _take_in(self, deployment: Deployment) -> None:
        key = deployment.model, deployment.role
        if key not in self._served:
            # nobody waits for a canary that is full: a stable server answers
            most = self._queue if deployment.role == "stable" else 0
            self._served[key] = Served(*key, most, self._queue_s)
        self._served[key].take_in(deployment)

    def _take_out(self, deployment: Deployment) -> None:
        served = self._served[deployment.model, deployment.role]
        del served.deployments[deployment.id]
        if not served.deployments:
            del self._served[deployment.model, deployment.role]
        served.look_again()

    async def start(self) -> None:
        """Look at every server once and begin to watch them."""
        await asyncio.gather(*(d.start() for d in self.deployments()))

    async def stop(self) -> None:
        """Stop watching and close all connections."""
        await asyncio.gather(*(d.stop() for d in self.deployments()))

    @property
    def names(self) -> list[str]:
        """The names of the served models."""
        return [name for name, role in self._served if role == "stable"]

    def deployments(self, model: str | None = None) -> list[Deployment]:
        """Every server, or those of a model, by role."""
        return [
            d
            for (name, _), served in self._served.items()
            if model in (None, name)
            for d in served.deployments.values()
        ]

    def busy_s(self, model: str) -> float:
        """How long the servers of a model have had calls to answer, all together, seconds.

        Those of shadows are nobody's.
        """
        return sum(d.busy_s for d in self.deployments(model) if d.role != "shadow")

    def servers(self, call: Call, body: dict[str, Any]) -> list[str]:
        """The ids of the servers that a call is sent to, if none fails."""
        first = self._chain(body, call)[0]
        return list(first.deployments)

    def serves(self, model: str) -> bool:
        """Whether this is the name of a served model."""
        return (model, "stable") in self._served

    def waiting(self) -> dict[str, int]:
        """How many calls wait for each model."""
        return {name: len(self._find(name).queue) for name in self.names}

    def fallbacks(self, model: str) -> tuple[str, ...]:
        """The models that answer when no server of this one can; raises NotFound."""
        return self._find(model).fallbacks

    def set_fallbacks(self, model: str, fallbacks: Iterable[str]) -> None:
        """Name the models that answer when no server of this one can."""
        if (model, "stable") in self._served:
            self._find(model).fallbacks = tuple(fallbacks)

    def hedge_s(self, model: str) -> float | None:
        """After how long a second server is asked too, seconds; None: never."""
        return self._find(model).hedge_s

    def set_hedge(self, model: str, hedge_s: float | None) -> None:
        """Ask a second server too when the first has not begun to answer after so long."""
        if (model, "stable") in self._served:
            self._find(model).hedge_s = hedge_s

    def set_rollout(self, model: str, rollout: Rollout | None) -> None:
        """Try candidates of a model so from now on."""
        if rollout is None:
            self._rollouts.pop(model, None)
        else:
            self._rollouts[model] = rollout

    def set_role(self, deployment: Deployment, role: Role) -> None:
        """Let a server answer other callers from now on; its calls go on to their end."""
        if deployment.role == role:
            return
        self._take_out(deployment)
        deployment.role = role
        self._take_in(deployment)

    async def add(self, deployment: Deployment) -> None:
        """Take a server in, at once if it is well; its model is made if it is new."""
        await deployment.start()
        self._take_in(deployment)

    async def remove(self, deployment_id: str) -> None:
        """Send a server no more calls; the streams that it is in go on to their end."""
        gone = next((d for d in self.deployments() if d.id == deployment_id), None)
        if gone is None:
            return
        self._take_out(gone)
        gone.draining = True
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
        for served in self._chain({"model": model}):
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
        attempts = self._attempts(body, path, call, streamed=False)

        async def ask(served: Served, found: Deployment) -> dict[str, Any]:
            with served.busy(found, attempts.tenant):
                span = attempts.span(found, path)
                if span is None:
                    return await found.upstream.send(found.body(body), path)
                with span:
                    reply = await found.upstream.send(found.body(body), path, span.headers)
                    span.answered(reply)
                    return reply

        served, found, reply = await self._first(attempts, ask)
        attempts.answered(found, reply)
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
        attempts = self._attempts(body, path, call, streamed=True)

        async def ask(served: Served, found: Deployment) -> ChatStream:
            with served.busy(found, attempts.tenant):
                span = attempts.span(found, path)
                headers = None if span is None else span.headers
                try:
                    stream = await found.upstream.stream(found.body(body), path, headers)
                except BaseException as error:
                    if span is not None:
                        span.failed(error)
                        span.end()
                    raise
                stream.span = span
                served.carry(found, attempts.tenant, stream)
            await stream.prime()
            return stream

        served, found, stream = await self._first(attempts, ask)
        attempts.streams(served, found, stream)
        return stream

    async def _first(
        self, attempts: Attempts, ask: Callable[[Served, Deployment], Coroutine[Any, Any, T]]
    ) -> tuple[Served, Deployment, T]:
        """The first server that answers, and what."""

        async def one(found: Deployment) -> T:
            try:
                return await ask(served, found)
            except _ELSEWHERE as error:
                attempts.failed(found, error)
                raise

        try:
            while True:
                served, found = await attempts.next()
                with contextlib.suppress(*_ELSEWHERE):
                    if served.hedge_s is None:
                        return served, found, await one(found)
                    second = functools.partial(attempts.hedge, served, found)
                    return served, *await _quicker(found, second, one, served.hedge_s)
        except BaseException as error:
            attempts.give_up(error)
            raise

    def _attempts(
        self, body: dict[str, Any], path: str, call: Call | None, *, streamed: bool
    ) -> Attempts:
        model, trial = str(body["model"]), None
        chain = self._chain(body, call)
        rollout = self._rollouts.get(model)
        if rollout is not None and self.trials is not None and call is not None:
            shadows = self._served.get((model, "shadow"))
            known = [] if shadows is None else shadows.deployments.values()
            up = [d for d in known if d.up and not d.draining]
            trial = self.trials.begin(rollout, up, call, body, path, streamed)
        return Attempts(chain, body, call, trial)

    def _find(self, model: str) -> Served:
        found = self._served.get((model, "stable"))
        if found is None:
            raise NotFound(
                "model", model, remedy=UNKNOWN_MODEL, param="model", code="model_not_found"
            )
        return found

    def _chain(self, body: dict[str, Any], call: Call | None = None) -> list[Served]:
        """The servers of a model and of those that answer for it, in order.

        A caller on the canary's side is answered by it first.
        """
        model = str(body["model"])
        first = self._find(model)
        others = [
            self._served[name, "stable"]
            for name in first.fallbacks
            if (name, "stable") in self._served and name != model
        ]
        canary, rollout = self._served.get((model, "canary")), self._rollouts.get(model)
        if canary is None or rollout is None or call is None:
            return [first, *others]
        on_its_side = place_of(call, body) < rollout.canary_share
        return [canary, first, *others] if on_its_side else [first, *others]


async def _quicker(
    first: Deployment,
    second: Callable[[], Deployment | None],
    ask: Callable[[Deployment], Coroutine[Any, Any, T]],
    hedge_s: float,
) -> tuple[Deployment, T]:
    """Ask a second server too when the first is silent for so long; the quicker one, and what.

    Raises what the last of them failed with, or at once what no server would do better.

    Dean and Barroso, The tail at scale, CACM 56(2), 2013.
    """
    asked = {asyncio.create_task(ask(first)): first}
    try:
        done, _ = await asyncio.wait(asked, timeout=hedge_s)
        other = None if done else second()
        if other is not None:
            asked[asyncio.create_task(ask(other))] = other
        while True:
            done, left = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return asked.pop(task), task.result()
            for task in done:
                if not left or not isinstance(task.exception(), _ELSEWHERE):
                    task.result()
                del asked[task]  # the other may still answer
    finally:
        for task in asked:
            task.cancel()
        for loser in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(loser, ChatStream):
                await loser.aclose()
