"""The process that reads documents apart from the gateway: one request a line, one reply each.

A request is a JSON list of path and file name. A reply is its length, four bytes big-endian, and
that many bytes of JSON: ``{"blocks": …}`` or ``{"refusal": [code, message]}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

LARGE_BYTES = 400 * 2**20  # a process that has grown so far ends with its reply
_NICENESS = 5  # callers come before documents


def main(memory: int) -> None:
    """Answer requests from standard input until it closes; ``memory`` in bytes is the most."""
    _limit(memory)
    # Replies have the first standard output to themselves, whatever a library prints.
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        for line in sys.stdin.buffer:
            path, filename = json.loads(line)
            reply = json.dumps(_answer(Path(path), filename)).encode()
            replies.write(len(reply).to_bytes(4, "big") + reply)
            replies.flush()


def _answer(path: Path, filename: str) -> dict[str, Any]:
    from app.retrieval.parsing import DocumentError, read_here

    try:
        blocks = read_here(path, filename)
    except DocumentError as error:
        return {"refusal": [error.code, error.message], "last": _grown()}
    except MemoryError:
        return {"refusal": None, "last": True}
    rows = [[b.text, b.page, b.section, b.kind, b.header] for b in blocks]
    return {"blocks": rows, "last": _grown()}


def _limit(memory: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        os.nice(_NICENESS)


def _grown() -> bool:
    """Tell whether this process holds much memory now; its peak would count its parent's too."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") > LARGE_BYTES
    except (OSError, ValueError):
        return False  # not Linux


if __name__ == "__main__":
    main(int(sys.argv[1]))
