"""The unmodified `openai` SDK for Node.js does its work through a real gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT, Gateway, missing

SCRIPT = Path(__file__).with_name("openai_node.mjs")
MODULES = ROOT / ".node" / "node_modules"


def test_the_node_sdk_chats_streams_embeds_searches_and_batches(
    gateway: Gateway, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "openai").is_dir():
        missing("The openai SDK for Node.js", "`make test` installs it")
    script = shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    env = {**os.environ, "OPENAI_BASE_URL": gateway.url + "/v1", "OPENAI_API_KEY": gateway.key}
    done = subprocess.run(
        [str(node), str(script)], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert {"stub", "bge-small-en", "cross-encoder"} <= set(found["models"])
    assert found["whole"] and found["streamed"] == found["whole"]
    assert found["tokens"] > 0 and found["response"]
    assert found["events"][0] == "response.created"
    assert found["events"][-1] == "response.completed"
    assert found["dimensions"] == 384 and found["flagged"] is True
    assert found["attached"] == "completed" and found["search"] == ["rules.md"]
    assert (found["batch"], found["answered"]) == ("completed", 200)
    assert found["error"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
