"""Reads documents in processes of their own, with an end to their memory and time.

A document of 1 MB can ask its reader for 4 GB, or crash a native library. In a process of its
own it costs its sender a refusal, not the gateway; and the gateway's threads are not held up.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.retrieval.parsers.block import Block, DocumentError

MEMORY_BYTES = 2 * 2**30  # address space of one process, its libraries included
MAX_SECONDS = 600.0
MAX_OCR_SECONDS = 3600.0
AT_ONCE = 2
IDLE_SECONDS = 60.0
_ROOT = Path(__file__).resolve().parents[3]
# What a reader needs of the environment; no key and no password is among it.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT", "LD_LIBRARY_PATH")


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    used: float = field(default_factory=time.monotonic)

    def ask(self, path: Path, filename: str, seconds: float) -> dict[str, Any] | None:
        """Return the reply, or None when the process ended or took too long."""
        assert self.process.stdin is not None and self.process.stdout is not None
        deadline = time.monotonic() + seconds
        request = json.dumps([str(path.absolute()), filename]).encode() + b"\n"
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except OSError:
            return None
        head = self._take(4, deadline)
        body = self._take(int.from_bytes(head, "big"), deadline) if head else None
        return json.loads(body) if body else None

    def _take(self, size: int, deadline: float) -> bytes | None:
        assert self.process.stdout is not None
        number = self.process.stdout.fileno()
        got = bytearray()
        with selectors.DefaultSelector() as waiting:
            waiting.register(number, selectors.EVENT_READ)
            while len(got) < size:
                left = deadline - time.monotonic()
                if left <= 0 or not waiting.select(left):
                    return None
                piece = os.read(number, min(size - len(got), 1 << 20))
                if not piece:
                    return None
                got += piece
        return bytes(got)

    def end(self) -> None:
        """Kill the process, where it has not ended by itself."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # a request that it did not take
                    stream.close()


_turn = threading.BoundedSemaphore(AT_ONCE)
_lock = threading.Lock()
_idle: list[_Child] = []
_reaping = threading.Event()  # set while a timer waits to end the idle ones


def parse_apart(path: Path, filename: str, *, ocr: bool = False) -> list[Block]:
    """Read a document in another process; ``ocr`` allows it the longer time.

    Raises:
        DocumentError: what the reader refused; ``too_large`` when it ran out of memory or time
            or crashed.
    """
    seconds = MAX_OCR_SECONDS if ocr else MAX_SECONDS
    with _turn:
        child = _taken()
        begun = time.monotonic()
        reply = None
        try:
            reply = child.ask(path, filename, seconds)
        finally:
            if reply is None or reply["last"]:
                child.end()
            else:
                _put_back(child)
    if reply is not None and "blocks" in reply:
        return [Block(*row) for row in reply["blocks"]]
    if reply is not None and reply["refusal"]:
        raise DocumentError(*reply["refusal"])
    if reply is None and time.monotonic() - begun >= seconds:
        raise DocumentError(
            "too_large",
            f"'{filename}' was not read within {seconds / 60:.0f} minutes. Split it and upload "
            "the parts.",
        )
    raise DocumentError(
        "too_large",
        f"'{filename}' could not be read within {MEMORY_BYTES // 2**30} GB of memory, or broke "
        "its reader. Split it, or save it again, and upload that.",
    )


def _taken() -> _Child:
    with _lock:
        while _idle:
            child = _idle.pop()
            if child.process.poll() is None:
                return child
            child.end()
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "2", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "app.retrieval.parsers.child", str(MEMORY_BYTES)]
    return _Child(
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=_ROOT
        )
    )


def _put_back(child: _Child) -> None:
    child.used = time.monotonic()
    with _lock:
        _idle.append(child)
        if not _reaping.is_set():
            _reaping.set()
            _wait_to_reap()


def _wait_to_reap() -> None:
    timer = threading.Timer(IDLE_SECONDS, _reap)
    timer.daemon = True
    timer.start()


def _reap() -> None:
    end_idle(IDLE_SECONDS)
    with _lock:
        if _idle:
            _wait_to_reap()
        else:
            _reaping.clear()


def end_idle(seconds: float = 0.0) -> None:
    """End the processes that nobody has used for ``seconds``."""
    with _lock:
        ended = [child for child in _idle if time.monotonic() - child.used >= seconds]
        for child in ended:
            _idle.remove(child)
    for child in ended:
        child.end()
