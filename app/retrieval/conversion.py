"""Makes an ONNX model folder from a sentence-transformers folder with PyTorch weights.

    python -m app.retrieval.conversion FOLDER NEW_FOLDER [--int8]

Needs ``pip install 'ostiary[convert]'``; the gateway itself runs without PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import MissingExtra, OstiaryError, Unavailable
from app.retrieval.model_folder import has_onnx, torch_weights

_NEEDED = ("torch", "transformers", "onnx", "onnxscript")
_LEFT_OUT = {".safetensors", ".bin", ".onnx", ".h5", ".msgpack", ".ot"}
_TOLERANCE = 1e-3  # of a state; fp32 kernels differ by less than 1e-5
_TIMEOUT_S = 1800


def with_onnx(folder: Path, cache: Path) -> Path:
    """Return the folder itself if it has an ONNX file, else a converted copy under ``cache``.

    The conversion runs in a process of its own, once for each version of the weights.

    Raises:
        MissingExtra: tells the pip line.
        Unavailable: the conversion failed.
    """
    folder = Path(folder)
    weights = torch_weights(folder)
    if has_onnx(folder) or not weights:
        return folder
    _check_installed()
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    made = cache / f"{folder.name}-{digest.hexdigest()[:12]}"
    if (made / "model.onnx").is_file():
        return made
    logging.getLogger("ostiary.embedding").info("converting %s to ONNX", folder.name)
    command = [sys.executable, "-m", "app.retrieval.conversion", str(folder), str(made)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(
            f"The model folder '{folder.name}' could not be converted to ONNX: {last[0]}",
            code="model_missing",
        )
    return made


def convert(folder: Path, target: Path) -> Path:
    """Write ``target`` with ``model.onnx`` and all small files of ``folder``; returns it.

    The model's states are compared with PyTorch's on texts of two lengths, with padding,
    before the folder appears.

    Raises:
        MissingExtra: tells the pip line.
        Unavailable: the weights cannot be read, or ONNX Runtime's states differ.
    """
    _check_installed()
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        model = AutoModel.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise Unavailable(
            f"The model folder '{folder.name}' cannot be read by transformers: {error}",
            code="model_missing",
        ) from error
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    skip = shutil.ignore_patterns("onnx", "openvino", ".git*", *(f"*{s}" for s in _LEFT_OUT))
    shutil.copytree(folder, unfinished, ignore=skip)
    if not (unfinished / "tokenizer.json").is_file():
        tokenizer.save_pretrained(unfinished)
    names = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    _export(torch, model, names, unfinished / "model.onnx")
    _compare(torch, model, names, unfinished / "model.onnx")
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target


def quantise(model_file: Path, target: Path) -> Path:
    """Write an int8 copy of an fp32 ONNX file: weights by channel, activations by call.

    Weights keep 7 bits, because the AVX2 products of 8-bit numbers overflow. Use it where
    ``quantisation_loss`` allows.

    Raises:
        MissingExtra: tells the pip line.
    """
    if find_spec("onnx") is None:
        raise MissingExtra("The conversion to int8", "convert")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it advises an optimisation that loses nothing
    quantize_dynamic(
        model_file,
        target,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    return target


def _check_installed() -> None:
    if any(find_spec(name) is None for name in _NEEDED):
        raise MissingExtra("The conversion of PyTorch weights to ONNX", "convert")


def _states(torch: Any, model: Any, names: list[str]) -> Any:
    class States(torch.nn.Module):  # type: ignore[misc]
        """The last hidden states alone, from inputs by place."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Any) -> Any:
            return self.model(**dict(zip(names, given, strict=True))).last_hidden_state

    return States().eval()


def _inputs(torch: Any, model: Any, names: list[str], lengths: list[int]) -> tuple[Any, ...]:
    """Random texts of these lengths, padded to the longest."""
    longest = max(lengths)
    most = int(model.config.vocab_size)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(most // 30, most, (len(lengths), longest), generator=draw)
    mask = torch.tensor([[int(at < n) for at in range(longest)] for n in lengths])
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(made[name] for name in names)


def _export(torch: Any, model: Any, names: list[str], path: Path) -> None:
    most = int(getattr(model.config, "max_position_embeddings", 512)) - 2
    batch, sequence = torch.export.Dim("batch", max=4096), torch.export.Dim("sequence", max=most)
    parameters = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _states(torch, model, names),
            _inputs(torch, model, names, [9, 9]),
            str(path),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamo=True,
            # one entry for the one variadic argument
            dynamic_shapes=(tuple({0: batch, 1: sequence} for _ in names),),
            external_data=parameters * 4 > 2**31 - 2**20,  # protobuf's limit of a file
            verbose=False,
        )


def _compare(torch: Any, model: Any, names: list[str], path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for lengths in ([5], [40, 33, 7]):
        given = _inputs(torch, model, names, lengths)
        with torch.no_grad():
            wanted = _states(torch, model, names)(*given).numpy()
        feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        found = session.run(None, feed)[0]
        for row, n in enumerate(lengths):  # what stands at padding is nobody's
            error = float(np.abs(found[row, :n] - wanted[row, :n]).max())
            if not error <= _TOLERANCE * max(1.0, float(np.abs(wanted[row, :n]).max())):
                raise Unavailable(
                    f"ONNX Runtime's states differ from PyTorch's by {error:.2g}. Serve the "
                    "model with vLLM or text-embeddings-inference (OSTIARY_EMBEDDING_URL).",
                    code="model_missing",
                )


def main() -> int:
    """Read the command line and convert one folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("new_folder", type=Path)
    parser.add_argument("--int8", action="store_true", help="also write model_int8.onnx")
    given = parser.parse_args()
    try:
        made = convert(given.folder, given.new_folder)
        if given.int8:
            quantise(made / "model.onnx", made / "model_int8.onnx")
    except OstiaryError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
