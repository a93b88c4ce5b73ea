"""Retrieval measured: engines beside their peers, ingest, filters, and the whole search call.

    python -m benchmarks.retrieval [--size 100000] [--dim 384] [--parts NAME …]
                                   [--engines NAME …] [--count 1000000] [--points]
                                   [--built FOLDER [--only-build]] [--limit 1800]

Parts are sweep, ingest, gateway and embedding (passages a second, for plans).

Each part is kept in `benchmarks/results/retrieval.json` beside what earlier runs measured: a
sweep by its size and dimension, the gateway by its count; what another processor measures stands
in tables of its own and is no point of plans. `--points` writes
`app/retrieval/measured.json`, from which `ostiary plan retrieval` works, and the examples of
`docs/plan.md` anew; with `--parts` and no name nothing is measured before. `--built` keeps the
indexes of a sweep, so that they are built while the machine does other work (`--only-build`; the
processor seconds are told beside the seconds) and searched when it does none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app.samples.django_docs import SamplesUnavailable
from benchmarks import retrieval_data, rig
from benchmarks.retrieval_peers import LIMIT_S, OWN, PEERS, sweep
from benchmarks.retrieval_report import as_markdown, plot, points

PARTS = ("sweep", "ingest", "gateway", "embedding")
SHORT, DIM = 100_000, 384
# what G5 compares
JUDGED = ("ours auto", "FAISS same index", "Milvus Lite", "Milvus server")
PACKAGES = ("faiss-cpu", "numpy", "pymilvus", "milvus-lite", "onnxruntime", "tantivy")
POINTS = rig.ROOT / "app" / "retrieval" / "measured.json"
PLAN_PAGE = rig.ROOT / "docs" / "plan.md"
EXAMPLE = re.compile(
    r"^```text\nostiary (plan retrieval [^\n]+)\n(.*?)^```", re.DOTALL | re.MULTILINE
)


def _empty() -> dict[str, Any]:
    return {"sweeps": {}, "gateway": {}}


def kept() -> dict[str, Any]:
    """What earlier runs measured."""
    path = rig.RESULTS / "retrieval.json"
    return {**_empty(), **(json.loads(path.read_text()) if path.exists() else {})}


def elsewhere(result: dict[str, Any]) -> dict[str, Any]:
    """The machine and versions of here, where another processor measured ``result``; or nothing."""
    here = rig.machine()
    if result.get("machine", here)["cpu"] == here["cpu"]:
        return {}
    return {"machine": here, "versions": rig.versions(*PACKAGES)}


def part_name(name: str, where: dict[str, Any]) -> str:
    """What a part is kept under: by itself, or with the processor that is not the usual one."""
    return f"{name} {where['machine']['cpu']}" if where else name


def measure_sweep(
    result: dict[str, Any],
    size: int,
    dim: int,
    engines: Sequence[str],
    say: Callable[[str], None],
    **how: Any,
) -> None:
    """Recall against rate and latency of the named engines at one size; ``how`` as in `sweep`."""
    where = elsewhere(result)
    key = part_name(f"{size}x{dim}", where)
    data = retrieval_data.prepared(size, dim)
    if built := how.get("built"):
        how["built"] = built / f"{size}x{dim}"
    found = sweep(engines, data, say, **how)
    before = result["sweeps"].get(key, {"engines": {}, "left_out": {}})
    for name in found["engines"]:
        before["left_out"].pop(name, None)
    result["sweeps"][key] = {
        "size": size,
        "dim": dim,
        **where,
        "engines": {**before["engines"], **found["engines"]},
        "left_out": {**before["left_out"], **found["left_out"]},
    }


def measure_embedding(texts: int = 256) -> dict[str, Any]:
    """Passages a second of the default embedder, on passages of the Django manual."""
    from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
    from benchmarks.retrieval_store import source

    threads = os.cpu_count() or 1
    embedder = OnnxEmbedder(packaged_bge_dir(), threads)
    held = rig.in_scratch(source)
    given = [" ".join(held.words[n]) for n in range(0, len(held.words), len(held.words) // texts)]
    embedder.encode_passages(given[:32])
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        embedder.encode_passages(given[:texts])
        rates.append(texts / (time.perf_counter() - began))
    return {"model": embedder.name, "texts_s": rig.median(rates, 1), "cores": threads}


def run(
    size: int,
    dim: int,
    parts: Sequence[str] = PARTS,
    engines: Sequence[str] = (*OWN, *PEERS),
    count: int | None = None,
    say: Callable[[str], None] = print,
    keep: bool = True,
    **how: Any,
) -> dict[str, Any]:
    """Measure the parts asked for; ``keep`` adds them to what earlier runs measured."""
    from benchmarks import retrieval_gateway, retrieval_ingest

    result = kept() if keep else _empty()
    where = elsewhere(result)
    if not where:
        result |= {"machine": rig.machine(), "versions": rig.versions(*PACKAGES)}
    for part in parts:
        began, load = time.perf_counter(), os.getloadavg()[0]
        try:
            if part == "sweep":
                measure_sweep(result, size, dim, engines, say, **how)
            elif part == "embedding":
                result[part_name("embedding", where)] = {**measure_embedding(), **where}
            elif part == "ingest":
                result[part_name("ingest", where)] = {**retrieval_ingest.run(size, dim), **where}
            else:
                asked = count or size
                found = {**retrieval_gateway.run(asked), **where}
                result["gateway"][part_name(str(asked), where)] = found
        except SamplesUnavailable as why:
            say(f"{part}: left out. {why}")
            continue
        if keep:
            rig.write_json("retrieval", result)
        say(f"{part}: {time.perf_counter() - began:.0f} s, load average before {load:.1f}")
    return result


def write(result: dict[str, Any]) -> str:
    """Keep the result as JSON, Markdown and plot; returns the Markdown."""
    text = as_markdown(result)
    rig.write_result("retrieval", result, text)
    if result["sweeps"]:
        plot(result, rig.RESULTS / "retrieval.svg")
    return text


def write_examples() -> None:
    """Put into `docs/plan.md` what its commands print now."""

    def anew(found: re.Match[str]) -> str:
        command = [sys.executable, "-m", "app.cli", *found[1].split()]
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=rig.ROOT)
        return f"```text\nostiary {found[1]}\n{told.stdout}```"

    PLAN_PAGE.write_text(EXAMPLE.sub(anew, PLAN_PAGE.read_text(encoding="utf-8")), "utf-8")


def main() -> int:
    """Read the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=SHORT, help="vectors of the sweep")
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--engines", nargs="+", choices=(*OWN, *PEERS), default=(*OWN, *PEERS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, help="only these peers, beside ours")
    parser.add_argument("--count", type=int, help="passages behind the gateway; else the size")
    parser.add_argument("--points", action="store_true", help=f"write {POINTS.name}")
    parser.add_argument("--built", type=Path, help="folder that keeps the indexes of a sweep")
    parser.add_argument("--only-build", action="store_true", help="of a sweep; not searched")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds of a build or search")
    given = parser.parse_args()
    if min(given.size, given.count or given.size) < 25_000 or given.dim < 8:
        print("Below 25,000 vectors nothing is indexed: give a larger --size.", file=sys.stderr)
        return 2
    engines = given.engines if given.peers is None else (*OWN, *given.peers)
    if given.only_build and given.built is None:
        print("--only-build needs a folder: give --built.", file=sys.stderr)
        return 2
    how = {"built": given.built, "only_build": given.only_build, "limit_s": given.limit}
    if given.only_build:
        measure_sweep(_empty(), given.size, given.dim, engines, print, **how)
        return 0
    result = run(given.size, given.dim, given.parts, engines, given.count, **how)
    print(write(result))
    if given.points and not {"embedding", "sweeps"} <= {k for k, v in result.items() if v}:
        print("Points need a sweep and the part embedding.", file=sys.stderr)
        return 2
    if given.points:
        POINTS.write_text(json.dumps(points(result), indent=1) + "\n")
        write_examples()
    return 0


if __name__ == "__main__":
    sys.exit(main())
