"""The servers that one call is sent to, one after the other, until one answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from app.errors import RateLimited, Unavailable
from app.gateway.call import Call
from app.llm.affinity import blocks_of
from app.llm.deployment import Deployment
from app.llm.fair_queue import Priority
from app.llm.served import Served
from app.llm.token_estimate import estimate_prompt
from app.llm.trial import Trial
from app.llm.upstream import ChatStream
from app.llm.upstream_errors import UpstreamUnavailable
from app.monitoring.stages import took

if TYPE_CHECKING:
    from app.monitoring.tracing import ModelSpan

DEADLINE_S = 120.0  # after so long a failed call is not tried elsewhere


class Attempts:
    """The servers that one call is sent to, until one answers.

    Args:
        chain: the servers to try, in order; of the model that was asked for first.
        trial: measures them.
    """

    def __init__(
        self,
        chain: list[Served],
        body: dict[str, Any],
        call: Call | None,
        trial: Trial | None = None,
    ) -> None:
        self._chain, self._trial = chain, trial
        several = any(len(served.deployments) > 1 for served in chain)
        self._blocks = blocks_of(body) if several else []
        self._body, self._call, self._tried = body, call, set[str]()
        self._asking = 0  # servers that work for it now
        # what is tried after a canary would have gone there without it: it is nobody's retry
        self._stable = next(served for served in chain if served.role == "stable")
        self._free = False
        self.tenant = "" if call is None else call.tenant_id
        self._priority: Priority = "interactive" if call is None else call.priority
        self._deadline = time.monotonic() + DEADLINE_S
        self._error: UpstreamUnavailable | RateLimited | None = None
        self._stable.called()

    async def next(self) -> tuple[Served, Deployment]:
        """The next server to try; raises what the last one failed with when there is none."""
        if self._error is not None:
            late = time.monotonic() > self._deadline
            if late or not (self._free or self._stable.may_retry()):
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
                if self._trial is not None and served.name == self._chain[0].name:
                    self._trial.asks(found, served.role)
                self._asking, self._free = 1, served.role == "canary"
                return served, found
        failed = self._error or crowded
        if failed is not None:
            raise failed
        name = self._chain[0].name
        raise UpstreamUnavailable(f"The model '{name}' is not running now.", gone=True)

    def span(self, found: Deployment, path: str) -> ModelSpan | None:
        """Begin to trace that a server is asked; None where the call is not traced."""
        if self._call is None or self._call.trace is None:
            return None
        return self._call.trace.ask(path, found.model, found.id, found.is_vllm)

    def failed(self, found: Deployment, error: UpstreamUnavailable | RateLimited) -> None:
        """A server did not answer; another is to be tried."""
        self._tried.add(found.id)
        self._error, self._asking = error, self._asking - 1
        if isinstance(error, UpstreamUnavailable):
            found.fail(error)
        if self._trial is not None:
            self._trial.failed()

    def hedge(self, served: Served, first: Deployment) -> Deployment | None:
        """Another server for a call that waits long at the first; None where none is idle."""
        idle = [
            d
            for d in served.deployments.values()
            if d.room and d.id not in {*self._tried, first.id}
        ]
        if not idle or len(served.queue) or not self._stable.may_retry():
            return None
        if self._call is not None:
            self._call.lineage["hedged"] = first.id
        if self._trial is not None:
            self._trial.unmeasured()
        self._asking += 1
        return min(idle, key=lambda d: d.load)

    def answered(self, found: Deployment, reply: dict[str, Any]) -> None:
        """A server answered with a whole reply."""
        self._by(found)
        if self._trial is not None:
            self._trial.whole(reply)
            self._trial.over()

    def streams(self, served: Served, found: Deployment, stream: ChatStream) -> None:
        """A server has begun to answer."""
        self._by(found)
        self._reading()
        stream.model, stream.on_failure = served.name, found.fail
        trial = self._trial
        if trial is None:
            return
        ended = stream.on_end

        def failed(error: UpstreamUnavailable) -> None:
            found.fail(error)
            trial.failed()

        def over() -> None:
            trial.over()
            if ended is not None:
                ended()

        stream.on_failure, stream.on_chunk, stream.on_end = failed, trial.chunk, over

    def _by(self, found: Deployment) -> None:
        found.succeed()
        if self._call is not None and "hedged" in self._call.lineage:
            self._call.lineage["deployment"] = found.id

    def _reading(self) -> None:
        """A server has the prompt: it is charged, by its length until the server tells."""
        if self._call is not None:
            self._call.usage.reading(estimate_prompt(self._body))

    def give_up(self, error: BaseException) -> None:
        """Nobody answered, or nobody waits for an answer any more."""
        if self._asking and isinstance(error, asyncio.CancelledError):
            self._reading()  # the client left while a server worked for it
        if self._trial is not None:
            self._trial.over()

    def _note(self, served: Served, found: Deployment, waited_s: float) -> None:
        call = self._call
        if call is None:
            return
        call.lineage["deployment"] = found.id
        took(call, "queue", waited_s)
        if waited_s >= 0.001:
            call.lineage["queued_ms"] = round(1e3 * waited_s)
        if self._tried:
            call.lineage["failed_deployments"] = sorted(self._tried)
        if served.role != "stable":
            call.lineage["arm"] = served.role
        if served.name != self._chain[0].name:
            call.model = call.versions["model"] = served.name
            call.degraded = f"fallback-model={served.name}"
