"""Finds and ends what an earlier run's model server left behind."""

from __future__ import annotations

import json
from pathlib import Path

from app.llm.tether import end_session, processes_of_session


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
        end_session(leader)
    pidfile.unlink(missing_ok=True)
    return len(left) if ours else 0
