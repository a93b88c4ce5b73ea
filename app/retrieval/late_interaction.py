"""Judges passages by late interaction: the closest passage token for each query token."""

from __future__ import annotations

import hashlib
import string
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.retrieval.onnx import OnnxModel, packaged

QUERY_MARK, PASSAGE_MARK = 1, 2  # token ids that tell the model which of the two it reads
MOST_TOKENS = 384
CACHE_BYTES = 64 << 20
# Measured on Cranfield: the mean closeness of first-stage candidates is 0.83, and with this
# slope the judgements spread as wide as the cross-encoder's, so that one blend serves both.
MIDDLE, SLOPE = 0.83, 144.0


def packaged_colbert_dir() -> Path:
    """Return the folder of the packaged late-interaction weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    return packaged("colbert", "late interaction")


class LateInteraction(OnnxModel):
    """A ColBERT model (Khattab and Zaharia, SIGIR 2020): one vector a token.

    The vectors of a passage do not depend on the query, so they are kept: a passage that is
    found again costs a matrix product instead of a forward pass. Safe to call from several
    threads.

    Args:
        model_dir: a folder with ``model.onnx`` and ``tokenizer.json``.
        threads: for one forward pass.
        cache_bytes: of kept vectors; the least recently used go first. A passage of 100
            tokens takes 77 KB.
    """

    def __init__(self, model_dir: Path, threads: int = 2, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__(model_dir, threads, MOST_TOKENS)
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[bytes, NDArray[np.float16]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        marks = (self._tokenizer.token_to_id(mark) for mark in string.punctuation)
        self._punctuation = [mark for mark in marks if mark is not None]

    @property
    def cached_bytes(self) -> int:
        """The bytes of vectors that are kept."""
        return self._kept_bytes

    def score(self, query: str, texts: list[str]) -> NDArray[np.float32]:
        """Judge each text against the query.

        Returns:
            float32 array of shape (n,), each in 0..1, higher is more relevant.
        """
        if not texts:
            return np.empty(0, np.float32)
        asked = self._vectors(query, QUERY_MARK).astype(np.float32)
        closeness = np.array(
            [
                (asked @ self._vectors(text, PASSAGE_MARK).astype(np.float32).T).max(axis=1).mean()
                for text in texts
            ],
            dtype=np.float32,
        )
        relevance: NDArray[np.float32] = 1.0 / (1.0 + np.exp(-SLOPE * (closeness - MIDDLE)))
        return relevance.astype(np.float32)

    def _vectors(self, text: str, mark: int) -> NDArray[np.float16]:
        """The tokens' vectors, float16 array of shape (tokens, dim), rows of length 1."""
        key = hashlib.blake2b(f"{mark}{text}".encode("utf-8", "replace"), digest_size=16).digest()
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        made = self._encode(text, mark)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._kept_bytes += made.nbytes
            while self._kept_bytes > self._cache_bytes and self._kept:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return made

    def _encode(self, text: str, mark: int) -> NDArray[np.float16]:
        # A lone surrogate, which no tokenizer takes, becomes a question mark.
        text = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(text).ids
        ids = [ids[0], mark, *ids[1:]][: self.max_tokens]
        states = self._run((ids, [0] * len(ids)))
        if mark == PASSAGE_MARK:  # a comma is close to every comma and tells nothing
            states = states[~np.isin(ids, self._punctuation)]
        lengths = np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        vectors: NDArray[np.float16] = (states / lengths).astype(np.float16)
        return vectors
