"""The retrieval benchmark for a reader: tables, the goals, a plot, and the points of plans."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.retrieval.engines.recipes import RECIPES
from benchmarks.report import table, verdict_table
from benchmarks.retrieval_peers import PEERS, at_recall
from benchmarks.verdict import Target

RECALL = 0.95
ADDED_MS, LITE_TIMES, SERVER_TIMES = 1.5, 5.0, 1.0  # G5
HYBRID_P50_MS, HYBRID_P99_MS, RERANKED_P50_MS = 8.0, 25.0, 120.0  # G6
BYTES = 64.0  # G7
READY_S = 5.0
SEEN = "call, hybrid and late interaction, passages seen before"
OURS = "ours auto"
# colours that are told apart with any colour vision; ours strong, peers by shape too
STYLES = {
    "ours auto": ("#0072b2", "o", "-"),
    "ours ivf_sq8": ("#56b4e9", "o", "--"),
    "ours ivf_pq_fine": ("#0072b2", "^", ":"),
    "ours ivf_rabitq": ("#56b4e9", "s", ":"),
    "ours hnsw": ("#0072b2", "s", "--"),
    "ours flat": ("#0072b2", "*", ""),
    "FAISS same index": ("#8a8a8a", "o", ":"),
    "FAISS Flat": ("#8a8a8a", "*", ""),
    "FAISS HNSW16,Flat": ("#8a8a8a", "s", "--"),
    "FAISS IVF{lists},Flat": ("#8a8a8a", "^", "-"),
    "hnswlib": ("#e69f00", "s", "-"),
    "usearch": ("#d55e00", "^", "-"),
    "Milvus Lite": ("#cc79a7", "v", "-"),
    "Milvus server": ("#7b3294", "v", "-"),
    "LanceDB": ("#009e73", "D", "-"),
}


def _where(part: dict[str, Any]) -> str:
    """Behind a part's name: the processor, where it is not the one of most parts."""
    return f", {part['machine']['cpu']}" if "machine" in part else ""


def _machine(part: dict[str, Any]) -> str:
    """The machine and the versions of a result or of a part of it."""
    machine = part["machine"]
    told = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    return f"{told}, {machine['system']}"


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """G5 to G7 held against what was measured; a part without figures is left out."""
    found: list[Target] = []

    def judge(
        goal: str, what: str, value: float, target: float, unit: str, *, at_least: bool = False
    ) -> None:
        found.append(Target(goal, what, round(value, 3), target, unit, at_least))

    for served in result["gateway"].values():
        latency, of = served["latency"], f"{served['passages']:,} passages{_where(served)}"
        judge("G5", f"added to the bare FAISS call, {of}", served["added_ms"], ADDED_MS, "ms")
        hybrid = latency["call, hybrid"]
        judge("G6", f"hybrid call p50, {of}", hybrid["p50_ms"], HYBRID_P50_MS, "ms")
        judge("G6", f"hybrid call p99, {of}", hybrid["p99_ms"], HYBRID_P99_MS, "ms")
        reranked = latency["call, hybrid and rerank"]["p50_ms"]
        judge("G6", f"reranked call p50, {of}", reranked, RERANKED_P50_MS, "ms")
        if late := latency.get(SEEN):
            what = f"late interaction, passages seen before, p50, {of}"
            judge("G6", what, late["p50_ms"], RERANKED_P50_MS, "ms")
        recall = served["recall"]
        what = f"index at recall {recall:g} on held-out vectors, {of}"
        judge("G7", what, served["index_bytes_a_vector"], BYTES, "B a vector")
        judge("restart", f"process start to ready, {of}", served["ready_s"], READY_S, "s")
        opened = served["first_search_s"]
        judge("restart", f"store opened, verified, searched, {of}", opened, READY_S, "s")
    for swept in result["sweeps"].values():
        engines = swept["engines"]
        best = {name: at_recall(e["points"], RECALL) for name, e in engines.items()}
        ours = best.get(OURS)
        if ours is None:
            continue
        size = f"{swept['size']:,} × {swept['dim']}{_where(swept)}"
        for peer, times in (("Milvus Lite", LITE_TIMES), ("Milvus server", SERVER_TIMES)):
            theirs = best.get(peer)
            if theirs is not None:
                ratio = ours["qps"] / theirs["qps"]
                judge("G5", f"searches/s over {peer}, {size}", ratio, times, "×", at_least=True)
        held = engines[OURS].get("memory_bytes")
        if held:
            what = f"index at recall {ours['recall']:g}, {size}"
            judge("G7", what, held / swept["size"], BYTES, "B a vector")
    return [t.as_dict() for t in found]


