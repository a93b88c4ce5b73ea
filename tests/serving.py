"""``ostiary serve`` as the tests start it: forked off a process that has loaded the code.

Loading takes four fifths of a start. The standard library's fork server does it once for all
gateways of a test session; see tests/loaded.py for what it loads.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.loaded"])


def started(env: dict[str, str], log: Path, module: str = "app.cli") -> BaseProcess:
    """A process that runs the gateway; it ends with this one at the latest."""
    process = FORKS.Process(target=serve, args=(env, log, module), daemon=True)
    process.start()
    return process


def serve(env: dict[str, str], log: Path, module: str) -> None:
    """Run the gateway; in a fresh interpreter where more is asked for than settings."""
    os.chdir(ROOT)
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if module != "app.cli" or _beside_settings(env) != _beside_settings(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", module, "serve"], env)
    os.environ.clear()
    os.environ.update(env)
    from app import cli

    cli.serve()


def _beside_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What of an environment may have been read when the code was loaded."""
    return {k: v for k, v in env.items() if not k.startswith(("OSTIARY_", "PYTEST_"))}
