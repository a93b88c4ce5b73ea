"""Grounded answers through a real gateway with its own vLLM (goal G10).

    python -m benchmarks.answers [--sets django cwe postgresql] [--most 50]

Each judged set is ingested as it is in the product and asked over REST: the right page among the
first five passages, a citation of a right page, and what is declined. Questions are those of
`benchmarks/quality.py` (bare identifiers left out, the first of each set taken up to ``--most``)
and 25 a set that its documents do not answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.client import Client
from app.evaluation import Report, ask_all, load_questions, score
from app.llm.server import find_python
from app.samples.django_docs import SamplesUnavailable
from app.settings import Settings
from benchmarks import rig
from benchmarks.collections import JUDGED, files_of
from benchmarks.report import table

SETS = ("django", "cwe", "postgresql")
MOST = 50  # answerable questions of a set; a small model on two cores takes seconds for each
CITED, DECLINED, REFUSED = 0.95, 0.95, 0.05
JUDGED_BY = (
    "correct citation, of those retrieved and answered",
    "unanswerable declined",
    "answerable refused",
)
READY_S = 600.0
SENT_AT_ONCE = 8


def until_model_ready(url: str) -> None:
    """Wait for the embedded model server.

    Raises:
        RuntimeError: it is not there after ``READY_S`` seconds.
    """
    ends = time.monotonic() + READY_S
    while time.monotonic() < ends:
        with urllib.request.urlopen(f"{url}/readyz") as reply:
            if json.loads(reply.read())["llm"] == "ready":
                return
        time.sleep(1)
    raise RuntimeError(f"The model server was not ready in {READY_S:.0f} s.")


async def asked(client: Client, name: str, pages: list[tuple[Path, str]], most: int) -> Report:
    """Load one set into a store of its own and ask its questions.

    Raises:
        RuntimeError: not every document could be ingested.
    """
    store, _ = await client.ensure_store(name)
    gate = asyncio.Semaphore(SENT_AT_ONCE)

    async def send(page: Path, filename: str) -> str:
        async with gate:
            return await client.upload(page, filename)

    ids = await asyncio.gather(*(send(*page) for page in pages))
    for start in range(0, len(ids), 500):
        batch = await client.add_batch(store, list(ids[start : start + 500]))
        counts = (await client.wait_batch(store, batch))["file_counts"]
        if counts["completed"] != counts["total"]:
            raise RuntimeError(f"{name}: not every document was ingested: {counts}")
    questions = load_questions(JUDGED / f"{name}.jsonl")
    answerable = [q for q in questions if q.answerable][:most]
    chosen = [*answerable, *(q for q in questions if not q.answerable)]
    return await ask_all(client, store, chosen, Settings().llm_model)


def run(
    sets: Sequence[str] = SETS, most: int = MOST, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measure the sets; one whose documents cannot be had is named with the reason."""
    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": rig.versions("onnxruntime", "tantivy"),
        "model": Settings().llm_model,
        "sets": {},
        "left_out": {},
    }
    reports: list[Report] = []

    def work(folder: Path) -> None:
        env = {
            **rig.LIMITS,
            "OSTIARY_LLM_EMBEDDED": "true",
            "OSTIARY_VLLM_PYTHON": str(find_python(None, rig.ROOT)),
            "OSTIARY_LOG_LEVEL": "warning",
        }
        with rig.gateway("serve", folder, env) as server:
            until_model_ready(server.url)
            for name in sets:
                began = time.perf_counter()
                try:
                    pages = files_of(name, folder / "documents")
                except SamplesUnavailable as why:
                    result["left_out"][name] = str(why)
                    say(f"{name}: left out. {why}")
                    continue
                found = asyncio.run(_one(server.url, name, pages, most))
                reports.append(found)
                result["sets"][name] = {
                    "documents": len(pages),
                    "seconds": round(time.perf_counter() - began, 1),
                    **_summary(found),
                }
                say(f"{name}: {result['sets'][name]['rates']}")

    rig.in_scratch(work)
    rows = tuple(row for report in reports for row in report.rows)
    result["all"] = _summary(Report(result["model"], score(rows), rows))
    rates = result["all"]["rates"]
    result["value"] = [rates[name]["value"] for name in JUDGED_BY]
    result["target"] = [CITED, DECLINED, REFUSED]
    cited, declined, refused = result["value"]
    result["holds"] = not result["left_out"] and bool(
        reports and cited >= CITED and declined >= DECLINED and refused <= REFUSED
    )
    return result


async def _one(url: str, name: str, pages: list[tuple[Path, str]], most: int) -> Report:
    async with Client(url, rig.KEY) as client:
        return await asked(client, name, pages, most)


def _summary(report: Report) -> dict[str, Any]:
    return {
        "rates": {r.name: asdict(r) for r in report.rates},
        "errors": [r.id for r in report.rows if r.error],
        "degraded": sum(r.degraded for r in report.rows),
        # what to look at first: answered beside the documents, and cited beside the question
        "not_declined": [r.id for r in report.rows if not r.answerable and not r.declined],
        "cited_wrong": [
            r.id for r in report.rows if r.answerable and r.retrieved and not r.correct
        ],
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    names = list(result["all"]["rates"])
    rows = []
    for name, found in [*result["sets"].items(), ("all", result["all"])]:
        cells = []
        for measure in names:
            r = found["rates"][measure]
            if r["value"] is None:
                cells.append("–")
            else:
                span = f"{r['low']:.0%} to {r['high']:.0%}"
                cells.append(f"{r['hits']} of {r['total']} ({r['value']:.1%}; {span})")
        rows.append([name, *cells, len(found["errors"]), found["degraded"]])
    parts = [
        "# Grounded answers\n",
        f"{machine['cpu']}, {machine['cores']} cores; load average before: "
        f"{machine['load_before']} (nothing here is a time). Model {result['model']} on vLLM, "
        "temperature 0; questions as they are searched for, in other words than the documents' "
        "and with typos. In brackets the share and its 95 % bootstrap interval.\n",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".\n",
        table(["set", *names, "errors", "degraded"], rows),
    ]
    if result["left_out"]:
        parts += [f"- {name}: left out. {why}" for name, why in result["left_out"].items()]
    cited, declined, refused = ("none" if v is None else f"{v:.1%}" for v in result["value"])
    parts.append(
        f"\nGoal G10: {cited} cited right of what was retrieved and answered (target at least "
        f"{CITED:.0%}), {declined} of the unanswerable declined (at least {DECLINED:.0%}), "
        f"{refused} of the answerable refused (at most {REFUSED:.0%}): "
        f"{'holds' if result['holds'] else '**missed**'}.\n"
    )
    return "\n".join(parts)


def main() -> int:
    """Read the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--most", type=int, default=MOST, help="answerable questions of a set")
    given = parser.parse_args()
    result = run(given.sets, given.most)
    text = as_markdown(result)
    rig.write_result("answers", result, text)
    print(text)
    return 0 if result["sets"] else 1


if __name__ == "__main__":
    sys.exit(main())
