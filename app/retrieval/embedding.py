"""Turns text into vectors and relevance scores with ONNX models in this process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.errors import BadRequest, Unavailable
from app.retrieval.batching import BATCH_TOKENS, Batcher, grouped
from app.retrieval.model_folder import read_folder
from app.retrieval.onnx import OnnxModel, Tokens, packaged, readable

SAME = 0.9999  # cosine above which a vector is the same with and without neighbours
_TOKENIZE_TEXTS = 2048
_QUEUED_TEXTS = 256  # of one call in the queue at once: their tokens are in memory
_SHORT_CHARS = 2000  # tokenized in place, in well under a millisecond


def packaged_bge_dir() -> Path:
    """Return the folder of the packaged bge-small-en weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    return packaged("bge_small_en", "embedding")


def packaged_reranker_dir() -> Path:
    """Return the folder of the packaged cross-encoder weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    return packaged("reranker_en", "reranking")


class Embedder(Protocol):
    """What serves a gateway's embeddings: a model in this process, or a remote server.

    ``waiting`` is the number of texts queued or running, exported as a metric.
    ``fingerprint`` is the version that made a passage's vector.
    """

    query_prefix: str
    passage_prefix: str
    dim: int
    max_tokens: int

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def waiting(self) -> int: ...

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of ``text`` without the model's special tokens."""

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query, before all passages: float32 array of shape (dim,), length 1."""

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 array of shape (n, dim), rows of length 1."""

    def cut(self, vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
        """Shorten vectors to their first ``dimensions``, where the model was trained for it.

        Raises:
            BadRequest: it was not, or not for so many.
        """

    async def aclose(self) -> None:
        """Stop; what still waits is refused."""


class OnnxEmbedder(OnnxModel):
    """A bi-encoder from a sentence-transformers folder, or from a bare model's.

    ``encode_query`` and ``encode_passages`` run in the calling thread; ``embed_query`` and
    ``embed_passages`` share the encoder through a queue in which queries go first.

    Args:
        model_dir: a folder with an ONNX file, ``tokenizer.json`` and ``config.json``; see
            docs/embedding.md for what else is read.
        threads: for one forward pass.
        query_prefix: put before a query; the model's own where None.
        passage_prefix: put before a passage; the model's own where None.
        dimensions: cut vectors to as many (Kusupati et al., Matryoshka representation
            learning, NeurIPS 2022).
        model_file: the ONNX file, relative to ``model_dir``; found where None.
        workers: threads of the queue, each with a forward pass of its own.

    Raises:
        Unavailable: the folder holds no model that can be run here.
        BadRequest: the model's vectors may not be cut to ``dimensions``.
    """

    def __init__(
        self,
        model_dir: Path,
        threads: int = 2,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        dimensions: int | None = None,
        model_file: str | None = None,
        workers: int = 1,
    ) -> None:
        read = read_folder(Path(model_dir), model_file)
        super().__init__(model_dir, threads, read.max_tokens, read.model_file)
        self.query_prefix = read.query_prefix if query_prefix is None else query_prefix
        self.passage_prefix = read.passage_prefix if passage_prefix is None else passage_prefix
        self.matryoshka, self.cuts = read.matryoshka, read.cuts
        self._lower_case = read.lower_case
        self._output, self.pooling = self._choose_output(read.pooling)
        probe = self._probe()
        self.dim = 0  # all of them
        self.dim = int(self._forward(probe[:1]).shape[1])
        wanted = dimensions or read.dimensions
        if wanted is not None and wanted != self.dim:
            check_cut(self.name, self.dim, wanted, self.matryoshka, self.cuts)
            self.dim = wanted
        self.batches = self._same_in_batches(probe)
        most_tokens = min(BATCH_TOKENS, self.max_tokens)
        self._most_tokens = most_tokens
        self._batcher = Batcher(self._forward, self.batches, workers, most_tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of all else that shapes a passage's vector."""
        vocabulary = (self.model_dir / "tokenizer.json").read_bytes()
        made_by = (
            self.weights_digest,
            hashlib.sha256(vocabulary).hexdigest(),
            self.pooling,
            self.max_tokens,
            self.dim,
            self._lower_case,
            self.passage_prefix,
        )
        return hashlib.sha256(repr(made_by).encode()).hexdigest()

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    def close(self) -> None:
        """End the queue's threads; calls that still wait are refused."""
        self._batcher.close()

    async def aclose(self) -> None:
        """As :meth:`close`, without holding the event loop up."""
        await asyncio.to_thread(self.close)

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query, before every passage that waits.

        Returns:
            float32 array of shape (dim,) and length 1.

        Raises:
            Unavailable: the queue is full.
        """
        tokens = await self._tokens_of([self.query_prefix + text])
        vector: NDArray[np.float32] = (await self._batcher.embed(tokens, query=True))[0]
        return vector

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages; each is cut to the model's ``max_tokens``.

        Returns:
            float32 array of shape (n, dim), rows of length 1, in the order of ``texts``.

        Raises:
            Unavailable: the queue is full.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), _QUEUED_TEXTS):
            part = [self.passage_prefix + t for t in texts[start : start + _QUEUED_TEXTS]]
            tokens = await self._tokens_of(part)
            vectors[start : start + len(part)] = await self._batcher.embed(tokens, query=False)
        return vectors

    def encode_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages in the calling thread; each is cut to the model's ``max_tokens``.

        Returns:
            float32 array of shape (n, dim), rows of length 1, in the order of ``texts``.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _TOKENIZE_TEXTS):
            part = [self.passage_prefix + t for t in texts[start : start + _TOKENIZE_TEXTS]]
            tokens = self._tokenize(part)
            lengths = [len(ids) for ids, _ in tokens]
            for places in grouped(lengths, self.batches, self._most_tokens):
                vectors[np.add(places, start)] = self._forward([tokens[i] for i in places])
        return vectors

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query in the calling thread.

        Returns:
            float32 array of shape (dim,) and length 1.
        """
        vector: NDArray[np.float32] = self._forward(self._tokenize([self.query_prefix + text]))[0]
        return vector

    def cut(self, vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
        """Shorten vectors to their first ``dimensions`` and make their length 1 again.

        Raises:
            BadRequest: the model was not trained for it, or not for so many.
        """
        check_cut(self.name, self.dim, dimensions, self.matryoshka, self.cuts)
        return vectors if dimensions == self.dim else unit(vectors[..., :dimensions])

    def _tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        given = [readable(t.lower() if self._lower_case else t) for t in texts]
        cut = (self._cut(encoding) for encoding in self._tokenizer.encode_batch(given))
        # A tokenizer without marks of its own leaves nothing of an empty text.
        return [tokens if tokens[0] else ([0], [0]) for tokens in cut]

    async def _tokens_of(self, texts: list[str]) -> list[Tokens]:
        if sum(map(len, texts)) <= _SHORT_CHARS:
            return self._tokenize(texts)
        return await asyncio.to_thread(self._tokenize, texts)

    def _choose_output(self, pooling: str) -> tuple[str, str]:
        """The output to read, and how to pool it; empty where the model has done it."""
        shapes = {node.name: len(node.shape) for node in self._session.get_outputs()}
        if "sentence_embedding" in shapes:
            return "sentence_embedding", ""
        states = next((n for n in ("last_hidden_state", "token_embeddings") if n in shapes), None)
        states = states or next((n for n, axes in shapes.items() if axes == 3), None)
        if states is not None and pooling:
            return states, pooling
        if states is not None:
            raise Unavailable(
                f"The model folder '{self.model_dir.name}' does not say how its token vectors "
                "become one. Copy modules.json and 1_Pooling/config.json from the model's page.",
                code="model_missing",
            )
        return next(iter(shapes)), ""

    def _forward(self, batch: Sequence[Tokens], longest: int = 0) -> NDArray[np.float32]:
        """The vectors of a batch, float32 array of shape (n, dim), rows of length 1."""
        made = self._run_batch(batch, self._output, longest)
        if self.pooling == "cls":
            made = made[:, 0]
        elif self.pooling:
            lengths = (len(ids) for ids, _ in batch)
            rows = zip(made, lengths, strict=True)
            made = np.stack([_pooled(states[:n], self.pooling) for states, n in rows])
        return unit(made[:, : self.dim or None])

    def _probe(self) -> list[Tokens]:
        """Texts of 24, 24 and 21 tokens whose words have nothing in common."""
        size = self._tokenizer.get_vocab_size()
        drawn = np.random.default_rng(0).integers(size // 30, size, (3, 24)).tolist()
        ends = self._tokenizer.encode("a").ids
        drawn[2] = drawn[2][:21]
        if self._closes and len(ends) > 2:
            drawn = [[ends[0], *ids[1:-1], ends[-1]] for ids in drawn]
        return [(ids, [0] * len(ids)) for ids in drawn]

    def _same_in_batches(self, probe: list[Tokens]) -> bool:
        """Whether a text's vector is the same alone, beside others and with padding.

        It is not where int8 activations get one scale a batch, nor where a model reads its
        padding: such a model embeds one text at a time.
        """
        try:
            together = self._forward(probe)
        except Exception:  # an export whose batch size is fixed
            return False
        alone = np.concatenate([self._forward([one]) for one in probe])
        return bool(((together * alone).sum(axis=1) >= SAME).all())


def check_cut(
    name: str, dim: int, dimensions: int, matryoshka: bool, cuts: Sequence[int] = ()
) -> None:
    """Raises BadRequest unless vectors of length ``dim`` may be cut to ``dimensions``."""
    if dimensions == dim:
        return
    if not matryoshka:
        raise BadRequest(
            f"'{name}' has {dim} dimensions and cannot be cut. Leave `dimensions` out.",
            param="dimensions",
        )
    if not 0 < dimensions < dim or (cuts and dimensions not in cuts):
        allowed = ", ".join(map(str, cuts)) if cuts else f"1 to {dim}"
        raise BadRequest(
            f"'{name}' cannot be cut to {dimensions} dimensions. Choose from: {allowed}.",
            param="dimensions",
        )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1; float32 array of the same shape."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return found


def _pooled(states: NDArray[np.float32], pooling: str) -> NDArray[np.float32]:
    """One vector from a text's states, float32 array of shape (tokens, dim)."""
    if pooling == "mean":
        return np.asarray(states.mean(axis=0))
    return np.asarray(states.max(axis=0) if pooling == "max" else states[-1])


class CrossEncoder(OnnxModel):
    """Reads a query and a passage together and judges how well they fit."""

    def __init__(self, model_dir: Path, threads: int = 2) -> None:
        super().__init__(model_dir, threads, max_tokens=384)
        # Cuts the longer of the two, token by token: the passage, unless the query is huge.
        self._tokenizer.enable_truncation(self.max_tokens, strategy="longest_first")

    def score(self, query: str, texts: list[str]) -> NDArray[np.float32]:
        """Judge each text against the query.

        Returns:
            float32 array of shape (n,), each in 0..1, higher is more relevant.
        """
        pairs = [(readable(query), readable(text)) for text in texts]
        encodings = self._tokenizer.encode_batch(pairs)
        logits = [self._run((e.ids, e.type_ids))[0] for e in encodings]
        scores = np.array(logits, dtype=np.float32)
        return (1.0 / (1.0 + np.exp(-scores))).astype(np.float32)
