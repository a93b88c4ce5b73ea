"""Ties a server's whole process group to the life of whoever holds this process's stdin.

Stands alone (standard library only): `python tether.py PIDFILE COMMAND …`. When the holder goes,
however it goes, the pipe closes and the group is stopped; the group's remains are killed too when
the command itself ends.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1
_TRACKER = "multiprocessing.resource_tracker"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Process:
    """One living process; `ticks` is its start in clock ticks since boot."""

    pid: int
    ticks: int
    command: str


def _prepare_child() -> None:
    os.setsid()
    for number in _IGNORED:  # what the tether ignores, the server must still obey
        signal.signal(number, signal.SIG_DFL)
    os.nice(5)  # the gateway's own latency comes first on a small machine
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def processes_of_session(session: int) -> list[Process]:
    """Return the living processes of `session`; none where there is no /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session or fields[0] in "ZX":
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
        found.append(Process(int(folder.name), int(fields[19]), command.decode(errors="replace")))
    return found


def end_session(session: int) -> None:
    """Kill every process of `session`, Python's resource trackers last.

    A tracker frees the shared memory of the others once they are gone, then ends by itself.
    """
    for process in processes_of_session(session):
        if _TRACKER not in process.command:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + GRACE_S
    while processes_of_session(session) and time.monotonic() < end:
        time.sleep(0.02)
    _signal_group(session, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _stop_when_let_go(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 4096):
        pass
    _signal_group(child.pid, signal.SIGTERM)
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end and child.poll() is None:
        time.sleep(0.05)
    child.kill()  # the main thread sees it end and ends the rest


def start_ticks(pid: int) -> int | None:
    """Return when process `pid` began, in clock ticks since boot; None without /proc."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def main() -> int:
    """Start the command, note it in the pidfile, and stay until it is over."""
    pidfile, command = Path(sys.argv[1]), sys.argv[2:]
    # The holder ends us by closing the pipe, never by a terminal's signal.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_prepare_child)
    pidfile.write_text(json.dumps({"pid": child.pid, "ticks": start_ticks(child.pid)}))
    threading.Thread(target=_stop_when_let_go, args=(child,), daemon=True).start()
    status = child.wait()
    end_session(child.pid)
    pidfile.unlink(missing_ok=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    raise SystemExit(main())
