"""Reads from a model's folder how its texts become vectors, as sentence-transformers would."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.errors import Unavailable
from app.retrieval.known_models import Known, known

CONVERT_LINE = "pip install 'ostiary[convert]'"
_POOLINGS = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",  # the same once its length is 1
    "max": "max",
    "max_tokens": "max",
    "lasttoken": "last",
}
_QUERY_PROMPTS = ("query", "search_query", "s2p_query", "web_search_query")
_PASSAGE_PROMPTS = ("document", "passage", "corpus", "search_document")
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"}
_PLAIN_MODULES = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """How a model is to be used.

    ``pooling`` is ``cls``, ``mean``, ``max`` or ``last``, or empty where nothing says it (the
    ONNX file may pool itself). ``matryoshka`` tells whether vectors may be cut, ``cuts`` to
    which lengths alone if it names some.
    """

    model_file: Path
    pooling: str
    max_tokens: int
    query_prefix: str = ""
    passage_prefix: str = ""
    lower_case: bool = False
    matryoshka: bool = False
    cuts: tuple[int, ...] = ()
    dimensions: int | None = None  # that the model's files ask to cut to


def read_folder(folder: Path, model_file: str | None = None) -> ModelFolder:
    """Read ``modules.json`` and what it points at, or a bare model's ``config.json``.

    Args:
        model_file: the ONNX file, relative to the folder; found where None.

    Raises:
        Unavailable: a file is missing or malformed, or the model needs more than an encoder,
            pooling and normalisation.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise _refused(folder, "is not there. Check OSTIARY_EMBEDDING_DIR")
    config = _object(folder / "config.json")
    own = _object(folder / "config_sentence_transformers.json")
    transformer = _object(folder / "sentence_bert_config.json")
    tokenizer = _object(folder / "tokenizer_config.json")
    family = known(str(config.get("_name_or_path") or ""), folder.name)
    pooling, normalised = _modules(folder)
    if str(own.get("similarity_fn_name") or "cosine") in ("dot", "dot_score") and not normalised:
        raise _refused(
            folder,
            "ranks by the dot product of vectors of any length, and here all have length 1. "
            "Take a model that was trained for cosine similarity",
        )
    query, passage = _prefixes(own.get("prompts"), family)
    cuts = config.get("matryoshka_dimensions")
    read = ModelFolder(
        _onnx_file(folder, model_file),
        pooling or (family.pooling if family else ""),
        _max_tokens(transformer, tokenizer, config),
        query,
        passage,
        bool(transformer.get("do_lower_case")),
        bool(config.get("is_matryoshka") or cuts or own.get("truncate_dim"))
        or (family is not None and family.matryoshka),
        tuple(sorted(int(c) for c in cuts)) if isinstance(cuts, list) else (),
    )
    dimensions = own.get("truncate_dim")
    return replace(read, dimensions=int(dimensions)) if dimensions else read


def _refused(folder: Path, why: str) -> Unavailable:
    return Unavailable(f"The model folder '{folder.name}' {why}.", code="model_missing")


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(
            path.parent, f"has a {path.name} that is not readable JSON. Copy the file again"
        ) from error


def _object(path: Path) -> dict[str, Any]:
    found = _json(path)
    return found if isinstance(found, dict) else {}


def _modules(folder: Path) -> tuple[str, bool]:
    """The pooling and whether vectors are normalised, as ``modules.json`` has it."""
    modules = _json(folder / "modules.json")
    if not isinstance(modules, list):
        direct = folder / "1_Pooling" / "config.json"
        return (_pooling(folder, direct) if direct.is_file() else ""), False
    kinds: dict[str, str] = {}
    for module in modules:
        if isinstance(module, dict):
            kinds[str(module.get("type", "")).rsplit(".", 1)[-1]] = str(module.get("path", ""))
    if foreign := kinds.keys() - _PLAIN_MODULES:
        raise _refused(
            folder,
            f"has the module {', '.join(sorted(foreign))}, which is not run here. Serve the model "
            "with vLLM or text-embeddings-inference and set OSTIARY_EMBEDDING_URL",
        )
    if "Pooling" not in kinds:
        return "", "Normalize" in kinds
    return _pooling(folder, folder / kinds["Pooling"] / "config.json"), "Normalize" in kinds


def _pooling(folder: Path, path: Path) -> str:
    config = _object(path)
    mode = config.get("pooling_mode")
    if isinstance(mode, str):
        modes = [mode]
    else:
        flags = (key for key, on in config.items() if on is True)
        modes = [k.removeprefix("pooling_mode_") for k in flags if k.startswith("pooling_mode_")]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise _refused(
            folder,
            f"pools by {' and '.join(modes) or 'nothing that is known'}; cls, mean, max and "
            "lasttoken are run here. Serve it by OSTIARY_EMBEDDING_URL instead",
        )
    if config.get("include_prompt") is False:
        raise _refused(
            folder,
            "leaves its prompt out of the pooling, which is not run here. Serve it by "
            "OSTIARY_EMBEDDING_URL instead",
        )
    return _POOLINGS[modes[0]]


def _prefixes(prompts: Any, family: Known | None) -> tuple[str, str]:
    """The model's own prompts; those of its family where it has none."""
    given = prompts if isinstance(prompts, dict) else {}
    texts = {k: v for k, v in given.items() if isinstance(v, str) and v}
    if texts:
        query = next((texts[n] for n in _QUERY_PROMPTS if n in texts), "")
        return query, next((texts[n] for n in _PASSAGE_PROMPTS if n in texts), "")
    return (family.query, family.passage) if family else ("", "")


def _max_tokens(
    transformer: dict[str, Any], tokenizer: dict[str, Any], config: dict[str, Any]
) -> int:
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id") or 1) + 1  # their positions begin after it
    limits = (
        transformer.get("max_seq_length"),
        tokenizer.get("model_max_length"),  # 1e30 where it is not known
        positions,
    )
    known_limits = [n for n in limits if isinstance(n, int) and 0 < n < 10**6]
    return min(known_limits, default=512)


def has_onnx(folder: Path) -> bool:
    """Whether the folder holds an ONNX file."""
    return any(folder.glob("*.onnx")) or any(folder.glob("onnx/*.onnx"))


def torch_weights(folder: Path) -> list[Path]:
    """The folder's PyTorch weights."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])


def _onnx_file(folder: Path, given: str | None) -> Path:
    if given:
        if (folder / given).is_file():
            return folder / given
        raise _refused(folder, f"has no file '{given}'. Check OSTIARY_EMBEDDING_FILE")
    for path in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if path.is_file():
            return path
    others = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx")])
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(str(path.relative_to(folder)) for path in others)
        raise _refused(folder, f"has {names}. Name one of them in OSTIARY_EMBEDDING_FILE")
    if torch_weights(folder):
        raise _refused(
            folder,
            f"holds PyTorch weights and no ONNX file. Run: {CONVERT_LINE}, then: "
            "python -m app.retrieval.conversion FOLDER NEW_FOLDER, and point "
            "OSTIARY_EMBEDDING_DIR at the new one",
        )
    raise _refused(folder, "lacks model.onnx. Point OSTIARY_EMBEDDING_DIR at a model's folder")
