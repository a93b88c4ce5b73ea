"""With no network but loopback everything works, and no part asks for anything outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_cut_off_from_the_world_everything_works_and_nobody_calls_it(
    vllm_python: Path, tmp_path: Path
) -> None:
    for tool in ("unshare", "ip", "mount"):
        if shutil.which(tool) is None:
            missing(tool, "apt-get install util-linux iproute2 mount")
    apart = ["unshare", "--net", "--mount"]
    if os.geteuid():
        apart.append("--map-root-user")
    done = subprocess.run(
        [*apart, sys.executable, "-m", "tests.journeys.alone", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OSTIARY_VLLM_PYTHON": str(vllm_python)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["controls"] == [
        "tcp 198.51.100.7:443",
        "udp 203.0.113.53:53 telemetry.example.com",
    ]
    used = found["done"]
    assert used.pop("audit") is True
    assert all(count > 0 for count in used.values()), used
    assert found["outside"] == []
