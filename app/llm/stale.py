"""Finds and ends what an earlier run's model server left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table; `ticks` is its start in clock ticks since boot."""

    pid: int
    session: int
    ticks: int
    command: str


def processes_of_session(session: int) -> list[Process]:
    """Return the living processes of `session`; none where there is no /proc."""
    found = []
    for folder in _PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session or fields[0] == "Z":
                continue
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
        found.append(Process(int(folder.name), session, int(fields[19]), command))
    return found


def reap(pidfile: Path, mark: str = "vllm") -> int:
    """End the server that `pidfile` names, with all its children; return how many were ended.

    Ends nothing when the number now belongs to someone else: the session's leader must have
    started when the file says or be gone, and a command line must hold `mark`.
    """
    try:
        noted = json.loads(pidfile.read_text())
        leader, ticks = int(noted["pid"]), noted["ticks"]
    except (OSError, ValueError, KeyError, TypeError):
        pidfile.unlink(missing_ok=True)
        return 0
    left = processes_of_session(leader)
    ours = (
        ticks is not None
        and any(mark in process.command.lower() for process in left)
        and all(p.ticks == ticks if p.pid == leader else p.ticks >= ticks for p in left)
    )
    if ours:
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
    pidfile.unlink(missing_ok=True)
    return len(left) if ours else 0
