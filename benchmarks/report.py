"""The gateway's figures as a Markdown table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# One colour a target, told apart with any colour vision; direct recedes, it is the floor.
COLOURS = {
    "direct": "#8a8a8a",
    "bare proxy": "#e69f00",
    "ours": "#0072b2",
    "ours with NER": "#7b3294",
    "LiteLLM": "#cc79a7",
}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("| --- |" + " ---: |" * (len(head) - 1))
    lines += ["| " + " | ".join(_cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.3g}"
    return str(value)


def as_markdown(result: dict[str, Any]) -> str:
    """The whole result for a reader."""
    plan, machine = result["plan"], result["machine"]
    parts = [
        "# What the gateway costs\n",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; load average before: {machine['load_before']}; "
        "a disk sync, which each audit record waits for: "
        f"p50 {machine['disk_sync_ms']['p50']:g} ms.\n",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".\n",
        f"Medians of {plan['rounds']} interleaved rounds in one run, {plan['seconds']:g} s a load; "
        f"prompt of {plan['prompt_chars']} characters, each sentence of prompts and replies "
        "unlike all before; one worker each; the load generator, the stub and the target share "
        "the cores. `ours` has the whole corridor on: key, limits, budget, pattern guardrails "
        "both ways, durable audit, cost, drift.\n",
    ]
    if "calls" in result:
        parts.append("## Whole calls\n")
        parts.append(_calls(result["calls"]))
        if "LiteLLM" in result["calls"]:
            parts.append(
                "LiteLLM's proxy has its documented production settings and no database: it keeps "
                "neither spend nor log of a call, and screens nothing.\n"
            )
    for name, why in result.get("left_out", {}).items():
        parts.append(f"{name}: left out, {why}\n")
    if "first_token" in result:
        parts.append("## Time to first token, 1 client (ms)\n")
        parts.append(_first_tokens(result["first_token"]))
        parts.append(
            "A chunk of one word is held until the next white space shows that it is not the "
            "start of an e-mail address or number, so there the first word comes an interval "
            "later by design.\n"
        )
    if "open_streams" in result:
        opened = result["open_streams"]
        parts.append(f"## {opened['streams']:,} open streams\n")
        parts.append(
            f"A chunk each {opened['interval_ms']:g} ms; a stall is the longest pause of a "
            f"stream beyond that. Medians of {plan['open_rounds']} rounds, each with fresh "
            "servers; memory is the private memory gained, the stub's own for `direct`.\n"
        )
        parts.append(_open(opened))
        for name, why in opened.get("failed", {}).items():
            parts.append(f"{name} did not keep them open: {why}\n")
    parts.append("## Against the targets\n")
    parts.append(verdict_table(result["verdicts"]))
    return "\n".join(parts)


def _calls(calls: dict[str, Any]) -> str:
    figures = ("rps", "p50_ms", "p95_ms", "p99_ms", "added_p50_ms", "added_p95_ms", "added_p99_ms")
    head = ["target", "clients", "calls/s", *(f.removesuffix("_ms") + " ms" for f in figures[1:])]
    rows = [
        [name, clients, *(found[f] for f in figures)]
        for clients in next(iter(calls.values()))
        for name, by_clients in calls.items()
        for found in [by_clients[clients]]
    ]
    return table([h.replace("_", " ") for h in head], rows)


def _first_tokens(first: dict[str, Any]) -> str:
    rows = [
        [
            f"{name}, {shape}, every {found['interval_ms']:g} ms",
            *(target[figure] for figure in ("p50_ms", "p99_ms", "added_p50_ms")),
        ]
        for shape, found in first.items()
        for name, target in found["targets"].items()
    ]
    return table(["target and stream", "p50", "p99", "added p50"], rows)


def _open(opened: dict[str, Any]) -> str:
    rows = [
        [name, t["stall_max_ms"], t["stall_p99_ms"], t["kb_a_stream"], t["first_token_p50_ms"]]
        for name, t in opened["targets"].items()
    ]
    head = ["target", "longest stall ms", "p99 stall ms", "KB a stream", "first token p50 ms"]
    return table(head, rows)


def verdict_table(verdicts: Sequence[dict[str, Any]]) -> str:
    """Figures against their targets; of ``verdict.Target.as_dict``."""
    rows = [
        [
            f"{v['goal']}: {v['what']}",
            f"{_cell(v['value'])} {v['unit']}",
            f"{v['bound']} {v['unit']}",
            "yes" if v["holds"] else "**no**",
        ]
        for v in verdicts
    ]
    return table(["figure", "measured", "target", "holds"], rows)


def plot_calls(result: dict[str, Any], path: Path) -> None:
    """Throughput and added latency by number of clients, beside the peers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    calls = result["calls"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, by_clients in calls.items():
        clients = [str(c) for c in by_clients]
        style = {"color": COLOURS.get(name, "black"), "marker": "o", "label": name}
        left.plot(clients, [f["rps"] for f in by_clients.values()], **style)
        if name == "direct":
            continue
        right.plot(clients, [f["added_p50_ms"] for f in by_clients.values()], **style)
        style |= {"linestyle": ":", "marker": "^", "label": None}
        right.plot(clients, [f["added_p99_ms"] for f in by_clients.values()], **style)
    left.set(title="Calls per second", xlabel="clients", yscale="log")
    right.set(
        title="Latency added to a direct call, ms (dotted: p99)",
        xlabel="clients",
        yscale="log",
    )
    for axes in (left, right):
        axes.grid(True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:,g}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(calls))
    machine = result["machine"]
    figure.suptitle(
        f"One worker, 540-character prompt, {machine['cpu']}, {machine['cores']} cores",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
