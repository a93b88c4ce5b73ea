"""What the gateway costs: latency added to a call, calls per second, first tokens, open streams.

One run measures five targets in turn, round after round, on the same machine: a direct call to
a stub that answers at once, a bare FastAPI + aiohttp proxy, the real ``ostiary serve`` with the
whole corridor on (API key, limits, budget, pattern guardrails both ways, durable audit, cost,
drift), the same with names looked for too (policy ``strict``), and LiteLLM's proxy. Figures are
medians of the rounds; what is added is taken against the direct call of the same round. Each prompt
has 540 characters and each sentence of prompts and replies differs from all before it, so no cache
of findings helps. A run with one reply other than 200 fails.

    python -m benchmarks.gateway            # some 15 minutes
    python -m benchmarks.gateway --short    # under 3 minutes
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import litellm_proxy, report, rig, streams, verdict
from benchmarks.load import TEMPLATE, WARM_S

CLIENTS = (1, 16, 64, 256)
FIGURES = ("p50", "p95", "p99")
PROMPTS_A_RUN = 200_000  # apart, so that no two runs send the same prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 4.0
    stream_seconds: float = 3.0
    open_rounds: int = 5
    open_streams: int = 1000
    open_chunks: int = 16
    open_interval_ms: float = 1000.0
    open_ramp_s: float = 5.0


SHORT = Plan(seconds=0.5, stream_seconds=0.4, open_rounds=1, open_chunks=8, open_ramp_s=4.0)


class Numbers:
    """Where each run begins to count its prompts."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        """The first number of the next run."""
        self._next += PROMPTS_A_RUN
        return self._next


def measure_calls(servers: dict[str, rig.Server], plan: Plan, numbers: Numbers) -> dict[str, Any]:
    """Whole calls: for each target and number of clients the medians over the rounds."""
    seen: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(plan.rounds):
        for clients in CLIENTS:
            for server in servers.values():
                options = ("--clients", str(clients), "--seconds", str(plan.seconds))
                result = rig.put_load(server, *options, number=numbers.take())
                seen.setdefault((server.name, clients), []).append(result)
        say(f"calls: round {number + 1} of {plan.rounds}")
    return {
        name: {
            str(clients): _over_rounds(seen[name, clients], seen["direct", clients])
            for clients in CLIENTS
        }
        for name in servers
    }


def _over_rounds(own: list[dict[str, Any]], direct: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rps": rig.median([r["rps"] for r in own], 1),
        "requests": sum(r["requests"] for r in own),
    }
    for figure in FIGURES:
        found[f"{figure}_ms"] = rig.median([r["latency_ms"][figure] for r in own])
    for figure in FIGURES:
        found[f"added_{figure}_ms"] = rig.median(
            [
                a["latency_ms"][figure] - b["latency_ms"][figure]
                for a, b in zip(own, direct, strict=True)
            ]
        )
    found["rounds"] = [{"rps": r["rps"], **r["latency_ms"]} for r in own]
    return found


def describe(plan: Plan) -> dict[str, Any]:
    """Machine, versions and plan: what a figure is worth without is nothing."""
    return {
        "machine": rig.machine(),
        "versions": rig.versions("presidio-analyzer", "spacy"),
        "plan": {
            **asdict(plan),
            "clients": list(CLIENTS),
            "warm_s": WARM_S,
            "prompt_chars": len(TEMPLATE),
            "seeds": "none: prompts and replies are counted, see benchmarks/load.py",
            "workers": 1,
        },
    }


def run(plan: Plan, parts: tuple[str, ...] = ("calls", "streams")) -> dict[str, Any]:
    """Measure the parts asked for and return the result with what it was measured on."""
    result = describe(plan)
    say(f"machine: {result['machine']}")
    say(f"versions: {result['versions']}")
    say(f"plan: {result['plan']}")
    numbers = Numbers()

    def work(folder: Path) -> None:
        result["machine"]["disk_sync_ms"] = rig.sync_ms(folder)
        say(f"disk sync: {result['machine']['disk_sync_ms']}")
        peer = None
        try:
            result["versions"]["litellm"] = litellm_proxy.version()
            peer = litellm_proxy.proxy
        except rig.NotInstalled as why:
            result["left_out"] = {litellm_proxy.NAME: str(why)}
            say(f"{litellm_proxy.NAME}: {why}")
        with rig.all_servers(folder / "calls", with_ner="calls" in parts, peer=peer) as servers:
            if "calls" in parts:
                result["calls"] = measure_calls(servers, plan, numbers)
            if "streams" in parts:
                result["first_token"] = streams.measure_first_token(servers, plan, numbers, say)
        if "streams" in parts:
            result["open_streams"] = streams.measure_open(folder / "open", plan, numbers, say, peer)

    rig.in_scratch(work)
    result["verdicts"] = verdict.judge(result)
    return result


def say(line: str) -> None:
    """Progress, apart from the figures."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, measure, and write JSON, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="under 3 minutes")
    parser.add_argument("--only", choices=("calls", "streams"), help="measure one part")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of each load on whole calls")
    parser.add_argument("--open-rounds", type=int, help="of open streams, default 5")
    given = parser.parse_args()
    base = asdict(SHORT if given.short else Plan())
    own = {
        "rounds": given.rounds,
        "seconds": given.seconds,
        "open_rounds": given.open_rounds,
    }
    plan = Plan(**{**base, **{k: v for k, v in own.items() if v is not None}})
    result = run(plan, (given.only,) if given.only else ("calls", "streams"))
    name = f"gateway-{given.only}" if given.only else "gateway"
    table = report.as_markdown(result)
    rig.write_result(name, result, table)
    if "calls" in result:
        report.plot_calls(result, rig.RESULTS / f"{name}.png")
    print(table)


if __name__ == "__main__":
    main()
