"""Streams: what is added to the first token, and how a thousand open ones fare."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import rig
from benchmarks.verdict import PEER

if TYPE_CHECKING:
    from benchmarks.gateway import Numbers, Plan

# (name, words a chunk, milliseconds between chunks). A model sends about a word a chunk; the
# gateway holds a word until the next white space shows that it is not the start of an entity.
SHAPES = (("several words a chunk", 8, 5.0), ("one word a chunk", 1, 5.0))
CHUNKS = 8
SAMPLE_S = 0.1
WARM_STREAMS = 20


def measure_first_token(
    servers: dict[str, rig.Server], plan: Plan, numbers: Numbers, say: Callable[[str], None]
) -> dict[str, Any]:
    """Time to the first chunk with text at one client, by shape of the stream and target."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(plan.rounds):
        for shape, words, interval_ms in SHAPES:
            for server in servers.values():
                options = ["--stream", "--seconds", str(plan.stream_seconds)]
                options += ["--chunks", str(CHUNKS), "--words", str(words)]
                options += ["--interval-ms", str(interval_ms)]
                result = rig.put_load(server, *options, number=numbers.take())
                seen.setdefault((shape, server.name), []).append(result)
        say(f"first token: round {number + 1} of {plan.rounds}")
    return {
        shape: {
            "words_a_chunk": words,
            "interval_ms": interval_ms,
            "targets": {
                name: _first_tokens(seen[shape, name], seen[shape, "direct"]) for name in servers
            },
        }
        for shape, words, interval_ms in SHAPES
    }


def _first_tokens(own: list[dict[str, Any]], direct: list[dict[str, Any]]) -> dict[str, Any]:
    ours = [r["first_token_ms"]["p50"] for r in own]
    theirs = [r["first_token_ms"]["p50"] for r in direct]
    return {
        "p50_ms": rig.median(ours),
        "p99_ms": rig.median([r["first_token_ms"]["p99"] for r in own]),
        "added_p50_ms": rig.median([a - b for a, b in zip(ours, theirs, strict=True)]),
        "streams": sum(r["requests"] for r in own),
        "rounds": ours,
    }


class Memory:
    """Watches the private memory of a process from outside, without stopping it."""

    def __init__(self, pid: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.before = self.most = self.read()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def read(self) -> int:
        """Resident bytes that are no file's: 'resident' less 'shared' of /proc/PID/statm."""
        _, resident, shared, *_ = self._statm.read_text().split()
        return (int(resident) - int(shared)) * self._page

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.most = max(self.most, self.read())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measure_open(
    folder: Path,
    plan: Plan,
    numbers: Numbers,
    say: Callable[[str], None],
    peer: Callable[[Path, str], Any] | None = None,
) -> dict[str, Any]:
    """Many streams open at once: the longest pause beyond the stub's own, memory of each.

    Each round has fresh servers: memory that a process once had is not given back, so a
    second run in the same process would seem to need none. A peer that does not keep them all
    open is told under ``failed``.
    """
    seen: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for number in range(plan.open_rounds):
        with rig.all_servers(folder / str(number), with_ner=False, peer=peer) as servers:
            for server in servers.values():
                if server.name in failed:
                    continue
                try:
                    seen.setdefault(server.name, []).append(_open(server, plan, numbers))
                except RuntimeError as error:
                    if server.name != PEER:
                        raise
                    failed[server.name] = str(error)[:500]
                    seen.pop(server.name, None)
        say(f"open streams: round {number + 1} of {plan.open_rounds}")
    names = ("stall_max_ms", "stall_p99_ms", "kb_a_stream", "first_token_p50_ms")
    return {
        "streams": plan.open_streams,
        "interval_ms": plan.open_interval_ms,
        "failed": failed,
        "targets": {
            name: {**{n: rig.median([r[n] for r in rounds], 2) for n in names}, "rounds": rounds}
            for name, rounds in seen.items()
        },
    }


def _open(server: rig.Server, plan: Plan, numbers: Numbers) -> dict[str, Any]:
    def put(streams: int, chunks: int, interval_ms: float, ramp_s: float) -> dict[str, Any]:
        options = ["--stream", "--streams-each", "1", "--clients", str(streams)]
        options += ["--chunks", str(chunks), "--interval-ms", str(interval_ms)]
        return rig.put_load(server, *options, "--ramp-s", str(ramp_s), number=numbers.take())

    put(WARM_STREAMS, 4, 20.0, 0.1)
    with Memory(server.pid) as memory:
        result = put(plan.open_streams, plan.open_chunks, plan.open_interval_ms, plan.open_ramp_s)
    if result["most_open"] < plan.open_streams or result["requests"] < plan.open_streams:
        raise RuntimeError(f"{server.name}: not all streams were open at once: {result}")
    gaps = result["longest_gap_ms"]
    return {
        "stall_max_ms": round(gaps["max"] - plan.open_interval_ms, 3),
        "stall_p99_ms": round(gaps["p99"] - plan.open_interval_ms, 3),
        "kb_a_stream": round((memory.most - memory.before) / 1e3 / plan.open_streams, 2),
        "first_token_p50_ms": result["first_token_ms"]["p50"],
        "most_open": result["most_open"],
    }
