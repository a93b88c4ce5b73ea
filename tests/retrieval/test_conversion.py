"""PyTorch weights become an ONNX folder that gives the same vectors; needs the extra convert."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from app.errors import Unavailable
from app.retrieval.conversion import convert, quantise, with_onnx
from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from tests.conftest import package

torch, transformers = package("torch"), package("transformers")
package("onnxscript")
pytestmark = pytest.mark.slow

TEXTS = ["Refunds are paid within fourteen days.", "x", "Parcels to Norway take a week. " * 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT of random weights with the packaged vocabulary."""
    made = tmp_path_factory.mktemp("torch") / "tiny-bert"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    transformers.BertModel(config).save_pretrained(made)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(packaged_bge_dir() / name, made / name)
    (made / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (made / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return made


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxEmbedder:
    return OnnxEmbedder(convert(folder, tmp_path_factory.mktemp("onnx") / "tiny-bert"))


def wanted(folder: Path, text: str) -> np.ndarray:
    """PyTorch's vector of a text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(folder)(**given).last_hidden_state[0]
    vector = states.mean(dim=0).numpy()
    return np.asarray(vector / np.linalg.norm(vector))


def test_the_converted_model_gives_pytorchs_vectors(folder: Path, converted: OnnxEmbedder) -> None:
    for text, vector in zip(TEXTS, converted.encode_passages(TEXTS), strict=True):
        assert vector @ wanted(folder, text) == pytest.approx(1, abs=1e-5)


def test_an_fp32_model_embeds_in_batches_and_a_vector_does_not_feel_them(
    converted: OnnxEmbedder,
) -> None:
    assert converted.batches
    together = converted.encode_passages([*TEXTS, *(f"word {n}" for n in range(50))])
    for text, vector in zip(TEXTS, together, strict=False):
        assert converted.encode_passages([text])[0] @ vector > 0.999999


def test_an_int8_copy_is_near_and_embeds_one_text_at_a_time(converted: OnnxEmbedder) -> None:
    target = converted.model_dir / "model_int8.onnx"
    quantise(converted.model_file, target)
    small = OnnxEmbedder(converted.model_dir, model_file=target.name)
    assert target.stat().st_size < converted.model_file.stat().st_size
    assert (small.encode_passages(TEXTS) * converted.encode_passages(TEXTS)).sum(axis=1).min() > 0.9
    assert small.fingerprint != converted.fingerprint


def test_a_folder_is_converted_once(folder: Path, tmp_path: Path) -> None:
    made = with_onnx(folder, tmp_path)
    written = (made / "model.onnx").stat().st_mtime_ns
    assert with_onnx(folder, tmp_path) == made
    assert (made / "model.onnx").stat().st_mtime_ns == written
    assert [p.name for p in tmp_path.iterdir()] == [made.name]


def test_weights_that_cannot_be_read_are_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(Unavailable, match="broken"):
        with_onnx(broken, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
