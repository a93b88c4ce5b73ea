"""Bounded thread pools in which CPU work runs, so that the event loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from app.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A few threads and a bounded queue; refuses work instead of piling it up.

    ``waiting`` is the number of calls queued or running, exported as a metric.
    """

    def __init__(self, name: str, threads: int, queue: int = 1024) -> None:
        self.name = name
        self.limit = threads + queue
        self.waiting = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"ostiary-{name}")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a thread of the pool and wait for its result.

        Raises:
            Unavailable: the queue is full.
        """
        if self.waiting >= self.limit:
            raise Unavailable(
                f"The {self.name} queue is full. Wait a moment and send the request again.",
                code="overloaded",
                headers={"retry-after": "1"},
            )
        self.waiting += 1
        try:
            loop = asyncio.get_running_loop()
            context = copy_context()  # a line that is logged there is the call's
            return await loop.run_in_executor(
                self._executor, lambda: context.run(function, *args, **kwargs)
            )
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Let running work finish and take no more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
