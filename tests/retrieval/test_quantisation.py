"""A smaller model may stand in only where judged questions lose next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.retrieval.quantisation import Judged, loss_of, quantisation_loss, read_judged
from tests.retrieval.stores import embedder

JUDGED = Judged(
    {
        "refunds": "Refunds are paid within fourteen days of the return.",
        "cats": "The cat sleeps on the warm roof.",
        "norway": "Parcels to Norway take a week.",
        "keys": "Lost keys are replaced at the front desk.",
    },
    (
        ("When do I get my money back?", {"refunds": 3}),
        ("How long does shipping to Oslo take?", {"norway": 1}),
        ("Where is the animal?", {"cats": 2, "keys": 0}),
    ),
)


class Rounded:
    """The real model, its vectors rounded to a few steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._rounded(embedder().encode_passages(texts))

    def encode_query(self, text: str) -> NDArray[np.float32]:
        return self._rounded(embedder().encode_query(text))

    def _rounded(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        rounded = np.round(vectors * self.steps) / self.steps
        return np.asarray(rounded / np.linalg.norm(rounded + 1e-9, axis=-1, keepdims=True))


def test_a_model_loses_nothing_against_itself() -> None:
    loss = quantisation_loss(embedder(), embedder(), JUDGED)
    assert (loss.loss, loss.p, loss.questions) == (0, 1, 3)
    assert loss.reference == loss.candidate > 0.7
    assert loss.cosine == pytest.approx(1, abs=1e-5)
    assert loss.allows()


def test_fine_rounding_passes_the_gate_and_coarse_rounding_shows_in_the_cosine() -> None:
    fine = quantisation_loss(embedder(), Rounded(1000), JUDGED)
    assert fine.allows() and fine.cosine is not None and fine.cosine > 0.99
    coarse = quantisation_loss(embedder(), Rounded(12), JUDGED)
    assert coarse.cosine is not None and coarse.cosine < 0.95


def test_the_loss_is_relative_and_the_gate_is_half_a_percent() -> None:
    assert loss_of([0.5] * 10, [0.4975] * 10).loss == pytest.approx(0.005)
    assert loss_of([0.5] * 10, [0.498] * 10).allows()
    assert not loss_of([0.5] * 10, [0.49] * 10).allows()
    assert loss_of([0.5, 0.6], [0.6, 0.6]).loss < 0


def test_a_comparison_without_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        loss_of([], [])
    with pytest.raises(ValueError, match="finds nothing"):
        loss_of([0.0], [0.5])


def test_a_beir_folder_is_read_with_its_titles(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "title": "Doors", "text": "Keep shut."}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "what of doors"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t2\nq\t9\t1\n")
    judged = read_judged(tmp_path)
    assert judged.passages == {"1": "Doors\nKeep shut."}
    assert judged.questions == (("what of doors", {"1": 2}),)
