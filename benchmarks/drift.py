"""Drift (G12): what sketches cost and lose, and who finds injected drifts when.

    python -m benchmarks.drift

First 10,000 features: bytes of their sketches, written and in memory; the error of the distance
between two merged sketches against the exact one; the cost of one call. Then streams with
injected drifts, judged hour by hour by ours (from sketches), and by Evidently and alibi-detect,
each in an environment of its own, on all values.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil

from app.gateway.call import Call, Principal
from app.monitoring.drift import DriftMonitor
from app.monitoring.drift_references import Frozen
from app.monitoring.drift_statistics import Correction, ks_distance
from app.monitoring.drift_verdicts import DEFAULT_RULES, Pair, decide, judge
from app.monitoring.sketches import SKETCH_K, Numbers, Steps
from app.store.db import Database
from benchmarks import rig
from benchmarks.report import table

FEATURES = 10_000
STREAMS, WINDOWS, ONSET = 200, 4, 1
REFERENCE, VALUES = 500, 250  # of the reference and of a window
SHIFT, SMALL = 0.5, 0.3  # standard deviations
FEW, MANY = 3, 50
KINDS = ("sudden", "gradual", "seasonal", "one of fifty", "none", "ten of fifty, small")
PEERS = {
    "evidently": ("evidently", "pandas<3"),
    "alibi-detect": ("alibi-detect",),
}
OURS = {how: f"ours, {how}" for how in get_args(Correction)}
DEFAULT = OURS[DEFAULT_RULES.correction]
ERROR_GOAL, BYTES_GOAL = 0.01, 4096
KS = (200, SKETCH_K, 400, 800)


def sketches(features: int, trials: int) -> dict[str, Any]:
    """Memory, bytes, error against the exact distance, and the time of one call."""
    draw = np.random.default_rng(1)
    process = psutil.Process()
    before = process.memory_info().rss
    held = []
    for _ in range(features):
        numbers = Numbers()
        numbers.add_all(draw.lognormal(size=2000).astype(np.float32))
        held.append(numbers)
    in_memory = process.memory_info().rss - before
    full = Numbers()
    full.add_all(draw.normal(size=5_000_000).astype(np.float32))
    found: dict[str, Any] = {
        "features": features,
        "memory_bytes_a_feature": round(in_memory / features),
        "written_bytes_a_feature": round(sum(len(h.as_bytes()) for h in held) / features),
        "written_bytes_of_five_million": len(full.as_bytes()),
        "call_us": _call_us(),
        "error": {},
    }
    for k in KS:
        errors, largest = [], 0
        for trial in range(trials):
            parts = int(draw.choice([1, 2, 8, 24]))
            sides = [
                draw.normal(shift, size=parts * int(draw.choice([500, 5000]))).astype(np.float32)
                for shift in (0.0, (0.0, 0.05, 0.2, 0.5)[trial % 4])
            ]
            merged = []
            for values in sides:
                whole = Numbers(k=k)
                for part in np.array_split(values, parts):
                    one = Numbers(k=k)
                    one.add_all(part)
                    whole.merge(one)
                merged.append(whole.steps())
                largest = max(largest, len(whole.as_bytes()))
            exact = ks_distance(*(Steps.of(values) for values in sides))
            errors.append(abs(ks_distance(*merged) - exact))
        found["error"][str(k)] = {
            "mean": round(float(np.mean(errors)), 5),
            "p95": round(float(np.quantile(errors, 0.95)), 5),
            "p99": round(float(np.quantile(errors, 0.99)), 5),
            "largest": round(max(errors), 5),
            "bytes": largest,
        }
    return found


def _call_us(calls: int = 20_000) -> dict[str, float]:
    """Microseconds that observing a call takes: a chat's features, and with an embedding."""
    found = {}
    draw = np.random.default_rng(2)
    vector = draw.normal(size=384).astype(np.float32)
    nobody = Principal("t", "s", None, frozenset())
    for what, embedding in (("a chat", None), ("a search", vector)):
        monitor = DriftMonitor(Database("sqlite:///unused.db"))
        made = Call("c", "c", "rest", "POST /v1/chat/completions", nobody, model="m")
        made.mark_screened("input")
        made.features = {"input_length": 540.0, "language": "en", "output_length": 900.0}
        made.features["refusal"] = False
        made.embedding = embedding
        began = time.perf_counter()
        for i in range(calls):
            monitor.observe(made, i * 1e-6)
        found[what] = round((time.perf_counter() - began) / calls * 1e6, 2)
    return found


