"""The queue in front of the encoder: queries first, calls in turn, nothing lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.errors import Unavailable
from app.retrieval.batching import BATCH_TOKENS, MOST_PADDING, Batcher, grouped
from app.retrieval.onnx import Tokens

LENGTHS = st.lists(st.integers(1, 600), max_size=60)


def text(number: int, length: int = 10) -> Tokens:
    """A text that can be told by its first token."""
    return [number] + [0] * (length - 1), [0] * length


class Encoder:
    """Gives each text its own number as its vector; can be held up, and tells what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        numbers = [ids[0] for ids, _ in batch]
        self.batches.append(numbers)
        self.begun.release()
        assert self.go_on.wait(10)
        if 13 in numbers:
            raise ValueError("thirteen")
        return np.array([[n, -n] for n in numbers], np.float32)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
async def batcher(encoder: Encoder) -> AsyncIterator[Batcher]:
    made = Batcher(encoder, together=False)
    yield made
    encoder.go_on.set()
    await asyncio.to_thread(made.close)


def soon(
    batcher: Batcher, *texts: Tokens, query: bool = False
) -> asyncio.Task[NDArray[np.float32]]:
    return asyncio.ensure_future(batcher.embed(texts, query=query))


async def queued(batcher: Batcher, texts: int) -> None:
    async with asyncio.timeout(10):
        while batcher.waiting != texts:
            await asyncio.sleep(0)


async def test_a_query_goes_before_all_passages_that_wait(
    batcher: Batcher, encoder: Encoder
) -> None:
    encoder.go_on.clear()
    ingest = soon(batcher, *(text(n) for n in range(20, 40)))
    await encoder.has_begun()
    query = soon(batcher, text(1), query=True)
    await queued(batcher, 21)
    encoder.go_on.set()
    assert (await query)[0, 0] == 1
    await ingest
    assert encoder.batches[:2] == [[20], [1]]  # one passage at most was before it


async def test_calls_with_passages_take_turns(batcher: Batcher, encoder: Encoder) -> None:
    encoder.go_on.clear()
    large = soon(batcher, *(text(n) for n in range(20, 40)))
    await encoder.has_begun()
    small = soon(batcher, text(1), text(2))
    await queued(batcher, 22)
    encoder.go_on.set()
    await asyncio.gather(large, small)
    order = [n for batch in encoder.batches for n in batch]
    assert order.index(2) <= 4


async def test_a_cancelled_call_is_worth_no_more_work(batcher: Batcher, encoder: Encoder) -> None:
    encoder.go_on.clear()
    given_up = soon(batcher, *(text(n) for n in range(20, 40)))
    await encoder.has_begun()
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert batcher.waiting == 0
    encoder.go_on.set()
    assert (await batcher.embed([text(5)], query=False))[0, 0] == 5
    assert encoder.batches == [[20], [5]]


async def test_an_error_reaches_only_the_text_that_made_it(encoder: Encoder) -> None:
    encoder.go_on.clear()
    batcher = Batcher(encoder, together=True)
    first = soon(batcher, text(1))
    await encoder.has_begun()
    broken, whole = soon(batcher, text(13)), soon(batcher, text(14))
    await queued(batcher, 3)
    encoder.go_on.set()
    await first
    with pytest.raises(ValueError, match="thirteen"):
        await broken
    assert (await whole)[0, 0] == 14
    assert [13, 14] in encoder.batches
    assert batcher.waiting == 0
    batcher.close()


async def test_a_full_queue_refuses_queries_and_passages_apart(encoder: Encoder) -> None:
    encoder.go_on.clear()
    batcher = Batcher(encoder, together=False, most_queries=1, most_passages=2)
    running = [soon(batcher, text(1), query=True), soon(batcher, text(2), text(3))]
    await queued(batcher, 3)
    for query in (True, False):
        with pytest.raises(Unavailable, match="queue is full") as refused:
            await batcher.embed([text(4)], query=query)
        assert refused.value.headers["retry-after"] == "1"
    encoder.go_on.set()
    await asyncio.gather(*running)
    assert (await batcher.embed([text(5)], query=True))[0, 0] == 5
    batcher.close()


async def test_closing_refuses_what_waits_and_lets_finish_what_runs(
    batcher: Batcher, encoder: Encoder
) -> None:
    encoder.go_on.clear()
    running = soon(batcher, text(1))
    await encoder.has_begun()
    waiting = soon(batcher, text(2))
    await queued(batcher, 2)
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    encoder.go_on.set()
    assert (await running)[0, 0] == 1
    await closing
    with pytest.raises(Unavailable, match="stopping"):
        await batcher.embed([text(3)], query=True)


async def test_short_texts_of_several_callers_share_a_batch(encoder: Encoder) -> None:
    encoder.go_on.clear()
    batcher = Batcher(encoder, together=True)
    first = soon(batcher, text(1))
    await encoder.has_begun()
    queries = [soon(batcher, text(n, 10), query=True) for n in range(20, 24)]
    long = soon(batcher, text(30, 40), query=True)
    await queued(batcher, 6)
    encoder.go_on.set()
    await asyncio.gather(first, long, *queries)
    assert encoder.batches[1:] == [[20, 21, 22, 23], [30]]
    batcher.close()


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(1, 300), min_size=1, max_size=12)),
        max_size=8,
    ),
    together=st.booleans(),
    workers=st.integers(1, 3),
)
def test_every_caller_gets_its_own_vectors_in_its_order(
    calls: list[tuple[bool, list[int]]], together: bool, workers: int
) -> None:
    encoder = Encoder()
    batcher = Batcher(encoder, together, workers)

    async def run() -> None:
        jobs, wanted = [], []
        for at, (query, lengths) in enumerate(calls):
            numbers = [100 + 20 * at + i for i in range(len(lengths))]
            wanted.append(numbers)
            texts = [text(n, length) for n, length in zip(numbers, lengths, strict=True)]
            jobs.append(batcher.embed(texts, query=query))
        for numbers, vectors in zip(wanted, await asyncio.gather(*jobs), strict=True):
            assert vectors[:, 0].tolist() == numbers

    asyncio.run(run())
    batcher.close()
    assert batcher.waiting == 0


@given(lengths=LENGTHS, together=st.booleans())
def test_batches_hold_every_text_once_with_little_padding(
    lengths: list[int], together: bool
) -> None:
    batches = grouped(lengths, together)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[place] for place in batch]
        assert together or len(batch) == 1
        assert len(batch) == 1 or max(sizes) * len(batch) <= BATCH_TOKENS
        assert (max(sizes) - min(sizes)) * MOST_PADDING <= max(sizes)
