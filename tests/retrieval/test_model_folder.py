"""sentence-transformers folders, made around the packaged weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import BadRequest, MissingExtra, Unavailable
from app.retrieval.conversion import with_onnx
from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.known_models import known
from app.retrieval.model_folder import read_folder

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_N", "type": "sentence_transformers.models.Normalize"},
]
MakeFolder = Callable[..., Path]
TEXT = "Refunds are paid within fourteen days."


@pytest.fixture
def make(tmp_path: Path) -> MakeFolder:
    """Makes a folder with the packaged weights and JSON files of the test's own."""

    def new(onnx: str | None = "model.onnx", name: str = "model", **files: Any) -> Path:
        folder = tmp_path / name
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "onnx").mkdir()
        source = packaged_bge_dir()
        (folder / "tokenizer.json").symlink_to(source / "tokenizer.json")
        if onnx is not None:
            (folder / onnx).symlink_to(source / "model.onnx")
        given = {
            "modules": MODULES,
            "pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
            "config": {"model_type": "bert", "max_position_embeddings": 512},
            **files,
        }
        pooling = given.pop("pooling")
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        for file, content in given.items():
            if content is not None:
                (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    return new


def states(embedder: OnnxEmbedder, text: str) -> np.ndarray:
    return embedder._run(embedder._tokenize([text])[0])


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ({"pooling_mode_cls_token": True}, lambda s: s[0]),
        ({"pooling_mode_mean_tokens": True}, lambda s: s.mean(axis=0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda s: s.mean(axis=0)),
        ({"pooling_mode_max_tokens": True}, lambda s: s.max(axis=0)),
        ({"pooling_mode_lasttoken": True}, lambda s: s[-1]),
        ({"pooling_mode": "mean"}, lambda s: s.mean(axis=0)),
    ],
)
def test_vectors_are_pooled_as_the_folder_says(
    make: MakeFolder, pooling: dict[str, Any], wanted: Callable[[np.ndarray], np.ndarray]
) -> None:
    embedder = OnnxEmbedder(make(pooling=pooling))
    vector = wanted(states(embedder, TEXT))
    found = embedder.encode_passages([TEXT])[0]
    assert found == pytest.approx(vector / np.linalg.norm(vector), abs=1e-5)


def test_padding_has_no_part_in_the_pooling(make: MakeFolder) -> None:
    embedder = OnnxEmbedder(make())
    tokens = embedder._tokenize([TEXT])
    alone, padded = embedder._forward(tokens), embedder._forward(tokens, longest=40)
    # int8 scales move a little; pooling over 30 padding tokens would move it far more
    assert (alone * padded).sum() > 0.98


def test_the_models_own_prompts_are_put_before_texts(make: MakeFolder) -> None:
    prompts = {"prompts": {"query": "search: ", "document": "text: "}}
    embedder = OnnxEmbedder(make(config_sentence_transformers=prompts))
    assert (embedder.query_prefix, embedder.passage_prefix) == ("search: ", "text: ")
    bare = OnnxEmbedder(embedder.model_dir, query_prefix="", passage_prefix="")
    assert (embedder.encode_passages(["a"]) == bare.encode_passages(["text: a"])).all()
    assert (embedder.encode_query("a") == bare.encode_query("search: a")).all()
    assert embedder.fingerprint != bare.fingerprint


@pytest.mark.parametrize("prompts", [{}, {"query": "", "document": ""}])
def test_without_prompts_the_models_family_tells_them(
    make: MakeFolder, prompts: dict[str, str]
) -> None:
    read = read_folder(
        make(name="multilingual-e5-small", config_sentence_transformers={"prompts": prompts})
    )
    assert (read.query_prefix, read.passage_prefix) == ("query: ", "passage: ")


@pytest.mark.parametrize(
    ("name", "query", "pooling"),
    [
        ("BAAI/bge-base-en-v1.5", "Represent this sentence", "cls"),
        ("BAAI/bge-m3", "", "cls"),
        ("intfloat/e5-large-v2", "query: ", "mean"),
        ("intfloat/multilingual-e5-large-instruct", "Instruct: ", "mean"),
        ("thenlper/gte-small", "", "mean"),
        ("Alibaba-NLP/gte-base-en-v1.5", "", "cls"),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "mean"),
        ("bge_small_en", "Represent this sentence", "cls"),
    ],
)
def test_families_are_known_by_name(name: str, query: str, pooling: str) -> None:
    family = known(name)
    assert family is not None
    assert family.query.startswith(query) and bool(family.query) == bool(query)
    assert family.pooling == pooling


