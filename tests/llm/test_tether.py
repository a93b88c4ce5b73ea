"""The tether and the reaper: no process of a model server outlives its holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.llm import stale, tether

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# A server with a child of its own, which ignores the polite signal.
SERVER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "vllm"])
time.sleep(600)
"""


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


def hold(pidfile: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the tethered server; return its tether and the session of its processes."""
    holder = subprocess.Popen(
        [sys.executable, "-I", tether.__file__, str(pidfile), sys.executable, "-c", SERVER, "vllm"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: pidfile.exists() and pidfile.read_text().endswith("}"))
    session = int(json.loads(pidfile.read_text())["pid"])
    until(lambda: len(tether.processes_of_session(session)) == 2)
    return holder, session


def test_the_whole_group_ends_when_the_holder_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, session = hold(tmp_path / "pid")
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait(tether.GRACE_S + 10) == 128 + signal.SIGKILL
    until(lambda: not tether.processes_of_session(session))
    assert not (tmp_path / "pid").exists()


def test_the_children_end_when_the_server_alone_is_killed(tmp_path: Path) -> None:
    holder, session = hold(tmp_path / "pid")
    os.kill(session, signal.SIGKILL)
    holder.wait(10)
    until(lambda: not tether.processes_of_session(session))


def test_what_a_killed_tether_leaves_is_reaped_at_the_next_start(tmp_path: Path) -> None:
    holder, session = hold(tmp_path / "pid")
    holder.kill()
    holder.wait(10)
    until(lambda: len(tether.processes_of_session(session)) == 1)  # the server died with its tether
    assert stale.reap(tmp_path / "pid") == 1
    until(lambda: not tether.processes_of_session(session))
    assert stale.reap(tmp_path / "pid") == 0


def test_a_reused_process_number_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", SERVER, "vllm"], start_new_session=True)
    try:
        until(lambda: len(tether.processes_of_session(other.pid)) == 2)
        (tmp_path / "pid").write_text(json.dumps({"pid": other.pid, "ticks": 1}))
        assert stale.reap(tmp_path / "pid") == 0
        assert other.poll() is None and not (tmp_path / "pid").exists()
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_torn_pidfile_is_put_away(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    assert stale.reap(tmp_path / "pid") == 0
    assert not (tmp_path / "pid").exists()
