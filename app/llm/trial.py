"""Measures the servers of a model that is being rolled out; copies calls to its shadows."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from app.errors import OstiaryError
from app.gateway.call import Call, Usage
from app.ids import new_id
from app.llm.deployment import Deployment, Role
from app.llm.likeness import compare
from app.llm.reply_texts import texts_in
from app.llm.rollout import Rollout
from app.llm.same_question import Embed
from app.llm.samples import Sample, Samples
from app.llm.token_estimate import count_usage
from app.llm.upstream_errors import UpstreamUnavailable
from app.monitoring.cost import Prices

log = logging.getLogger(__name__)
AT_ONCE = 32  # copies of calls that a gateway has under way
LONGEST = 65_536  # characters of an answer that are compared


class Heard:
    """What one server answered, as it came in."""

    def __init__(self, deployment: Deployment, role: Role) -> None:
        self.deployment, self.role = deployment.id, role
        self._began = time.perf_counter()
        self.first_s: float | None = None  # to the first text of a stream
        self.latency_s = 0.0
        self.usage = Usage()
        self._texts: dict[tuple[int, str], list[str]] = {}
        self._length = 0

    def whole(self, reply: dict[str, Any]) -> None:
        """The reply in one piece."""
        self._take(reply)
        self.usage.answered(reply.get("usage"))
        self.end()

    def chunk(self, chunk: dict[str, Any]) -> None:
        """A chunk of a stream."""
        self._take(chunk)
        count_usage(self.usage, chunk)
        if self.first_s is None and self._length:
            self.first_s = time.perf_counter() - self._began

    def _take(self, reply: dict[str, Any]) -> None:
        for choice, holder, field in texts_in(reply):
            text = str(holder[field])
            if self._length < LONGEST:
                self._length += len(text)
                self._texts.setdefault((choice.get("index") or 0, field), []).append(text)

    def end(self) -> None:
        """The answer is there."""
        self.latency_s = time.perf_counter() - self._began

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n".join("".join(self._texts[key]) for key in sorted(self._texts))[:LONGEST]


class Trial:
    """One call of a model that is being rolled out: the servers that it asks are measured."""

    def __init__(self, trials: Trials, rollout: Rollout, model: str) -> None:
        self._trials, self._rollout, self._model = trials, rollout, model
        self._heard: Heard | None = None
        self._answered: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self._copy: asyncio.Task[None] | None = None

    def copy_to(self, shadow: Deployment, body: dict[str, Any], path: str, streamed: bool) -> None:
        """Send the call to a shadow too.

        The shadow's place is taken at once: a call that comes before the copy is sent is told so.
        """
        place = ExitStack()
        place.enter_context(shadow.busy())
        self._copy = self._trials.background(self._ask(shadow, place, body, path, streamed))
        self._copy.add_done_callback(lambda _: place.close())  # one that is cancelled never begins

    def asks(self, deployment: Deployment, role: Role) -> None:
        """A server is sent the call."""
        self._heard = Heard(deployment, role)

    def unmeasured(self) -> None:
        """Two servers are asked: neither is to be judged by it."""
        self._heard = None

    def failed(self) -> None:
        """It did not answer."""
        if self._heard is not None:
            self._trials.add(self._sample(self._heard, "failed"))
            self._heard = None

    def whole(self, reply: dict[str, Any]) -> None:
        """It answered in one piece."""
        if self._heard is not None:
            self._heard.whole(reply)
            self._done(self._heard)

    def chunk(self, chunk: dict[str, Any] | None) -> None:
        """It streams a chunk; None: the stream came to its end."""
        if self._heard is None:
            return
        if chunk is not None:
            self._heard.chunk(chunk)
        else:
            self._heard.end()
            self._done(self._heard)

    def _done(self, heard: Heard) -> None:
        self._heard = None
        if not self._answered.done():
            self._answered.set_result(heard)
        if self._copy is None or self._copy.done():  # else it is told with its pair
            self._trials.add(self._sample(heard, "answered"))

    def over(self) -> None:
        """Nobody waits any more; without an answer the copy is of no use either."""
        if not self._answered.done() and self._copy is not None:
            self._copy.cancel()
        self._heard = None

    async def _ask(
        self,
        shadow: Deployment,
        place: ExitStack,
        body: dict[str, Any],
        path: str,
        streamed: bool,
    ) -> None:
        heard, sent = Heard(shadow, "shadow"), shadow.body(body)
        try:
            with place:
                if streamed:
                    async with await shadow.upstream.stream(sent, path) as stream:
                        async for chunk in stream:
                            heard.chunk(chunk)
                    heard.end()
                else:
                    heard.whole(await shadow.upstream.send(sent, path))
            shadow.succeed()
        except OstiaryError as error:
            if isinstance(error, UpstreamUnavailable):
                shadow.fail(error)
            self._trials.add(self._sample(heard, "failed"))
            self._trials.add(self._sample(await self._answered, "answered"))
            return
        original = await self._answered
        likeness = await compare(original.text, heard.text, self._trials.embed())
        pair = new_id("pair_")
        self._trials.add_pair(
            self._sample(original, "answered", pair=pair),
            self._sample(
                heard,
                "answered",
                pair=pair,
                equal=likeness.equal,
                token_f1=likeness.token_f1,
                same_beginning=likeness.same_beginning,
                cosine=likeness.cosine,
            ),
        )

    def _sample(self, heard: Heard, outcome: str, **pair: Any) -> Sample:
        price = self._rollout.price if heard.role != "stable" else None
        return Sample(
            model=self._model,
            deployment=heard.deployment,
            role=heard.role,
            at=time.time(),
            outcome=outcome,
            first_ms=None if heard.first_s is None else 1e3 * heard.first_s,
            latency_ms=1e3 * heard.latency_s,
            completion_tokens=heard.usage.completion_tokens,
            cost_usd=self._trials.prices.cost_nano_usd(self._model, heard.usage, price) / 1e9,
            **pair,
        )


class Trials:
    """The calls of models that are being rolled out.

    Args:
        embed: of answers, to compare them; None where the gateway has no embedder.
    """

    def __init__(
        self,
        samples: Samples,
        prices: Prices,
        embed: Callable[[], Embed | None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.prices, self.embed, self._chance = prices, embed, chance
        self._copies: set[asyncio.Task[None]] = set()
        self.add, self.add_pair = samples.add, samples.add_pair

    def begin(
        self,
        rollout: Rollout,
        shadows: list[Deployment],
        call: Call,
        body: dict[str, Any],
        path: str,
        streamed: bool,
    ) -> Trial:
        """Measure a call, and copy it to a shadow if it is one of those that are.

        Args:
            shadows: those that could answer.
        """
        model = str(body["model"])
        trial = Trial(self, rollout, model)
        if shadows and self._chance() < rollout.shadow_share:
            idlest = min(shadows, key=lambda d: d.load)
            if idlest.room and len(self._copies) < AT_ONCE:
                call.lineage["shadow"] = idlest.id
                trial.copy_to(idlest, body, path, streamed)
            else:
                self.add(Sample(model, idlest.id, "shadow", time.time(), "skipped"))
        return trial

    def background(self, work: Any) -> asyncio.Task[None]:
        """Do it while the call goes on."""
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._copies.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._copies.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a copy of a call failed", exc_info=task.exception())

    async def close(self) -> None:
        """Break off the copies that are under way."""
        for task in list(self._copies):
            task.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)