def test_an_unknown_name_belongs_to_no_family() -> None:
    assert known("acme/embedder", "") is None


def test_the_smallest_length_limit_counts(make: MakeFolder) -> None:
    folder = make(sentence_bert_config={"max_seq_length": 16, "do_lower_case": False})
    embedder = OnnxEmbedder(folder)
    assert embedder.max_tokens == 16
    long = "word " * 200
    assert len(embedder._tokenize([long])[0][0]) == 16
    assert embedder._tokenize([long])[0][0][-1] == embedder._tokenize(["x"])[0][0][-1]


def test_positions_that_begin_after_padding_are_not_counted(make: MakeFolder) -> None:
    config = {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    files = {"tokenizer_config": {"model_max_length": 1e30}}
    assert read_folder(make(config=config, **files)).max_tokens == 512


def test_a_model_that_says_so_is_cut_and_its_vectors_have_length_1(make: MakeFolder) -> None:
    config = {"model_type": "bert", "matryoshka_dimensions": [64, 128]}
    folder = make(config=config)
    whole, small = OnnxEmbedder(folder), OnnxEmbedder(folder, dimensions=64)
    vectors = small.encode_passages([TEXT])
    assert vectors.shape == (1, 64) and small.dim == 64
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-6)
    assert vectors == pytest.approx(whole.cut(whole.encode_passages([TEXT]), 64), abs=1e-6)
    assert whole.fingerprint != small.fingerprint
    with pytest.raises(BadRequest, match="64, 128"):
        OnnxEmbedder(folder, dimensions=100)


def test_the_full_model_is_preferred_to_a_quantised_one(make: MakeFolder) -> None:
    folder = make("onnx/model.onnx")
    (folder / "onnx" / "model_qint8_avx512.onnx").write_bytes(b"")
    assert read_folder(folder).model_file.name == "model.onnx"
    named = read_folder(folder, "onnx/model_qint8_avx512.onnx")
    assert named.model_file.name == "model_qint8_avx512.onnx"


def test_the_only_onnx_file_is_taken_and_of_several_one_must_be_named(make: MakeFolder) -> None:
    folder = make("onnx/model_qint8_avx512.onnx")
    assert OnnxEmbedder(folder).dim == 384
    (folder / "onnx" / "model_O4.onnx").write_bytes(b"")
    with pytest.raises(Unavailable, match="OSTIARY_EMBEDDING_FILE"):
        read_folder(folder)
    with pytest.raises(Unavailable, match=r"no file 'other\.onnx'"):
        read_folder(folder, "other.onnx")


def test_pytorch_weights_alone_name_the_line_that_converts_them(
    make: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(None)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(Unavailable, match=r"pip install 'ostiary\[convert\]'"):
        OnnxEmbedder(folder)
    monkeypatch.setattr("app.retrieval.conversion.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"ostiary\[convert\]"):
        with_onnx(folder, tmp_path / "cache")


def test_a_folder_with_onnx_needs_no_conversion(make: MakeFolder, tmp_path: Path) -> None:
    folder = make()
    (folder / "model.safetensors").write_bytes(b"")
    assert with_onnx(folder, tmp_path / "cache") == folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules": [*MODULES, {"type": "sentence_transformers.models.Dense"}]}, "module Dense"),
        ({"pooling": {"pooling_mode_weightedmean_tokens": True}}, "weightedmean"),
        (
            {"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
            "mean_tokens and cls_token",
        ),
        ({"pooling": {"pooling_mode_mean_tokens": True, "include_prompt": False}}, "prompt"),
        (
            {
                "modules": MODULES[:2],
                "config_sentence_transformers": {"similarity_fn_name": "dot"},
            },
            "dot product",
        ),
    ],
)
def test_what_cannot_be_run_right_is_refused(
    make: MakeFolder, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(Unavailable, match=message):
        read_folder(make(**files))


def test_a_bare_model_of_no_known_family_must_say_how_it_pools(make: MakeFolder) -> None:
    folder = make(modules=None)
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(Unavailable, match="1_Pooling"):
        OnnxEmbedder(folder)


def test_broken_files_are_named(make: MakeFolder) -> None:
    folder = make(None)
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(Unavailable, match="cannot be loaded"):
        OnnxEmbedder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(Unavailable, match=r"config\.json that is not readable JSON"):
        OnnxEmbedder(folder)


def test_a_folder_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="OSTIARY_EMBEDDING_DIR"):
        read_folder(tmp_path / "gone")
