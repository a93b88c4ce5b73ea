"""Shares one encoder among queries and passages in small batches, queries first."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.errors import Unavailable
from app.retrieval.onnx import Tokens

Run = Callable[[Sequence[Tokens]], NDArray[np.float32]]

BATCH_TOKENS = 256  # beyond it a batch is no faster: the products already fill the cores
MOST_PADDING = 8  # texts of a batch are at most an eighth shorter than its longest
MOST_QUERIES = 1024
MOST_PASSAGES = 16_384
_LOOK = 64  # calls looked through for texts of one length


def grouped(
    lengths: Sequence[int], together: bool, most_tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Return the places of texts in batches of like length, the shortest first.

    Args:
        lengths: tokens of each text.
        together: whether texts may share a batch at all.
    """
    batches: list[list[int]] = []
    shortest = 0
    for place in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        n = lengths[place]
        if batches and together and _fits(shortest, n, len(batches[-1]) + 1, most_tokens):
            batches[-1].append(place)
        else:
            batches.append([place])
            shortest = n
    return batches


def _fits(shortest: int, longest: int, texts: int, most_tokens: int) -> bool:
    return (longest - shortest) * MOST_PADDING <= longest and longest * texts <= most_tokens


@dataclass(eq=False, slots=True)
class _Call:
    items: list[Tokens]  # the shortest first
    places: list[int]  # of the items in the reply
    loop: asyncio.AbstractEventLoop
    finished: asyncio.Future[None]
    vectors: NDArray[np.float32] | None = None
    taken: int = 0
    done: int = 0
    error: Exception | None = None
    left: bool = False  # finished, failed or cancelled: worth no more work

    @property
    def next_length(self) -> int:
        return len(self.items[self.taken][0])


@dataclass(eq=False, slots=True)
class _Batch:
    calls: list[_Call] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    shortest: int = 0
    longest: int = 0

    def takes(self, length: int, most_tokens: int) -> bool:
        shortest, longest = min(self.shortest, length), max(self.longest, length)
        return _fits(shortest, longest, len(self.at) + 1, most_tokens)

    def add(self, call: _Call) -> None:
        length = call.next_length
        self.shortest = min(self.shortest, length) if self.at else length
        self.longest = max(self.longest, length)
        self.calls.append(call)
        self.at.append(call.taken)
        call.taken += 1

    @property
    def items(self) -> list[Tokens]:
        return [call.items[at] for call, at in zip(self.calls, self.at, strict=True)]


