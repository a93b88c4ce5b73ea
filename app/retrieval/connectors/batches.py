"""Reads a blocking iterator from the event loop, many values at a step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
AT_A_STEP = 500


async def stepped(values: Iterator[T]) -> AsyncIterator[T]:
    """The values of ``values``, which runs in a thread and is never two steps ahead."""
    while True:
        some = await asyncio.to_thread(lambda: list(islice(values, AT_A_STEP)))
        for value in some:
            yield value
        if len(some) < AT_A_STEP:
            return
