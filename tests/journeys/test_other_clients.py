"""Clients of other products do their work through a real gateway, unmodified."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, Gateway, missing

PYTHON = ROOT / ".clients" / "bin" / "python"


def told(gateway: Gateway, name: str, folder: Path) -> dict[str, Any]:
    """What a client's script printed."""
    if not PYTHON.is_file():
        missing("LiteLLM's SDK and LlamaIndex", "`make test` installs them into .clients")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "OPENAI_BASE_URL": gateway.url + "/v1",
        "OPENAI_API_KEY": gateway.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network for its price list
    }
    script = Path(__file__).with_name(name)
    done = subprocess.run(
        [str(PYTHON), str(script)],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_litellms_sdk(gateway: Gateway, tmp_path: Path) -> None:
    found = told(gateway, "client_litellm.py", tmp_path)
    assert found["whole"] and found["streamed"] == found["whole"]
    assert found["at_once"] == 3 * [found["whole"]]
    assert found["tokens"] == found["streamed_tokens"] > 0
    assert found["dimensions"] == 384 and found["response"]
    assert found["error"] == 404


def test_llamaindex(gateway: Gateway, tmp_path: Path) -> None:
    found = told(gateway, "client_llamaindex.py", tmp_path)
    assert found["whole"] and found["streamed"] == found["whole"] == found["at_once"]
    assert found["completed"] and found["answer"]
    assert found["dimensions"] == 384 and found["sources"] == ["gate"]