def make(kind: str, streams: int) -> tuple[Any, Any, list[int]]:
    """Reference (streams, values, features), windows (…, windows, values, features), and which
    features drift."""
    draw = np.random.default_rng(KINDS.index(kind))
    features = MANY if "of fifty" in kind else FEW
    drifting = {
        "one of fifty": [0],
        "none": [],
        "ten of fifty, small": list(range(10)),
    }.get(kind, list(range(features)))
    reference = draw.normal(size=(streams, REFERENCE, features)).astype(np.float32)
    windows = draw.normal(size=(streams, WINDOWS, VALUES, features)).astype(np.float32)
    for w in range(ONSET, WINDOWS):
        since = w - ONSET + 1
        size = {
            "gradual": 1.6 * SHIFT * since / (WINDOWS - ONSET),
            "seasonal": 1.6 * SHIFT * np.sin(np.pi * since / (WINDOWS - ONSET)) ** 2,
            "ten of fifty, small": SMALL,
        }.get(kind, SHIFT)
        windows[:, w, :, drifting] += np.float32(size)
    return reference, windows, drifting


def ours(reference: Any, windows: Any) -> dict[str, Any]:
    """What ours calls drift, of shape (streams, windows, features), by correction."""
    streams, count, _, features = windows.shape
    found = {how: np.zeros((streams, count, features), bool) for how in OURS}

    def sketch(values: Any) -> bytes:
        numbers = Numbers()
        numbers.add_all(np.ascontiguousarray(values))
        return numbers.as_bytes()

    for s in range(streams):
        frozen = [
            Frozen(0, "number", 0, 1, REFERENCE, sketch(reference[s, :, f]))
            for f in range(features)
        ]
        for w in range(count):
            pairs = [
                Pair(f"{f:02}", "number", 1, 2, [sketch(windows[s, w, :, f])], frozen[f])
                for f in range(features)
            ]
            judged = judge(pairs, {}, DEFAULT_RULES)
            for how, flags in found.items():
                flags[s, w] = [d.drifted for d in decide(judged, how)]
    return found


def score(flags: Any, drifting: list[int]) -> dict[str, float | None]:
    """Delay in windows (one: found in the first that drifted) and alarms that are none's due."""
    streams, count, features = flags.shape
    still = [f for f in range(features) if f not in drifting]
    false = flags.copy()
    false[:, ONSET:, drifting] = False
    wrong = false.any(axis=2)
    scored: dict[str, float | None] = {
        "false_alarms_a_window": round(float(wrong.mean()), 4),
        "false_a_test": round(float(false.sum() / (streams * _tests(count, still, drifting))), 5),
        "delay_windows": None,
        "found": None,
        "features_found": None,
    }
    if drifting:
        hit = flags[:, ONSET:][:, :, drifting].any(axis=2)
        late = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, WINDOWS - ONSET + 1)
        scored["delay_windows"] = round(float(late.mean()), 3)
        scored["found"] = round(float(hit.any(axis=1).mean()), 3)
        of_all = flags[:, ONSET:][:, :, drifting]
        scored["features_found"] = round(float(of_all.mean()), 3)
    return scored


def _tests(count: int, still: list[int], drifting: list[int]) -> int:
    return count * len(still) + ONSET * len(drifting)


def _calibrated(p: Any, drifting: list[int], wanted: float) -> Any:
    """The peer's flags at the loosest level that gives no more false alarms than ``wanted``."""
    for alpha in np.geomspace(0.05, 1e-8, 60):
        flags = p < alpha
        rate = score(flags, drifting)["false_alarms_a_window"]
        if rate is not None and rate <= wanted:
            return flags
    return p < 0


