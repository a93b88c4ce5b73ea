"""Loads the encoder of a job once in each process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.embeddings.counting import counter

if TYPE_CHECKING:
    from app.retrieval.embedding import OnnxEmbedder


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a job must know of its model without holding it."""

    name: str
    fingerprint: str
    prefix: str  # put before every passage by the model itself
    dim: int
    max_tokens: int


@lru_cache(maxsize=1)
def encoder(model_dir: str | None, threads: int) -> OnnxEmbedder:
    """Return this process's encoder.

    Raises:
        MissingExtra: the packaged weights are not installed.
        Unavailable: the folder holds no model.
    """
    from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir

    return OnnxEmbedder(Path(model_dir) if model_dir else packaged_bge_dir(), threads)


@lru_cache(maxsize=1)
def token_counter(model_dir: str | None, threads: int) -> Callable[[str], int]:
    """Return this process's counter of tokens, which learns the words it has seen."""
    model = encoder(model_dir, threads)
    return counter(model.model_dir, model.count_tokens)


def describe(model_dir: str | None, threads: int) -> ModelInfo:
    """Return the facts of the job's model; loads it."""
    model = encoder(model_dir, threads)
    prefix = str(getattr(model, "passage_prefix", ""))
    return ModelInfo(model.name, model.fingerprint, prefix, model.dim, model.max_tokens)
