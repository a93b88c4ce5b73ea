"""What the watch adds to a chat call, by its parts: key, limits, screens, cost, drift, audit.

For each policy one real gateway stands before a stub that answers at once; one client sends it chat
calls of several sizes, whole and streamed, each sentence unlike all before, in rounds that take
turns with direct calls to the stub. Each part is timed inside the gateway
(benchmarks/timed_gateway.py); what is added is the difference of the medians to the direct call,
and ``the rest`` what no part accounts for: FastAPI, reading and checking the body, the HTTP call
behind. The first round of each size is not counted.

    python -m benchmarks.watch            # some 4 minutes
    python -m benchmarks.watch --calls 40
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks import rig
from benchmarks.load import TEMPLATE, percentiles, prompt
from benchmarks.report import table
from benchmarks.timed_gateway import PARTS, WHOLE

POLICIES = {"default": "patterns", "guarded": "patterns and attacks", "strict": "names too"}
KIB = (0.5, 1, 4, 16)
CALLS, ROUNDS = 200, 5
REST, SCREENS = "the rest", "screens"
NAMES = [*dict.fromkeys(part for _, _, part in PARTS), REST]
_STREAM = {"stream": True, "stub": {"chunks": 8, "interval_ms": 0}}


class Client:
    """One kept connection to a server."""

    def __init__(self, server: rig.Server) -> None:
        self._key = server.key
        self._connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)

    def call(self, text: str, stream: bool) -> float:
        """Seconds of one chat call to its last byte.

        Raises:
            RuntimeError: it was not answered with 200.
        """
        body: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": text}]}
        data = json.dumps({**body, **(_STREAM if stream else {})})
        head = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", data, head)
        reply = self._connection.getresponse()
        said = reply.read()
        took = time.perf_counter() - began
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {said[:500]!r}")
        return took


class Texts:
    """Prompts of which no sentence comes twice."""

    def __init__(self) -> None:
        self._number = 0

    def take(self, kib: float) -> str:
        """The next, of so many KiB."""
        length = int(kib * 1024)
        parts = []
        for _ in range(length // len(TEMPLATE) + 1):
            self._number += 1
            parts.append(prompt(self._number))
        return " ".join(parts)[:length]


def measure(folder: Path, policy: str, direct: rig.Server, calls: int) -> list[dict[str, Any]]:
    """A row for each size and kind of call: what is added and what the parts take."""
    told, texts = folder / f"{policy}.json", Texts()
    kinds = [(kib, stream) for kib in KIB for stream in (False, True)]
    straight: dict[tuple[float, bool], list[float]] = {kind: [] for kind in kinds}
    through: dict[tuple[float, bool], list[float]] = {kind: [] for kind in kinds}
    order: list[tuple[float, bool] | None] = []
    with rig.timed("watch", folder / policy, direct.url, policy, told) as server:
        clients = Client(direct), Client(server)
        each = max(calls // ROUNDS, 1)
        for number in range(ROUNDS + 1):
            for kind in kinds:
                for client, seen in zip(clients, (straight, through), strict=True):
                    took = [client.call(texts.take(kind[0]), kind[1]) for _ in range(each)]
                    seen[kind] += took if number else []
                order += each * [kind if number else None]
    parts: dict[tuple[float, bool], list[dict[str, float]]] = {kind: [] for kind in kinds}
    for of, kind_seen in zip(json.loads(told.read_text()), order, strict=True):
        if kind_seen is not None:
            parts[kind_seen].append(of)
    return [
        {
            "policy": policy,
            "kib": kib,
            "stream": stream,
            "direct_ms": percentiles(straight[kib, stream]),
            "through_ms": percentiles(through[kib, stream]),
            "parts_ms": summed(parts[kib, stream], straight[kib, stream], through[kib, stream]),
        }
        for kib, stream in kinds
    ]


def summed(
    parts: Sequence[dict[str, float]], straight: Sequence[float], through: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Percentiles of each part over the calls, and of the rest of what is added.

    Args:
        parts: milliseconds by part of each call.
        straight: seconds of direct calls; their median is what a call costs without us.
        through: seconds of the calls whose parts those are, in their order.
    """
    floor = float(np.median(straight)) * 1e3
    found = {
        name: percentiles([of.get(name, 0.0) / 1e3 for of in parts])
        for name in NAMES
        if name != REST and any(name in of for of in parts)
    }
    rest = [
        whole * 1e3 - floor - sum(ms for name, ms in of.items() if name != WHOLE)
        for whole, of in zip(through, parts, strict=True)
    ]
    found[REST] = percentiles([ms / 1e3 for ms in rest])
    return found


