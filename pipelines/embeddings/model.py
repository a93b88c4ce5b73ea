"""Loads the encoder of a job once in each process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.embeddings.counting import counter
from pipelines.embeddings.job import ModelSpec


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a job must know of its model without holding it."""

    name: str
    fingerprint: str
    prefix: str  # put before every passage by the model itself
    dim: int
    max_tokens: int


class Encoder(Protocol):
    """A model in this process, or one on a server."""

    passage_prefix: str
    dim: int
    max_tokens: int

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def count_tokens(self, text: str) -> int: ...

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 array of shape (n, dim), rows of length 1."""
        ...


class RemoteEncoder:
    """A server of ``/v1/embeddings``, asked from a worker that waits for it.

    Raises:
        Unavailable: the server is away or refuses.
    """

    def __init__(self, spec: ModelSpec) -> None:
        from app.retrieval.remote_embedding import RemoteEmbedder
        from app.settings import Settings

        assert spec.url is not None
        key = Settings().embedding_api_key
        self._loop = asyncio.new_event_loop()
        self._server = RemoteEmbedder(
            spec.url,
            spec.name,
            key.get_secret_value() if key else None,
            dimensions=spec.dimensions,
            passage_prefix=spec.passage_prefix,
            max_tokens=spec.max_tokens,
        )
        self._loop.run_until_complete(self._server.start())
        self.passage_prefix = self._server.passage_prefix
        self.dim, self.max_tokens = self._server.dim, self._server.max_tokens
        self.name, self.fingerprint = self._server.name, self._server.fingerprint
        self.count_tokens = self._server.count_tokens

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 array of shape (n, dim), rows of length 1."""
        return self._loop.run_until_complete(self._server.embed_passages(texts))


@lru_cache(maxsize=1)
def encoder(spec: ModelSpec) -> Encoder:
    """Return this process's encoder.

    Raises:
        MissingExtra: the packaged weights are not installed.
        Unavailable: the folder holds no model, or the server is away.
    """
    if spec.url is not None:
        return RemoteEncoder(spec)
    from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir

    return OnnxEmbedder(
        Path(spec.folder) if spec.folder else packaged_bge_dir(),
        spec.threads,
        passage_prefix=spec.passage_prefix,
        dimensions=spec.dimensions,
        model_file=spec.file,
    )


@lru_cache(maxsize=1)
def token_counter(spec: ModelSpec) -> Callable[[str], int]:
    """Return this process's counter of tokens, which learns the words it has seen."""
    model = encoder(spec)
    folder = getattr(model, "model_dir", None)  # a server's tokenizer is out of reach
    return counter(folder, model.count_tokens) if folder else model.count_tokens


def describe(spec: ModelSpec) -> ModelInfo:
    """Return the facts of the job's model; loads it."""
    model = encoder(spec)
    return ModelInfo(
        model.name, model.fingerprint, model.passage_prefix, model.dim, model.max_tokens
    )