def _peer(name: str, python: Path, data: Path, out: Path) -> float:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, "1"), "DO_NOT_TRACK": "1", "PYTHONPATH": ""}
    began = time.perf_counter()
    script = rig.ROOT / "benchmarks" / "drift_peer.py"
    told = subprocess.run(
        [str(python), "-P", "-W", "ignore", str(script), name, str(data), str(out)],
        env={**env, "ITERATIVE_DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        last = (told.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise rig.NotInstalled(f"ended in an error: {last[:300]}")
    return round(time.perf_counter() - began, 1)


def simulations(
    streams: int, pythons: dict[str, Path], say: Callable[[str], None]
) -> dict[str, Any]:
    """Delay and false alarms of ours and of the peers, by kind of drift."""
    found: dict[str, Any] = {"kinds": {}, "left_out": {}, "seconds": {}, "versions": {}}
    made = {kind: make(kind, streams) for kind in KINDS}

    def work(folder: Path) -> None:
        data = folder / "streams.npz"
        arrays: dict[str, Any] = {}
        for kind, (reference, windows, _) in made.items():
            arrays |= {f"{kind}/reference": reference, f"{kind}/windows": windows}
        np.savez(data, **arrays)
        told: dict[str, Any] = {}

        def ask(name: str) -> None:
            try:
                python = pythons.get(name) or rig.environment(name, PEERS[name])
                found["versions"][name] = rig.version_in(python, name)
                found["seconds"][name] = _peer(name, python, data, folder / f"{name}.npz")
                told[name] = np.load(folder / f"{name}.npz")
            except rig.NotInstalled as why:
                found["left_out"][name] = str(why)
            say(f"{name}: done")

        with ThreadPoolExecutor(2) as asking:
            asked = [asking.submit(ask, name) for name in PEERS]
            began = time.perf_counter()
            own = {kind: ours(made[kind][0], made[kind][1]) for kind in KINDS}
            found["seconds"]["ours"] = round(time.perf_counter() - began, 1)
            for one in asked:
                one.result()
        for kind in KINDS:
            drifting = made[kind][2]
            rows = {OURS[how]: score(flags, drifting) for how, flags in own[kind].items()}
            wanted = rows[DEFAULT]["false_alarms_a_window"] or 0.0
            if "evidently" in told:
                p = told["evidently"][f"{kind}/ks"]
                rows["Evidently KS, p < 0.05"] = score(p < 0.05, drifting)
                at_ours = _calibrated(p, drifting, wanted)
                rows["Evidently KS at our false alarms"] = score(at_ours, drifting)
                index = told["evidently"][f"{kind}/psi"]
                rows["Evidently PSI ≥ 0.1"] = score(index >= 0.1, drifting)
            if "alibi-detect" in told:
                p = told["alibi-detect"][f"{kind}/ks"]
                rows["alibi-detect KS, Bonferroni"] = score(p < 0.05 / p.shape[2], drifting)
            found["kinds"][kind] = rows

    rig.in_scratch(work)
    return found


def judged(result: dict[str, Any]) -> dict[str, Any]:
    """The parts of G12: error, bytes, and per peer the most that ours is later or alarms more."""
    error = result["sketches"]["error"][str(SKETCH_K)]["p99"]
    size = result["sketches"]["written_bytes_of_five_million"]
    value: list[float | None] = [error, size]
    target: list[float] = [ERROR_GOAL, BYTES_GOAL]
    unit = ["KS error (p99 of merges)", "bytes a sketch"]
    rows = result["streams"]["kinds"]
    beside = (*OURS.values(), "Evidently KS at our false alarms")
    for name in [n for n in rows[KINDS[0]] if n not in beside]:
        later = max(
            rows[kind][DEFAULT]["delay_windows"] - rows[kind][name]["delay_windows"]
            for kind in KINDS
            if rows[kind][DEFAULT]["delay_windows"] is not None
        )
        more = max(
            rows[kind][DEFAULT]["false_alarms_a_window"] - rows[kind][name]["false_alarms_a_window"]
            for kind in KINDS
        )
        value += [round(later, 3), round(more, 4)]
        target += [0.0, 0.0]
        unit += [f"windows later than {name}, at most", f"false alarms a window more than {name}"]
    holds = all(v is not None and v <= t for v, t in zip(value, target, strict=True))
    return {"value": value, "target": target, "unit": unit, "holds": holds}


def run(
    streams: int = STREAMS,
    features: int = FEATURES,
    trials: int = 100,
    pythons: dict[str, Path] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure everything."""
    result: dict[str, Any] = {"sketches": sketches(features, trials)}
    say("sketches: done")
    result["streams"] = simulations(streams, pythons or {}, say)
    result |= {"machine": rig.machine(), "versions": rig.versions("datasketches", "numpy")}
    result["versions"] |= result["streams"].pop("versions")
    return {**result, **judged(result), "count": streams}


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    held, machine = result["sketches"], result["machine"]
    parts = [
        "# Drift from sketches\n",
        f"{machine['cpu']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {v}" for name, v in result["versions"].items())
        + ".\n",
        f"## Sketches of {held['features']:,} features\n",
        f"A feature of 2,000 values takes {held['memory_bytes_a_feature']:,} bytes of memory and "
        f"{held['written_bytes_a_feature']:,} bytes written; one of five million values "
        f"{held['written_bytes_of_five_million']:,} bytes written (goal {BYTES_GOAL:,}). "
        f"Observing a chat takes {held['call_us']['a chat']} µs, a search with its embedding "
        f"{held['call_us']['a search']} µs.\n",
        "Error of the Kolmogorov-Smirnov distance between two sketches, each merged from 1 to 24 "
        f"parts, against the exact one (goal {ERROR_GOAL}; ours is k = {SKETCH_K}):\n",
        table(
            ("k", "mean", "p95", "p99", "largest", "bytes"),
            [(k, *row.values()) for k, row in held["error"].items()],
        ),
        f"## Injected drifts, {result['count']} streams each\n",
        f"A reference of {REFERENCE:,} values, windows of {VALUES}, {ONSET} before and "
        f"{WINDOWS - ONSET} after the drift begins. {FEW} features that all drift, or one or "
        f"ten of {MANY}. Sudden: {SHIFT} standard deviations; gradual: up to {1.6 * SHIFT}; "
        f"seasonal: a swing to {1.6 * SHIFT} and back; small: {SMALL}. Delay: mean number of "
        f"windows until the first that is called drift ({WINDOWS - ONSET + 1} if none is). "
        "Features: share of those that drift that is called, a window. False alarms: share of "
        "windows in which a feature is called that does not drift. Ours by its corrections; "
        f"{DEFAULT_RULES.correction} is the default.\n",
    ]
    for kind, rows in result["streams"]["kinds"].items():
        parts.append(f"### {kind[0].upper()}{kind[1:]}\n")
        parts.append(
            table(
                ("", "delay", "found", "features", "false alarms a window"),
                [
                    (
                        name,
                        "–" if row["delay_windows"] is None else f"{row['delay_windows']:.2f}",
                        "–" if row["found"] is None else f"{row['found']:.1%}",
                        "–" if row["features_found"] is None else f"{row['features_found']:.1%}",
                        f"{row['false_alarms_a_window']:.1%}",
                    )
                    for name, row in rows.items()
                ],
            )
        )
    parts.append("## The goal\n")
    parts.append(
        table(
            ("", "value", "at most"),
            list(zip(result["unit"], map(str, result["value"]), result["target"], strict=True)),
        )
    )
    for name, why in result["streams"]["left_out"].items():
        parts.append(f"{name} {why}\n")
    parts.append("alibi-detect has no PSI.\n")
    return "\n".join(parts)


def main() -> None:
    """Measure, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--features", type=int, default=FEATURES)
    for name in PEERS:
        parser.add_argument(f"--{name}-python", type=Path, help="of an environment that has it")
    given = parser.parse_args()
    pythons = {
        name: python
        for name in PEERS
        if (python := getattr(given, f"{name.replace('-', '_')}_python")) is not None
    }
    result = run(
        given.streams,
        given.features,
        pythons=pythons,
        say=lambda line: print(line, file=sys.stderr),
    )
    rig.write_result("drift", result, as_markdown(result))
    print(as_markdown(result))


if __name__ == "__main__":
    main()