def per_kib(rows: Sequence[dict[str, Any]], stream: bool) -> dict[str, float]:
    """Milliseconds that the screens take for one KiB more of prompt, by policy: least squares."""
    found = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        of = [r for r in rows if r["policy"] == policy and r["stream"] == stream]
        sizes, took = [r["kib"] for r in of], [r["parts_ms"][SCREENS]["p50"] for r in of]
        found[policy] = round(float(np.polyfit(sizes, took, 1)[0]), 4)
    return found


def run(calls: int = CALLS) -> dict[str, Any]:
    """Measure all policies and return the result with what it was measured on."""
    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": rig.versions("presidio-analyzer", "spacy"),
        "calls": calls,
        "rounds": ROUNDS,
    }

    def work(folder: Path) -> None:
        result["machine"]["disk_sync_ms"] = rig.sync_ms(folder)
        rows: list[dict[str, Any]] = []
        with rig.stub(folder / "stub") as direct:
            for policy in POLICIES:
                rows += measure(folder, policy, direct, calls)
        result["rows"] = rows
        result["screens_ms_a_kib"] = {
            "whole": per_kib(rows, stream=False),
            "streamed": per_kib(rows, stream=True),
        }

    rig.in_scratch(work)
    return result


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    parts = [
        "# What the watch adds to a chat call\n",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; load average "
        f"before: {machine['load_before']}; a disk sync: p50 {machine['disk_sync_ms']['p50']:g} "
        "ms.\n",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".\n",
        f"{result['calls']} calls of one client for each row, in {result['rounds']} rounds that "
        "take turns with direct calls to a stub that answers at once with 300 characters (in 8 "
        "chunks when streamed). Each sentence differs from all before. Milliseconds, p50 / p95 / "
        "p99. `added`: against the median of the direct calls. The parts are timed inside the "
        f"gateway by the wall; `{REST}` is what no part accounts for: FastAPI, reading and "
        "checking the body, the HTTP call behind.\n",
    ]
    for policy, what in POLICIES.items():
        rows = [r for r in result["rows"] if r["policy"] == policy]
        names = [n for n in NAMES if any(n in r["parts_ms"] for r in rows)]
        body = [
            [
                f"{r['kib']:g} KiB, {'streamed' if r['stream'] else 'whole'}",
                _three(r["through_ms"], r["direct_ms"]["p50"]),
                *(_three(r["parts_ms"].get(n)) for n in names),
            ]
            for r in rows
        ]
        parts += [f"## Policy `{policy}`: {what}\n", table(["call", "added", *names], body)]
    parts.append("## Screens for each KiB of prompt more, ms\n")
    slopes = result["screens_ms_a_kib"]
    parts.append(table(["calls", *POLICIES], [[kind, *slopes[kind].values()] for kind in slopes]))
    return "\n".join(parts)


def _three(of: dict[str, float] | None, less: float = 0.0) -> str:
    if not of:
        return "–"
    return " / ".join(f"{of[p] - less:.2f}" for p in ("p50", "p95", "p99"))


def main() -> None:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=CALLS)
    result = run(parser.parse_args().calls)
    text = as_markdown(result)
    rig.write_result("watch", result, text)
    print(text)


if __name__ == "__main__":
    main()
