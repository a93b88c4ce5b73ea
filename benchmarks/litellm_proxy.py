"""LiteLLM's proxy as a peer of the gateway: installed once, started as its documentation says.

The settings are those of its page on production: `LITELLM_MODE=PRODUCTION`, no verbose logs, a
master key, a connection pool of its own. One worker, as the gateway has. It keeps no spend and no
log, because it has no database here: what the gateway does for each call it leaves out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import rig

NAME = "LiteLLM"
PACKAGES = ("litellm[proxy]",)
KEY = "sk-" + "7Fq2mZ9x" * 6
READY_S = 240.0


def version() -> str:
    """Its version.

    Raises:
        rig.NotInstalled: it cannot be installed.
    """
    return rig.version_in(rig.environment("litellm", PACKAGES), "litellm")


def proxy(folder: Path, upstream: str) -> Any:
    """A running proxy in front of the stub.

    Raises:
        rig.NotInstalled: it cannot be installed.
    """
    python = rig.environment("litellm", PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    model = {"model": "openai/stub", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "stub", "litellm_params": model}],
        "litellm_settings": {"set_verbose": False, "json_logs": True, "request_timeout": 600},
        "general_settings": {"master_key": KEY},
    }
    # JSON is YAML
    (folder / "config.yaml").write_text(json.dumps(config))
    port = rig.free_port()
    command = [
        str(python.parent / "litellm"),
        *("--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)),
        *("--num_workers", "1"),
    ]
    return rig.running(
        NAME,
        command,
        port=port,
        ready="/health/liveliness",
        env={
            "PYTHONPATH": "",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the Internet for prices
            "NO_PROXY": "127.0.0.1",
        },
        folder=folder,
        timeout_s=READY_S,
        key=KEY,
    )
