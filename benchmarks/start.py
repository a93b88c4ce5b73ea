"""How long the app takes to import, and ``ostiary serve`` from its start to ready (goal G17).

The models of the default settings (embedder, reranker) are warm on disk, the data directory is
there from a start before, and vLLM is not started: what a restart of a gateway takes.

    python -m benchmarks.start
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import rig
from benchmarks.report import table

RUNS = 5
IMPORT_TARGET_S, READY_TARGET_S = 1.0, 10.0
_IMPORT = (
    "import time; began = time.perf_counter(); import app.main; print(time.perf_counter() - began)"
)


def import_s() -> float:
    """Seconds that ``import app.main`` takes in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT],
        cwd=rig.ROOT,
        env=rig.plain_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def ready_s(folder: Path) -> float:
    """Seconds from starting ``ostiary serve`` until /readyz answers 200."""
    with rig.gateway("serve", folder, {}) as server:
        found: float = server.ready_after_s
    return found


def run(runs: int = RUNS) -> dict[str, Any]:
    """Measure both, ``runs`` times each after one that is not counted."""
    result: dict[str, Any] = {"machine": rig.machine(), "versions": rig.versions("onnxruntime")}

    def work(folder: Path) -> None:
        import_s()
        result["import_s"] = [round(import_s(), 3) for _ in range(runs)]
        first = ready_s(folder)
        result["first_ready_s"] = round(first, 3)  # makes the database: told, not judged
        result["ready_s"] = [round(ready_s(folder), 3) for _ in range(runs)]

    rig.in_scratch(work)
    value = [rig.median(result["import_s"], 3), rig.median(result["ready_s"], 3)]
    target = [IMPORT_TARGET_S, READY_TARGET_S]
    holds = all(v <= t for v, t in zip(value, target, strict=True))
    return {**result, "value": value, "target": target, "unit": ["s", "s"], "holds": holds}


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    rows = [
        [what, value, f"≤ {target:g} s", "yes" if value <= target else "**no**", str(runs)]
        for what, value, target, runs in zip(
            ("import app.main", "start of `ostiary serve` to ready"),
            result["value"],
            result["target"],
            (result["import_s"], result["ready_s"]),
            strict=True,
        )
    ]
    return (
        "# Starting\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; load average "
        f"before: {machine['load_before']}. Default settings, models warm on disk, without vLLM; "
        f"the very first start, which makes the database, took {result['first_ready_s']:.2f} s."
        "\n\n" + table(["what", "median s", "target", "holds", "runs"], rows)
    )


def main() -> None:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=RUNS)
    result = run(parser.parse_args().runs)
    text = as_markdown(result)
    rig.write_result("start", result, text)
    print(text)


if __name__ == "__main__":
    main()