def _sweep(swept: dict[str, Any]) -> str:
    rows = []
    for name, e in swept["engines"].items():
        best = at_recall(e["points"], RECALL)
        reached = best or max(e["points"], key=lambda p: p["recall"])
        rows.append(
            [
                name.replace("{lists}", ""),
                ("" if best else "only ") + f"{reached['recall']:.3f}",
                reached["effort"] or "",
                reached["p50_ms"],
                reached["p99_ms"],
                reached["qps"],
                e["build_s"],
                e.get("build_cpu_s", ""),
                _told(e, swept["size"]),
                _gained(e) / swept["size"],
                e["disk_bytes"] / swept["size"] or "",
                f"{e['load_before']:g}",
            ]
        )
    head = [
        "engine",
        "recall@10",
        "effort",
        "p50 ms",
        "p99 ms",
        "searches/s",
        "build s",
        "build CPU s",
    ]
    return table([*head, "index B", "gained B", "disk B", "load"], rows)


def _told(engine: dict[str, Any], size: int) -> float | str:
    """Bytes a vector that our engine says its index takes; nothing for others."""
    return engine["memory_bytes"] / size if "memory_bytes" in engine else ""


def _gained(engine: dict[str, Any]) -> int:
    """Bytes that a process gained; our full vectors, mapped from disk, may be dropped again."""
    gained: int = engine["own_bytes"] + engine.get("mapped_bytes", 0)
    return gained - engine.get("vectors_resident", 0)


def _ingest(found: dict[str, Any]) -> str:
    rows = [
        [f"{f['stored']:,}", statistics.median(f["passages_s"]), min(f["passages_s"])]
        for f in found["flat"]
    ]
    beside = found["beside"]
    alone, with_writer = beside["alone"], beside["beside"]
    return (
        table(["stored passages", "passages/s, median file", "slowest file"], rows)
        + f"\nFiles of 500 passages, embedding left out: words, vectors, SQL and their syncs, and "
        f"whatever merging goes on meanwhile; load average before {found['load_before']:g}. "
        f"Hybrid search in process, embedding included, at {beside['stored']:,} passages: alone "
        f"p50 {alone['p50_ms']:g} ms, p99 {alone['p99_ms']:g} ms; while files are added at "
        f"{beside['passages_s']:g} passages/s: p50 {with_writer['p50_ms']:g} ms, p99 "
        f"{with_writer['p99_ms']:g} ms.\n"
    )


