"""What traces and log lines cost a chat call: processor time and latency, side by side.

    python -m benchmarks.telemetry [--rounds 5] [--seconds 3]

The gateways run at once and are asked in turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from benchmarks import rig

ARMS: dict[str, dict[str, str]] = {
    "no lines, no traces": {"OSTIARY_LOG_LEVEL": "warning"},
    "a line a call, text": {"OSTIARY_LOG_LEVEL": "info"},
    "a line a call, JSON": {"OSTIARY_LOG_LEVEL": "info", "OSTIARY_LOG_FORMAT": "json"},
    "traces of one call in ten": {"OSTIARY_LOG_LEVEL": "warning", "OSTIARY_TRACE_RATIO": "0.1"},
    "traces of all calls": {"OSTIARY_LOG_LEVEL": "warning", "OSTIARY_TRACE_RATIO": "1"},
}


class _Sink(BaseHTTPRequestHandler):
    """Takes what a collector takes, and keeps nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Median latency and processor time a call of each arm, milliseconds."""
    sink = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    Thread(target=sink.serve_forever, daemon=True).start()
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        direct = stack.enter_context(rig.stub(folder / "stub"))
        servers = {}
        for number, (name, env) in enumerate(ARMS.items()):
            settings = {
                **rig.LIMITS,
                "OSTIARY_LLM_URL": f"{direct.url}/v1",
                "OSTIARY_LLM_MODEL": "stub",
                "OSTIARY_EMBEDDED_RETRIEVAL": "false",
                **env,
            }
            if "OSTIARY_TRACE_RATIO" in env:
                settings["OSTIARY_OTLP_ENDPOINT"] = f"http://127.0.0.1:{sink.server_port}"
            own = folder / f"arm{number}"
            servers[name] = stack.enter_context(rig.gateway(f"arm {number}", own, settings))
        for turn in range(rounds + 1):
            for name, server in servers.items():
                process = psutil.Process(server.pid)
                before = sum(process.cpu_times()[:2])
                options = ("--clients", "1", "--seconds", str(seconds))
                told = rig.put_load(server, *options, number=1_000_000 * turn)
                if not turn:  # warms up
                    continue
                used = sum(process.cpu_times()[:2]) - before
                of = found.setdefault(name, {"cpu_ms": [], "p50_ms": []})
                of["cpu_ms"].append(1e3 * used / told["requests"])
                of["p50_ms"].append(told["latency_ms"]["p50"])
    sink.shutdown()
    return {
        name: {kind: rig.median(values) for kind, values in of.items()}
        for name, of in found.items()
    }


def main() -> None:
    """Measure and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    found = rig.in_scratch(lambda folder: measure(folder, args.rounds, args.seconds))
    first = next(iter(found.values()))
    lines = [
        "| | processor time a call, ms | more | p50, ms |",
        "| --- | --- | --- | --- |",
    ]
    for name, of in found.items():
        more = of["cpu_ms"] / first["cpu_ms"] - 1
        lines.append(f"| {name} | {of['cpu_ms']:.3f} | {more:+.1%} | {of['p50_ms']:.3f} |")
    table = "\n".join(lines) + "\n"
    told = {"arms": found, "rounds": args.rounds, "machine": rig.machine()}
    rig.write_result("telemetry", told, f"# What traces and log lines cost\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
