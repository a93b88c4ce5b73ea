"""Runs the benchmark of one goal and says in one JSON object whether the goal holds.

    python -m benchmarks.goals G2

The last line printed is ``{"goal", "value", "target", "unit", "holds", "peers", "runs",
"machine", "versions"}``; a goal of several parts has lists. Exits 0 when it ran, whether or not
the goal holds, and 2 for a goal that has no benchmark yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import (
    answers,
    drift,
    embedding,
    gateway,
    guardrails,
    pipeline,
    quality,
    retrieval,
    rig,
    start,
    vllm,
)
from benchmarks.retrieval_gateway import ROUNDS
from benchmarks.retrieval_peers import at_recall
from benchmarks.retrieval_report import verdicts


def _summed_up(goal: str, result: dict[str, Any], peers: dict[str, Any], runs: int) -> Any:
    judged = [v for v in result["verdicts"] if v["goal"] == goal]
    return {
        "goal": goal,
        "value": [v["value"] for v in judged],
        "target": [v["target"] for v in judged],
        "unit": [f"{v['unit']} ({v['what']})" for v in judged],
        "holds": all(v["holds"] for v in judged),
        "peers": peers,
        "runs": runs,
        "machine": result["machine"],
        "versions": result["versions"],
    }


def latency(short: bool) -> dict[str, Any]:
    """G2: latency added, against the bare proxy."""
    plan = gateway.SHORT if short else gateway.Plan()
    result = gateway.run(plan, ("calls",))
    rig.write_json("G2", result)
    peers = {
        name: {
            "added_p50_ms_1_client": by_clients["1"]["added_p50_ms"],
            "added_p99_ms_16_clients": by_clients["16"]["added_p99_ms"],
            "rps_16_clients": by_clients["16"]["rps"],
        }
        for name, by_clients in result["calls"].items()
    }
    found: dict[str, Any] = _summed_up("G2", result, peers, plan.rounds)
    return found


def throughput(short: bool) -> dict[str, Any]:
    """G1: calls a second, against LiteLLM's proxy."""
    plan = gateway.SHORT if short else gateway.Plan()
    result = gateway.run(plan, ("calls",))
    rig.write_json("G1", result)
    peers = {n: c["16"]["rps"] for n, c in result["calls"].items()}
    peers |= result.get("left_out", {})
    found: dict[str, Any] = _summed_up("G1", result, peers, plan.rounds)
    return {**found, "holds": found["holds"] and bool(found["value"])}


def streams(short: bool) -> dict[str, Any]:
    """G3: first token and a thousand open streams, against a direct call."""
    plan = gateway.SHORT if short else gateway.Plan()
    result = gateway.run(plan, ("streams",))
    rig.write_json("G3", result)
    peers: dict[str, Any] = {}
    for name, found in result["open_streams"]["targets"].items():
        peers[name] = {k: v for k, v in found.items() if k != "rounds"}
        for shape, by_target in result["first_token"].items():
            key = f"first_token_added_p50_ms, {shape}"
            peers[name][key] = by_target["targets"][name]["added_p50_ms"]
    runs = min(plan.rounds, plan.open_rounds)
    judged: dict[str, Any] = _summed_up("G3", result, peers, runs)
    return judged


def through_vllm(short: bool) -> dict[str, Any]:
    """G4: tokens a second of real vLLM through the gateway, against direct calls."""
    result = vllm.run(3 if short else 15, ("rate",))
    rig.write_json("G4", result)
    return {
        "goal": "G4",
        "value": result["value"],
        "target": [vllm.GOAL] * len(result["value"]),
        "unit": [f"share of direct tokens/s, {n} streams" for n in vllm.STREAMS],
        "holds": result["holds"],
        "peers": {n: r["direct"]["tokens_s"] for n, r in result["rate"].items()},
        "runs": result["rounds"],
        "machine": result["machine"],
        "versions": result["versions"],
    }


def personal_data(short: bool) -> dict[str, Any]:
    """G11: the guard's throughput at no lower F2, against stock Presidio."""
    result = guardrails.run(400, 3) if short else guardrails.run()
    rig.write_json("G11", result)
    return {
        "goal": "G11",
        "value": result["value"],
        "target": result["target"],
        "unit": [f"times stock Presidio's throughput, {what}" for what in guardrails.TARGETS],
        "holds": result["holds"],
        "peers": {
            "stock Presidio": {
                "KB_s": {w: rig.median(r["stock Presidio"], 1) for w, r in result["rate"].items()},
                "higher_f2": result["lower_f2"],
            }
        },
        "runs": result["rounds"],
        "machine": result["machine"],
        "versions": result["versions"],
    }


def drifts(short: bool) -> dict[str, Any]:
    """G12: sketches against exact distances; delay and false alarms against full data."""
    result = drift.run(20, 2000, 40) if short else drift.run()
    rig.write_json("G12", result)
    return {
        "goal": "G12",
        "value": result["value"],
        "target": result["target"],
        "unit": result["unit"],
        "holds": result["holds"] and not result["streams"]["left_out"],
        "peers": result["streams"]["kinds"] | result["streams"]["left_out"],
        "runs": result["count"],
        "machine": result["machine"],
        "versions": result["versions"],
    }