def _gateway(gateway: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for g in gateway.values() for name in g["latency"]))
    columns = [f"{g['passages']:,}{_where(g)}" for g in gateway.values()]
    head = ["median of rounds, p50 / p99 ms", *columns]
    rows: list[list[Any]] = [
        [
            name,
            *(
                f"{found['p50_ms']:.3g} / {found['p99_ms']:.3g}"
                if (found := g["latency"].get(name))
                else ""
                for g in gateway.values()
            ),
        ]
        for name in names
    ]
    facts = {
        "added by the call, vectors only (G5), ms": "added_ms",
        "late interaction, passages not seen before, p50, ms": "late_unseen_p50_ms",
        "start to ready, s": "ready_s",
        "first search (opens and verifies the store), s": "first_search_s",
        "resident before the store is opened, MB": "rss_before_mb",
        "resident while serving, MB": "rss_serving_mb",
        "of these private, MB": "own_serving_mb",
        "index in memory, B a vector": "index_bytes_a_vector",
        "vectors and index on disk, B a vector": "disk_bytes_a_vector",
        "passages in SQL, B a passage": "sql_bytes_a_passage",
        "words, B a passage": "words_bytes_a_passage",
        "filling (words, vectors, SQL, merging), s": "fill_s",
        "one 4 KiB append with fdatasync, ms": "sync_ms",
        "load average before": "load_before",
    }
    bare = "call without a search (GET the store)"
    beyond = [f"{g['added_ms'] - g['latency'][bare]['p50_ms']:.3g}" for g in gateway.values()]
    rows.append(["added beyond a call without a search, ms", *beyond])
    rows += [
        [what, *(f"{g[key]:g}" if key in g else "" for g in gateway.values())]
        for what, key in facts.items()
    ]
    return table(head, rows)


def as_markdown(result: dict[str, Any]) -> str:
    """The whole result."""
    parts = [
        "# Retrieval, measured\n",
        f"{_machine(result)}; what another processor measured stands in tables of its own, which "
        "name it. The load average before each measurement is told with it (what the "
        "measurement before it put on the machine counts in it); where it is above 2, other work "
        "shared the cores, and times are to be read beside those of the same table.\n",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".\n",
    ]
    if result["sweeps"]:
        parts.append(
            f"The point of the highest rate with recall@10 of at least {RECALL}; all points are in "
            "the JSON. Each engine in a process of its own, one thread a search; p50 and p99 of "
            "one client, searches a second of two clients. Built with all cores, beside other "
            "work: compare the processor seconds. Graphs are built with an effort of 200 "
            "(efConstruction, expansion_add), from a million vectors on of 100, from ten million "
            "on of 40 (the default of FAISS). `ours` is `FaissEngine` whole: index, refinement "
            "with the full vectors mapped from disk, merging of results. "
            "`FAISS same index` is the bare call on the very index of `ours auto`, without "
            "the refinement. All bytes are a vector: `index` as our engine tells it (of a scan, "
            "the vectors), `gained` what the process or server gained by opening and "
            "searching, mapped files with it (of ours without the full vectors, which need not be "
            "in memory); about 15 MB of that are buffers of any process.\n"
        )
    for swept in result["sweeps"].values():
        parts.append(f"## Engines: {swept['size']:,} × {swept['dim']}{_where(swept)}\n")
        if "machine" in swept:
            told = ", ".join(f"{k} {v}" for k, v in swept["versions"].items())
            parts.append(f"{_machine(swept)}; {told}.\n")
        parts.append(_sweep(swept))
        versions = [f"{n} {e['version']}" for n, e in swept["engines"].items() if e.get("version")]
        abouts = [f"{n}: {e['about']}" for n, e in swept["engines"].items() if n in PEERS]
        if abouts:
            parts.append("; ".join([*abouts, *versions]) + ".\n")
        known = {n for other in result["sweeps"].values() for n in other["engines"]}
        missing = sorted(known - {*swept["engines"], *swept["left_out"]})
        if missing and "machine" not in swept:
            names = ", ".join(missing).replace("{lists}", "")
            parts.append(f"Not run at this size, for want of time: {names}.\n")
        if swept["left_out"]:
            lines = [f"- {name}: {why}" for name, why in swept["left_out"].items()]
            parts.append("Left out:\n\n" + "\n".join(lines) + "\n")
    if result["sweeps"]:
        parts.append("![Recall against searches a second](retrieval.svg)\n")
    for found in (part for name, part in result.items() if name.startswith("ingest")):
        parts += [f"## Ingest against stored size{_where(found)}\n", _ingest(found)]
        rows = [
            [f"{f['share']:.1%}", f"{f['rows']:,}", f"{f['recall']:.3f}", f["p50_ms"], f["p99_ms"]]
            for f in found["filters"]
        ]
        parts.append("## Filters\n")
        parts.append("The default recipe; files chosen at random pass the filter.\n")
        parts.append(table(["files that pass", "rows", "recall@10", "p50 ms", "p99 ms"], rows))
    if result["gateway"]:
        parts += ["## Through the gateway\n", _gateway(result["gateway"])]
        parts.append(
            "A call is HTTP in to HTTP out on the loopback interface, one client, the whole "
            "corridor on (key, limits, guardrails both ways, durable audit). G5's added time is "
            "the p50 of the call by vectors alone, less that of the embedding and of the bare "
            "FAISS call; what a call costs without any search is told beside it. Passages are "
            "windows of the Django manual, vectors its passages' moved "
            "(`benchmarks/retrieval_store.py`).\n"
        )
    parts += ["## Against the goals\n", verdict_table(verdicts(result))]
    return "\n".join(parts)


