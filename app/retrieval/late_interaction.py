"""Judges passages by late interaction: the closest passage token for each query token."""

from __future__ import annotations

import hashlib
import string
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.retrieval.onnx import OnnxModel, packaged

QUERY_MARK, PASSAGE_MARK = 1, 2  # token ids that tell the model which of the two it reads
MOST_TOKENS = 384
CACHE_BYTES = 64 << 20
STEPS = 127  # of a kept number, from 0 to the largest of its token
ASKED = 64  # queries whose vectors are kept: a reranker comes back for every passage
# Measured on Cranfield: the mean closeness of first-stage candidates is 0.83, and with this
# slope the judgements spread as wide as the cross-encoder's, so that one blend serves both.
MIDDLE, SLOPE = 0.83, 144.0


def packaged_colbert_dir() -> Path:
    """Return the folder of the packaged late-interaction weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    return packaged("colbert", "late interaction")


class Kept(NamedTuple):
    """A passage's vectors: int8 array of shape (tokens, dim), float32 array of shape (tokens,)."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


class LateInteraction(OnnxModel):
    """A ColBERT model (Khattab and Zaharia, SIGIR 2020): one vector a token.

    The vectors of a passage do not depend on the query, so they are kept: a passage that is
    found again costs a matrix product instead of a forward pass. Safe to call from several
    threads.

    Args:
        model_dir: a folder with ``model.onnx`` and ``tokenizer.json``.
        threads: for one forward pass.
        cache_bytes: of kept vectors, in 8 bits a number; the least recently used go first. A
            passage of 100 tokens takes 38 KB.
    """

    def __init__(self, model_dir: Path, threads: int = 2, cache_bytes: int = CACHE_BYTES) -> None:
        super().__init__(model_dir, threads, MOST_TOKENS)
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._asked = lru_cache(ASKED)(lambda query: self._encode(query, QUERY_MARK))
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
        asked = self._asked(query)
        closeness = np.array(
            [self._closeness(asked, self._vectors(text)) for text in texts], np.float32
        )
        relevance: NDArray[np.float32] = 1.0 / (1.0 + np.exp(-SLOPE * (closeness - MIDDLE)))
        return relevance

    @staticmethod
    def _closeness(asked: NDArray[np.float32], passage: Kept) -> float:
        """The mean over the query's tokens of the cosine to the nearest token of the passage."""
        cosines = (asked @ passage.codes.astype(np.float32).T) * passage.scales
        return float(cosines.max(axis=1).mean())

    def _vectors(self, text: str) -> Kept:
        key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        vectors = self._encode(text, PASSAGE_MARK)
        scales = np.maximum(np.abs(vectors).max(axis=1), 1e-12) / STEPS
        made = Kept(np.rint(vectors / scales[:, None]).astype(np.int8), scales)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._kept_bytes += made.nbytes
            while self._kept_bytes > self._cache_bytes and self._kept:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return made

    def _encode(self, text: str, mark: int) -> NDArray[np.float32]:
        """The tokens' vectors, float32 array of shape (tokens, dim), rows of length 1."""
        # A lone surrogate, which no tokenizer takes, becomes a question mark.
        text = text.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(text).ids
        ids = [ids[0], mark, *ids[1:]][: self.max_tokens]
        states = self._run((ids, [0] * len(ids)))
        if mark == PASSAGE_MARK:  # a comma is close to every comma and tells nothing
            states = states[~np.isin(ids, self._punctuation)]
        lengths = np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        return np.asarray(states / lengths, np.float32)
