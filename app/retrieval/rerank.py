"""Orders search results anew by reading query and passage together, within a time budget."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.retrieval.types import Candidate

# Of the model's say in the order; measured on Cranfield, see docs/reranking.md.
WEIGHT = 0.4
SOFTNESS = 4.0  # logits; spreads the model's relevance as wide as first-stage scores are
MOST_CHARS = 500  # of a passage that the model reads: about 110 tokens, as good as 384
MOST_QUEUED = 512  # pairs
BUDGET_MS = 100.0
_EDGE = 1e-6  # relevance nearer to 0 or 1 is not told apart
_PACE_KEPT = 0.8  # of the running mean of a pair's time at each new one

Score = Callable[[str, list[str]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Reranked:
    """A new order of candidates.

    ``order`` holds positions in the list of candidates, best first. ``scores`` (0..1, never
    rising) and ``relevance`` (the model's own judgement in 0..1, None where it did not get to
    the passage) go with ``order``. The first ``scored`` places are those that the model judged.
    """

    order: list[int]
    scores: list[float]
    relevance: list[float | None]
    scored: int


def blend(first: float, relevance: float, weight: float = WEIGHT) -> float:
    """Weigh a first-stage score with the model's relevance; all in 0..1.

    The relevance is softened (the sigmoid of a quarter of its logit), because the model is
    nearly always sure: unsoftened, its 0 or 1 would drown the first stage's finer steps.
    """
    clipped = min(1 - _EDGE, max(_EDGE, relevance if math.isfinite(relevance) else 0.0))
    logit = math.log(clipped / (1 - clipped))
    return (1 - weight) * first + weight / (1 + math.exp(-logit / SOFTNESS))


@dataclass(eq=False, slots=True)
class _Call:
    query: str
    texts: list[str]
    deadline: float  # of time.monotonic()
    loop: asyncio.AbstractEventLoop
    finished: asyncio.Future[None]
    scores: list[float] = field(default_factory=list)
    error: Exception | None = None
    left: bool = False  # finished, out of time or cancelled: worth no more work


class Reranker:
    """Shares one model among concurrent calls, a pair of query and passage at a time.

    Calls take turns pair by pair, so that a call with two candidates does not wait for one
    with fifty. One text at a time is as fast as a batch and gives a score that does not
    depend on what is scored beside it.

    ``queued`` is the number of pairs waiting, exported as a metric.

    Args:
        score: judges texts against a query, float32 array of shape (n,) in 0..1; called from
            one thread of its own.
        weight: of the model's judgement against the first stage's score, 0..1.
        most_chars: of a passage that the model reads, from its start.
        most_queued: pairs that may wait; what a call brings beyond them is not scored.
    """

    def __init__(
        self,
        score: Score,
        weight: float = WEIGHT,
        most_chars: int = MOST_CHARS,
        most_queued: int = MOST_QUEUED,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in 0..1, got {weight}")
        self.queued = 0
        self.weight = weight
        self._score = score
        self._most_chars = most_chars
        self._most_queued = most_queued
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pace = 0.0  # seconds a pair, a running mean

    async def rerank(
        self,
        query: str,
        candidates: Sequence[Candidate],
        budget_ms: float | None = BUDGET_MS,
        weight: float | None = None,
        most_chars: int | None = None,
    ) -> Reranked:
        """Order candidates by the model's judgement blended with their first-stage score.

        The best of the first stage are judged first. When the budget is spent, or the queue
        is full, those judged so far lead in their new order, and the others follow in the
        order of the first stage.

        Args:
            budget_ms: milliseconds until the reply, waiting for other calls included; None
                waits for every candidate.
            weight: replaces the reranker's.
            most_chars: replaces the reranker's.

        Raises:
            ValueError: the budget is negative or the weight is not in 0..1.
        """
        chosen = self.weight if weight is None else weight
        if not 0 <= chosen <= 1:
            raise ValueError(f"weight must be in 0..1, got {weight}")
        if budget_ms is not None and not budget_ms >= 0:
            raise ValueError(f"budget_ms must be at least 0, got {budget_ms}")
        ranked = sorted(range(len(candidates)), key=lambda i: -candidates[i].score)
        judged: list[float] = []
        if budget_ms != 0 and ranked:
            most = self._most_chars if most_chars is None else most_chars
            texts = [candidates[i].text[:most] for i in ranked]
            judged = await self._judged(query, texts, budget_ms)
        return arrange(ranked, [candidates[i].score for i in ranked], judged, chosen)

    def close(self) -> None:
        """End the thread; calls still waiting get what was judged, later ones nothing."""
        with self._changed:
            self._closed = True
            for call in list(self._calls):
                self._finish(call)
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    async def _judged(self, query: str, texts: list[str], budget_ms: float | None) -> list[float]:
        """The model's relevance of the first texts, as many as there was time for."""
        seconds = None if budget_ms is None else budget_ms / 1e3
        call = self._enter(query, texts, seconds)
        if call is None:
            return []
        try:
            async with asyncio.timeout(seconds):
                await call.finished
        except TimeoutError:
            pass
        finally:
            with self._changed:
                self._leave(call)
        if call.error is not None:
            raise call.error
        return call.scores

    def _enter(self, query: str, texts: list[str], seconds: float | None) -> _Call | None:
        loop = asyncio.get_running_loop()
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        with self._changed:
            texts = texts[: max(0, self._most_queued - self.queued)]
            if self._closed or not texts:
                return None
            call = _Call(query, texts, deadline, loop, loop.create_future())
            self.queued += len(texts)
            self._calls.append(call)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="ostiary-rerank", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return call

    def _leave(self, call: _Call) -> None:
        """Take a call out of the queue; the lock is held."""
        if not call.left:
            call.left = True
            self.queued -= len(call.texts) - len(call.scores)
            if call in self._calls:  # else its pair is being scored
                self._calls.remove(call)

    def _finish(self, call: _Call) -> None:
        """Wake the caller; the lock is held."""
        self._leave(call)
        with contextlib.suppress(RuntimeError):  # its loop was closed; nobody waits
            call.loop.call_soon_threadsafe(_wake, call.finished)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._calls or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                call = self._calls.popleft()
            began = time.monotonic()
            try:
                text = call.texts[len(call.scores)]
                value = float(self._score(call.query, [text])[0])
            except Exception as error:  # the caller's to handle; the thread goes on
                with self._changed:
                    call.error = error
                    self._finish(call)
                continue
            now = time.monotonic()
            kept = _PACE_KEPT if self._pace else 0.0
            self._pace = kept * self._pace + (1 - kept) * (now - began)
            with self._changed:
                if call.left:  # too late, or cancelled
                    continue
                call.scores.append(value)
                self.queued -= 1
                done = len(call.scores) == len(call.texts)
                # A pair that would end after the deadline is work for nobody.
                if done or self._closed or now + self._pace > call.deadline:
                    self._finish(call)
                else:
                    self._calls.append(call)


def _wake(finished: asyncio.Future[None]) -> None:
    if not finished.done():
        finished.set_result(None)


def arrange(ranked: list[int], first: list[float], judged: list[float], weight: float) -> Reranked:
    """Blend the judged head of the first stage's order and put the rest below it.

    Args:
        ranked: positions of all candidates in the order of the first stage.
        first: their scores in that order, 0..1, falling.
        judged: the model's relevance of the first of them, 0..1.
    """
    blended = [blend(f, r, weight) for f, r in zip(first, judged, strict=False)]
    head = sorted(range(len(judged)), key=lambda i: -blended[i])
    tail = range(len(judged), len(ranked))
    least = min(blended, default=math.inf)
    return Reranked(
        [ranked[i] for i in [*head, *tail]],
        [*(blended[i] for i in head), *(min(least, first[i]) for i in tail)],
        [*(judged[i] for i in head), *(None for _ in tail)],
        len(judged),
    )