def plot(result: dict[str, Any], path: Path) -> None:
    """Recall against searches a second, one panel a size."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ostiary"  # the same figures give the same file
    from matplotlib import pyplot as plt

    sweeps: Sequence[dict[str, Any]] = list(result["sweeps"].values())
    figure, panels = plt.subplots(
        1, len(sweeps), figsize=(6.5 * len(sweeps), 5), layout="constrained", squeeze=False
    )
    for axes, swept in zip(panels[0], sweeps, strict=True):
        for name, e in swept["engines"].items():
            colour, marker, line = STYLES.get(name, ("black", "x", "-"))
            axes.plot(
                [p["recall"] for p in e["points"]],
                [p["qps"] for p in e["points"]],
                color=colour,
                marker=marker,
                linestyle=line or "none",
                markersize=4,
                label=name.replace("{lists}", ""),
            )
        axes.axvline(RECALL, color="#bbbbbb", linewidth=0.8)
        axes.set(
            title=f"{swept['size']:,} × {swept['dim']}{_where(swept)}",
            xlabel="recall@10",
            ylabel="searches a second, two clients",
            yscale="log",
            xlim=(0.7, 1.005),
        )
        axes.grid(True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def points(result: dict[str, Any]) -> dict[str, Any]:
    """What `ostiary plan retrieval` works from."""
    machine = result["machine"]
    kinds = {f"ours {r}": ("faiss", r) for r in RECIPES}
    kinds |= {OURS: ("faiss", ""), "Milvus server": ("milvus", "")}
    found = []
    for swept in result["sweeps"].values():
        for name, e in swept["engines"].items():
            if name not in kinds or "machine" in swept:  # of another processor
                continue
            engine, recipe = kinds[name]
            if engine == "milvus":
                recipe = e["about"].split(",")[0].lower()
            held = e.get("memory_bytes", e["own_bytes"])
            # builds share the cores with other work, so their processor seconds count
            build_s = e.get("build_cpu_s", e["build_s"] * machine["cores"]) / machine["cores"]
            found.append(
                {
                    "engine": engine,
                    "recipe": recipe or e["recipe"],  # what `auto` chose
                    "vectors": swept["size"],
                    "dim": swept["dim"],
                    "build_s": round(build_s, 2),
                    "build_cores": machine["cores"],
                    "memory_a_vector": round(held / swept["size"], 1),
                    "disk_a_vector": round(e["disk_bytes"] / swept["size"], 1),
                    "efforts": [
                        {k: p[k] for k in ("effort", "recall", "p50_ms", "qps")}
                        for p in e["points"]
                    ],
                }
            )
    return {
        "machine": f"{machine['cpu']}, {machine['cores']} cores",
        "versions": result["versions"],
        "points": found,
        "embedding": result["embedding"],
    }