def starting(short: bool) -> dict[str, Any]:
    """G17: import and start."""
    result = start.run()
    rig.write_json("G17", result)
    return {
        "goal": "G17",
        "value": result["value"],
        "target": result["target"],
        "unit": ["s (import app.main)", "s (start to ready)"],
        "holds": result["holds"],
        "peers": {},
        "runs": len(result["ready_s"]),
        "machine": result["machine"],
        "versions": result["versions"],
    }


def embedding_rate(short: bool) -> dict[str, Any]:
    """G8: texts a second against sentence-transformers, and what the pipeline keeps of them."""
    plan = embedding.SHORT if short else embedding.Plan()
    result = embedding.run(plan)
    kept = pipeline.run(400) if short else pipeline.run()
    rig.write_json("G8", {"embedding": result, "pipeline": kept})
    return {
        "goal": "G8",
        "value": [result["value"], kept["value"]],
        "target": [result["target"], kept["target"]],
        "unit": [result["unit"], "share of the bare encoder's throughput"],
        "holds": result["holds"] and kept["holds"],
        "peers": result["peers"],
        "runs": plan.rounds,
        "machine": result["machine"],
        "versions": result["versions"],
    }


def quality_of_search(short: bool) -> dict[str, Any]:
    """G9: nDCG@10 of hybrid search with the reranker, against the better single ranker."""
    result = quality.run(quality.SETS[:1] if short else quality.SETS)
    rig.write_json("G9", result)
    means = {
        f"{name}: {ranker}": found[quality.MAIN]
        for name, held in result["sets"].items()
        for ranker, found in held["rankers"].items()
    }
    gains = result["gains"]
    return {
        "goal": "G9",
        "value": [sum(gains) / len(gains) if gains else None, min(gains, default=None)],
        "target": [quality.TARGET, 0.0],
        "unit": [
            "relative gain in nDCG@10 over the better single ranker, mean of sets",
            "the least gain of a set",
        ],
        "holds": result["holds"],
        "peers": means,
        "runs": 1,
        "machine": result["machine"],
        "versions": result["versions"],
    }


def grounded_answers(short: bool) -> dict[str, Any]:
    """G10: citations and refusals of a gateway with its own vLLM, on the judged sets."""
    result = answers.run(answers.SETS[:1], 10) if short else answers.run()
    rig.write_json("G10", result)
    return {
        "goal": "G10",
        "value": result["value"],
        "target": result["target"],
        "unit": list(answers.JUDGED_BY),
        "holds": result["holds"],
        "peers": result["left_out"],
        "runs": 1,
        "machine": result["machine"],
        "versions": result["versions"],
    }


def _of_retrieval(goal: str, short: bool, parts: tuple[str, ...]) -> dict[str, Any]:
    """G5 to G7, measured now; a goal of which a part could not be measured does not hold."""
    count = retrieval.SHORT if short else 1_000_000

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    result = retrieval.run(
        retrieval.SHORT, retrieval.DIM, parts, retrieval.JUDGED, count, say, keep=False
    )
    rig.write_json(goal, result)
    peers: dict[str, Any] = {}
    missing = len(result["gateway"]) == 0
    for swept in result["sweeps"].values():
        peers |= {n: at_recall(e["points"]) for n, e in swept["engines"].items()}
        peers |= swept["left_out"]
        missing = missing or bool(swept["left_out"])
    for served in result["gateway"].values():
        peers |= served["latency"]
    judged = {**result, "verdicts": verdicts(result)}
    found: dict[str, Any] = _summed_up(goal, judged, peers, ROUNDS)
    return {**found, "holds": found["holds"] and not missing}


def added_by_search(short: bool) -> dict[str, Any]:
    """G5: the search call against the bare FAISS call, and the rate against Milvus."""
    return _of_retrieval("G5", short, ("sweep", "gateway"))


def whole_search(short: bool) -> dict[str, Any]:
    """G6: the whole search call, hybrid, and reranked."""
    return _of_retrieval("G6", short, ("gateway",))


def bytes_a_vector(short: bool) -> dict[str, Any]:
    """G7: bytes a vector in memory, refined from disk."""
    return _of_retrieval("G7", short, ("gateway",))


GOALS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "G1": throughput,
    "G2": latency,
    "G3": streams,
    "G4": through_vllm,
    "G5": added_by_search,
    "G6": whole_search,
    "G7": bytes_a_vector,
    "G8": embedding_rate,
    "G9": quality_of_search,
    "G10": grounded_answers,
    "G11": personal_data,
    "G12": drifts,
    "G17": starting,
}


def main() -> int:
    """Read the command line and run one goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("goal")
    parser.add_argument("--short", action="store_true", help="the short form of its benchmark")
    given = parser.parse_args()
    measure = GOALS.get(given.goal.upper())
    if measure is None:
        known = ", ".join(GOALS)
        print(f"There is no benchmark of goal '{given.goal}'; known: {known}.", file=sys.stderr)
        return 2
    print(json.dumps(measure(given.short)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