class Batcher:
    """A queue of queries, a queue of passages, and the threads that run the encoder.

    A thread that is free takes queries as long as there are any, and else one batch of
    passages. Calls with passages take turns batch by batch, so that one with two texts does
    not wait for one with thousands. A batch holds texts of like length and at most
    ``most_tokens`` tokens (one text may have more): a query never waits for more than what
    one long passage takes.

    ``waiting`` is the number of texts queued or running, exported as a metric.

    Args:
        run: maps texts to a float32 array of shape (n, dim); called from the threads.
        together: whether texts may share a batch, which they must not where a text's vector
            would depend on its neighbours.
        workers: threads.
        most_queries: that may wait; more are refused.
        most_passages: that may wait; a further call is refused.
    """

    def __init__(
        self,
        run: Run,
        together: bool,
        workers: int = 1,
        most_tokens: int = BATCH_TOKENS,
        most_queries: int = MOST_QUERIES,
        most_passages: int = MOST_PASSAGES,
    ) -> None:
        self._run = run
        self._together = together
        self._workers = workers
        self._most_tokens = most_tokens
        self._limits = {True: most_queries, False: most_passages}
        self._texts = {True: 0, False: 0}  # queued or running: queries, passages
        self._queues: dict[bool, deque[_Call]] = {True: deque(), False: deque()}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._texts[True] + self._texts[False]

    async def embed(self, items: Sequence[Tokens], *, query: bool) -> NDArray[np.float32]:
        """Embed texts; the place in the queue is given up when the caller is cancelled.

        Returns:
            float32 array of shape (n, dim) in the order of ``items``, of which there is one
            at least.

        Raises:
            Unavailable: too much is waiting, or the gateway is stopping.
        """
        places = sorted(range(len(items)), key=lambda i: len(items[i][0]))
        loop = asyncio.get_running_loop()
        call = _Call([items[i] for i in places], places, loop, loop.create_future())
        with self._changed:
            self._enter(call, query)
        try:
            await call.finished
        finally:
            with self._changed:
                self._leave(call, query)
        if call.error is not None:
            raise call.error
        assert call.vectors is not None
        return call.vectors

    def close(self) -> None:
        """Let running batches finish; calls that still wait are refused."""
        with self._changed:
            self._closed = True
            for query, queue in self._queues.items():
                for call in list(queue):
                    self._fail(call, _stopping())
                    self._leave(call, query)
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _enter(self, call: _Call, query: bool) -> None:
        """Queue a call; the lock is held."""
        if self._closed:
            raise _stopping()
        if self._texts[query] >= self._limits[query]:
            raise Unavailable(
                "The embedding queue is full. Wait a moment and send the request again.",
                code="overloaded",
                headers={"retry-after": "1"},
            )
        self._texts[query] += len(call.items)
        self._queues[query].append(call)
        while len(self._threads) < self._workers:
            thread = threading.Thread(
                target=self._work, name=f"ostiary-embed-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._changed.notify()

    def _leave(self, call: _Call, query: bool) -> None:
        """Take a call out of the queue; the lock is held."""
        if not call.left:
            call.left = True
            self._texts[query] -= len(call.items)
            if call in self._queues[query]:
                self._queues[query].remove(call)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._queues[True] or self._queues[False]):
                    self._changed.wait()
                if self._closed:
                    return
                queue = self._queues[True] or self._queues[False]
                batch = self._take(queue)
                if queue:  # for the next thread, which may have slept through two arrivals
                    self._changed.notify()
            self._do(batch)

    def _take(self, queue: deque[_Call]) -> _Batch:
        """Take the next batch; calls that gave to it go to the end. The lock is held."""
        batch = _Batch()
        passed: list[_Call] = []
        gave: list[_Call] = []
        for _ in range(min(len(queue), _LOOK)):
            call = queue.popleft()
            before = call.taken
            while call.taken < len(call.items) and (
                not batch.at
                or (self._together and batch.takes(call.next_length, self._most_tokens))
            ):
                batch.add(call)
            if call.taken == before:
                passed.append(call)
            elif call.taken < len(call.items):
                gave.append(call)
            if not self._together or batch.longest * (len(batch.at) + 1) > self._most_tokens:
                break
        queue.extendleft(reversed(passed))
        queue.extend(gave)
        return batch

    def _do(self, batch: _Batch) -> None:
        items = batch.items
        try:
            vectors = self._run(items)
        except Exception as error:  # the callers' to handle; the thread goes on
            self._do_apart(batch, error)
            return
        with self._changed:
            for call, at, vector in zip(batch.calls, batch.at, vectors, strict=True):
                self._give(call, at, vector)

    def _do_apart(self, batch: _Batch, error: Exception) -> None:
        """A text that fails must not take its neighbours with it."""
        for call, at in zip(batch.calls, batch.at, strict=True):
            try:
                if len(batch.at) == 1:
                    raise error
                vector = self._run([call.items[at]])[0]
            except Exception as own:
                with self._changed:
                    self._fail(call, own)
            else:
                with self._changed:
                    self._give(call, at, vector)

    def _give(self, call: _Call, at: int, vector: NDArray[np.float32]) -> None:
        """Hand over one vector; the lock is held."""
        if call.vectors is None:
            call.vectors = np.empty((len(call.items), len(vector)), np.float32)
        call.vectors[call.places[at]] = vector
        call.done += 1
        if call.done == len(call.items):
            _wake(call)

    def _fail(self, call: _Call, error: Exception) -> None:
        """End a call; the lock is held."""
        if call.error is None:
            call.error = error
            for queue in self._queues.values():
                if call in queue:
                    queue.remove(call)
            _wake(call)


def _stopping() -> Unavailable:
    return Unavailable("The gateway is stopping. Send the request again.", code="stopping")


def _wake(call: _Call) -> None:
    with contextlib.suppress(RuntimeError):  # its loop was closed; nobody waits
        call.loop.call_soon_threadsafe(_finish, call.finished)


def _finish(finished: asyncio.Future[None]) -> None:
    if not finished.done():
        finished.set_result(None)
