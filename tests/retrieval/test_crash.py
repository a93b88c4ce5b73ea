"""A vector store survives a kill at its write points: see crash_points.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EVERY = 7  # `python -m tests.retrieval.crash_points FOLDER` looks at each


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("first", [2])
def test_nothing_acknowledged_is_lost_and_nothing_deleted_returns(
    tmp_path: Path, first: int
) -> None:
    command = [sys.executable, "-m", "tests.retrieval.crash_points", str(tmp_path)]
    done = subprocess.run(
        [*command, str(first), str(EVERY)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, lines[-3:]
    assert lines[-1]["looked_at"] > 20
    seen = {line["where"] for line in lines if "where" in line}
    assert {"before do_commit", "after do_commit", "within a segment file"} <= seen, seen
