"""Vectors from a server: our own gateway as a real one, and a fake one that fails on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.retrieval.remote_embedding as remote
from app.errors import BadRequest, Unavailable
from app.retrieval.remote_embedding import RemoteEmbedder, estimated_tokens, requests_of
from tests.conftest import Gateway, free_port
from tests.retrieval.faulty_embedding_server import FaultyEmbeddingServer
from tests.retrieval.stores import embedder as local_embedder

Connect = Callable[..., RemoteEmbedder]


@pytest.fixture
async def server() -> AsyncIterator[FaultyEmbeddingServer]:
    async with FaultyEmbeddingServer().running() as running:
        yield running


@pytest.fixture
async def connect(server: FaultyEmbeddingServer) -> AsyncIterator[Connect]:
    """Makes clients of the faulty server; all are closed at the end."""
    made: list[RemoteEmbedder] = []

    def new(**given: object) -> RemoteEmbedder:
        options = {"base_url": server.url, "model": "some-model", **given}
        made.append(RemoteEmbedder(**options))  # type: ignore[arg-type]
        return made[-1]

    yield new
    for client in made:
        await client.aclose()


def unit(vector: list[float]) -> np.ndarray:
    array = np.array(vector, np.float32)
    return array / np.linalg.norm(array)


async def test_another_gateway_gives_the_vectors_that_the_model_gives_here(
    gateway: Gateway,
) -> None:
    client = RemoteEmbedder(f"{gateway.url}/v1", "bge-small-en", gateway.key, query_prefix="")
    try:
        await client.start()
        assert client.dim == 384
        texts = ["a door", "the keeper of a door " * 20, ""]
        found = await client.embed_passages(texts)
        wanted = local_embedder().encode_passages(texts[:2])
        assert (found[:2] * wanted).sum(axis=1) == pytest.approx(1, abs=1e-4)
        query = await client.embed_query("a door")
        assert query @ found[0] == pytest.approx(1, abs=1e-4)
    finally:
        await client.aclose()


async def test_a_wrong_key_names_the_settings_to_check(gateway: Gateway) -> None:
    client = RemoteEmbedder(f"{gateway.url}/v1", "bge-small-en", "osk-wrong")
    with pytest.raises(Unavailable, match="OSTIARY_EMBEDDING_API_KEY") as refused:
        await client.start()
    assert "osk-wrong" not in refused.value.message
    await client.aclose()


async def test_vectors_come_in_the_order_of_the_texts_over_many_requests(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    client = connect()
    await client.start()
    server.requests.clear()
    server.faults.extend(["shuffled"] * 3)
    texts = [f"text {n}" for n in range(100)]
    found = await client.embed_passages(texts)
    assert found.shape == (100, 8) and found.dtype == np.float32
    for text, vector in zip(texts, found, strict=True):
        assert vector == pytest.approx(unit(server.vector(text)), abs=1e-6)
    assert sorted(len(r["input"]) for r in server.requests) == [4, 32, 32, 32]
    assert client.waiting == 0


@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "garbage", "nan", "missing"])
async def test_a_fault_that_passes_is_not_seen(
    server: FaultyEmbeddingServer, connect: Connect, fault: int | str
) -> None:
    client = connect()
    server.faults.extend([fault, fault])
    found = await client.embed_passages(["a", "b"])
    assert found[1] == pytest.approx(unit(server.vector("b")), abs=1e-6)
    assert len(server.requests) >= 3


async def test_the_server_says_when_to_come_back(
    server: FaultyEmbeddingServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    await client.start()
    server.retry_after = "3600"
    server.faults.append(429)
    monkeypatch.setattr(remote, "QUERY_PATIENCE_S", 1.0)
    with pytest.raises(Unavailable, match="status 429"):  # and not after an hour
        await client.embed_query("a")


async def test_a_silent_server_is_given_up_in_time(
    server: FaultyEmbeddingServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(timeout_s=0.1)
    monkeypatch.setattr(remote, "QUERY_PATIENCE_S", 0.5)
    server.faults.extend(["silent"] * 50)
    with pytest.raises(Unavailable, match="does not answer") as gone:
        await client.embed_query("a")
    assert gone.value.code == "embedding_server_away"
    assert len(server.requests) >= 2


async def test_a_server_that_is_away_stops_the_start_unless_the_dimensions_are_known() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    client = RemoteEmbedder(url, "some-model")
    with pytest.raises(Unavailable, match="not reachable"):
        await client.start(patience_s=2.0)
    knows = RemoteEmbedder(url, "some-model", dimensions=8)
    await knows.start(patience_s=0.3)
    assert knows.dim == 8
    await client.aclose()
    await knows.aclose()


async def test_another_dimension_than_configured_is_told_at_the_start(connect: Connect) -> None:
    with pytest.raises(Unavailable, match="vectors of 8 numbers instead of 16"):
        await connect(dimensions=16).start()


async def test_a_dimension_that_changes_later_is_refused(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    client = connect()
    await client.start()
    server.faults.append("narrow")
    with pytest.raises(Unavailable, match="instead of 8"):
        await client.embed_query("a")


async def test_a_text_beyond_the_servers_window_is_cut_and_its_neighbours_are_not(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    server.most_chars = 1000
    client = connect()
    found = await client.embed_passages(["short", "word " * 1000])
    assert found[0] == pytest.approx(unit(server.vector("short")), abs=1e-6)
    cut = next(r["input"][0] for r in reversed(server.requests) if len(r["input"]) == 1)
    assert 700 < len(cut) <= 1000
    assert found[1] == pytest.approx(unit(server.vector(cut)), abs=1e-6)


async def test_a_refusal_that_shortening_does_not_mend_is_told(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    server.faults.append(422)
    with pytest.raises(Unavailable, match="status 422"):
        await connect().embed_passages(["a"])


async def test_a_query_does_not_wait_for_passages(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    client = connect(at_once=2)
    await client.start()
    server.hold = asyncio.Event()
    ingest = asyncio.create_task(client.embed_passages([f"text {n}" for n in range(320)]))
    async with asyncio.timeout(10):
        while server.open < 2:
            await asyncio.sleep(0)
        await client.embed_query("a")
    assert not ingest.done()
    assert client.waiting == 320
    server.hold.set()
    await ingest
    assert server.most_open <= 3
    assert client.waiting == 0


async def test_prefixes_of_the_models_family_are_put_before_texts(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    client = connect(model="intfloat/e5-base-v2")
    await client.embed_query("cats")
    await client.embed_passages(["dogs"])
    own = connect(model="intfloat/e5-base-v2", query_prefix="", passage_prefix="p: ")
    await own.embed_query("cats")
    await own.embed_passages(["dogs"])
    sent = [r["input"][0] for r in server.requests]
    assert sent == ["query: cats", "passage: dogs", "cats", "p: dogs"]
    assert client.fingerprint != own.fingerprint


async def test_only_a_matryoshka_model_is_asked_for_fewer_dimensions(
    server: FaultyEmbeddingServer, connect: Connect
) -> None:
    client = connect(model="nomic-embed-text-v1.5", dimensions=4)
    await client.start()
    assert client.dim == 4 and server.requests[-1]["dimensions"] == 4
    vectors = await client.embed_passages(["a", "b"])
    assert np.linalg.norm(client.cut(vectors, 2), axis=1) == pytest.approx(1)
    with pytest.raises(BadRequest, match="cannot be cut"):
        plain = connect()
        await plain.start()
        plain.cut(vectors, 2)


async def test_an_empty_or_broken_text_does_not_fail(connect: Connect) -> None:
    assert (await connect().embed_passages(["", "\ud800", "x"])).shape == (3, 8)
    client = connect()
    await client.start()
    assert (await client.embed_passages([])).shape == (0, 8)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="OSTIARY_EMBEDDING_URL"):
        RemoteEmbedder("localhost:8000", "m")


@given(st.lists(st.integers(0, 10_000), max_size=100))
def test_requests_hold_every_text_in_order_within_the_limits(sizes: list[int]) -> None:
    requests = requests_of(sizes)
    assert [place for places in requests for place in places] == list(range(len(sizes)))
    for places in requests:
        assert len(places) <= remote.MOST_TEXTS
        assert len(places) == 1 or sum(sizes[p] for p in places) <= remote.MOST_TOKENS


@pytest.mark.parametrize(
    "text",
    [
        "Refunds are paid within fourteen days of the return.",
        "def add(a, b):\n    return a + b  # the sum",
        "CVE-2024-3094 affects xz-utils 5.6.0 and 5.6.1.",
    ],
)
def test_tokens_are_rather_counted_too_high(text: str) -> None:
    real = local_embedder().count_tokens(text)
    assert real <= estimated_tokens(text) <= 2 * real
