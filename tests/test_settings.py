"""Settings that are wrong are told by their names, in lines and without what they were set to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.observing import drift_rules
from app.settings import Settings
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "OSTIARY_DRIFT_CORRECTION",
            "fdr-secret",
            "Input should be 'holm', 'bonferroni', 'benjamini-hochberg' or 'none'",
        ),
        ("OSTIARY_PORT", "eighty-secret", "valid integer"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_what_it_may_be(
    name: str, value: str, told: str, tmp_path: Path
) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OSTIARY_")}
    env |= {"OSTIARY_DATA_DIR": str(tmp_path / "data"), name: value}
    command = [sys.executable, "-m", "app.cli", "serve"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"ostiary: The setting {name} is wrong: ") and told in line
    assert value not in done.stderr + done.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("how", ["holm", "bonferroni", "benjamini-hochberg", "none"])
def test_the_correction_of_drift_is_a_setting(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTIARY_DRIFT_CORRECTION", how)
    assert drift_rules(Settings()).correction == how
