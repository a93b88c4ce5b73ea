"""Full collections wait until few calls are under way, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from app.gateway import garbage


class Node:
    """Can be part of a cycle."""

    def __init__(self) -> None:
        self.itself = self


def old_garbage() -> weakref.ref[Node]:
    """A cycle that only a full collection finds."""
    node = Node()
    for generation in (0, 1, 1):
        gc.collect(generation)
    return weakref.ref(node)


@contextlib.asynccontextmanager
async def collecting(calls: Callable[[], int]) -> AsyncIterator[None]:
    task = asyncio.create_task(garbage.collect_when_quiet(calls))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "EVERY_S", 0.01)
    monkeypatch.setattr(garbage, "DUE", 0)


async def gone(found: weakref.ref[Node]) -> None:
    async with asyncio.timeout(10):
        while found() is not None:
            await asyncio.sleep(0.01)


async def test_what_is_in_cycles_is_collected_once_few_calls_are_under_way() -> None:
    calls, asked, often = garbage.FEW + 1, 0, asyncio.Event()

    def under_way() -> int:
        nonlocal asked
        asked += 1
        if asked == 10:
            often.set()
        return calls

    async with collecting(under_way):
        found = old_garbage()
        await asyncio.wait_for(often.wait(), 10)
        assert found() is not None
        calls = garbage.FEW
        await gone(found)


async def test_a_gateway_that_is_never_quiet_collects_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "LONGEST_S", 0.1)
    async with collecting(lambda: 10_000):
        await gone(old_garbage())


async def test_python_collects_as_before_once_the_gateway_has_stopped() -> None:
    before = gc.get_threshold()
    async with collecting(lambda: 0):
        await asyncio.sleep(0)  # it has begun
        assert gc.get_threshold() == (*before[:2], garbage.NEVER)
    assert gc.get_threshold() == before
