"""Decides by judged questions whether a smaller model may stand in for the full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.retrieval.quality.judged import load, load_documents
from app.retrieval.quality.metrics import ndcg
from app.retrieval.quality.significance import paired_randomisation

MOST_LOSS = 0.005  # of nDCG@10, relative
DEPTH = 10


class Encoder(Protocol):
    """What is compared: it embeds passages and queries into unit vectors."""

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 array of shape (n, dim), rows of length 1."""

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """float32 array of shape (dim,), length 1."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A test collection: passages by id, and questions with the grades of what answers them."""

    passages: dict[str, str]
    questions: tuple[tuple[str, dict[str, int]], ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a candidate loses against a reference on the same questions.

    ``reference`` and ``candidate`` are means of nDCG@10; ``loss`` is relative, below 0 where
    the candidate is better; ``p`` is that of a two-sided paired randomisation test;
    ``cosine`` is the mean cosine of both models' vectors of a passage, where they compare.
    """

    reference: float
    candidate: float
    loss: float
    p: float
    questions: int
    cosine: float | None = None

    def allows(self, most_loss: float = MOST_LOSS) -> bool:
        """Whether the candidate may be used."""
        return self.loss <= most_loss


def read_judged(folder: Path, most_questions: int | None = None) -> Judged:
    """Read a BEIR or Cranfield folder: whole documents as passages.

    Raises:
        BadRequest: the folder holds no such collection.
    """
    passages = {d.id: f"{d.title}\n{d.text}".strip() for d in load_documents(folder)}
    questions = [
        (q.text, grades)
        for q in load(folder)
        if (grades := {j.file: j.grade for j in q.judged if j.file in passages})
    ]
    return Judged(passages, tuple(questions[:most_questions]))


def ndcg_of(
    judged: Judged, passages: NDArray[np.float32], questions: NDArray[np.float32]
) -> list[float]:
    """Return nDCG@10 of each question, by exact search over all passages.

    Args:
        passages: float32 array of shape (n, dim), rows of length 1, in the order of
            ``judged.passages``.
        questions: float32 array of shape (q, dim), likewise.
    """
    ids = list(judged.passages)
    found: list[float] = []
    for (_, grades), question in zip(judged.questions, questions, strict=True):
        best = np.argsort(-(passages @ question), kind="stable")[:DEPTH]
        found.append(ndcg([ids[i] for i in best], grades, DEPTH))
    return found


def embedded(encoder: Encoder, judged: Judged) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The vectors of a collection's passages and of its questions."""
    passages = encoder.encode_passages(list(judged.passages.values()))
    return passages, np.array([encoder.encode_query(text) for text, _ in judged.questions])


def quantisation_loss(reference: Encoder, candidate: Encoder, judged: Judged) -> Loss:
    """Compare a candidate (int8, cut, distilled) with the model it is to stand in for.

    Raises:
        ValueError: there are no questions, or the reference finds nothing at all.
    """
    full, small = embedded(reference, judged), embedded(candidate, judged)
    alike = full[0].shape == small[0].shape
    cosine = float((full[0] * small[0]).sum(axis=1).mean()) if alike else None
    return loss_of(ndcg_of(judged, *full), ndcg_of(judged, *small), cosine)


def loss_of(
    reference: Sequence[float], candidate: Sequence[float], cosine: float | None = None
) -> Loss:
    """Compare two models by their nDCG@10 on the same questions.

    Raises:
        ValueError: there are no questions, or the reference finds nothing at all.
    """
    p = paired_randomisation(reference, candidate)
    full, small = float(np.mean(reference)), float(np.mean(candidate))
    if full <= 0:
        raise ValueError("The reference finds nothing; a loss against it says nothing.")
    return Loss(full, small, 1 - small / full, p, len(reference), cosine)
