"""How much of the bare encoder's throughput the bulk pipeline keeps (G8, second part).

    python -m benchmarks.pipeline [--passages 2000] [--rounds 3] [--samples FOLDER]

Pages of the Django manual are embedded by `pipelines.embeddings` from JSON lines to verified
shards, and the very same passages by the encoder alone, in as many processes with as many
threads. Both have their model loaded when the clock starts. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from app.retrieval.parsing import parse
from app.retrieval.types import embedded_text
from app.samples import django_docs
from benchmarks import rig
from benchmarks.report import table
from pipelines.embeddings.job import Columns, EmbedJob, ModelSpec
from pipelines.embeddings.load import manifest, read_shard
from pipelines.embeddings.model import encoder
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.run import embed
from pipelines.embeddings.runners import LocalRunner
from pipelines.embeddings.storage import Folder

TARGET = 0.95
PASSAGES = 2000
ROUNDS = 3
WORDS_A_PASSAGE = 110  # of these pages, to take about as many pages as are asked for
SLICE = 256


def write_pages(pages: list[Path], words: int, path: Path) -> int:
    """Write one row a page until there are ``words``; return how many rows."""
    rows = 0
    with path.open("w") as out:
        for page in pages:
            text = "\n\n".join(block.text for block in parse(page, page.name))
            row = {"id": django_docs.relative_name(page), "text": text}
            out.write(json.dumps(row) + "\n")
            rows += 1
            words -= len(text.split())
            if words <= 0:
                break
    return rows


def encode(texts: list[str], threads: int) -> float:
    """Embed in this process, in slices as the pipeline does; return processor seconds."""
    model = encoder(ModelSpec(threads=threads))
    began = time.process_time()
    for i in range(0, len(texts), SLICE):
        model.encode_passages(texts[i : i + SLICE])
    return time.process_time() - began


def bare_s(
    pool: ProcessPoolExecutor, texts: list[str], processes: int, threads: int
) -> tuple[float, float]:
    """Encode ``texts``, dealt out in turn to the processes; return wall and processor seconds."""
    parts = [texts[i::processes] for i in range(processes)]
    began = time.perf_counter()
    spent = sum(pool.map(encode, parts, [threads] * processes))
    return time.perf_counter() - began, spent


def pipeline_s(job: EmbedJob, runner: LocalRunner, passages: int | None) -> tuple[float, float]:
    """Run into a new folder; return wall seconds, and processor seconds with the driver's."""

    def spent() -> float:
        times = [psutil.Process(pid).cpu_times() for pid in [*runner.pids(), os.getpid()]]
        return sum(t.user + t.system for t in times)

    before, began = spent(), time.perf_counter()
    report = embed(job, runner, Progress(lambda line: None))
    wall = time.perf_counter() - began
    assert report.state == "complete", report.failed
    assert passages in (None, report.embedded)
    return wall, spent() - before


def texts_of(output: str) -> list[str]:
    """What the model read, each different passage once."""
    folder, found = Folder(output), {}
    for record in manifest(output):
        for part in read_shard(folder, record, ["key", "section", "text"]):
            for row in part.to_pylist():
                found.setdefault(row["key"], embedded_text(row["section"], row["text"]))
    return list(found.values())


def run(passages: int = PASSAGES, rounds: int = ROUNDS, samples: Path | None = None) -> Any:
    """Measure one worker a processor, one thread each."""
    workers, threads = os.cpu_count() or 1, 1
    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": rig.versions("onnxruntime", "tokenizers", "pyarrow"),
        "workers": workers,
        "threads": threads,
        "rounds": [],
    }

    def work(folder: Path) -> None:
        pages = django_docs.fetch(samples or folder / "samples")
        source = folder / "pages.jsonl"
        result["rows"] = write_pages(pages, passages * WORDS_A_PASSAGE, source)
        columns = Columns(id="id")
        size = max(1, source.stat().st_size // (8 * workers))  # eight shards a worker
        runner = LocalRunner(workers)
        context = get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:

            def job(name: str) -> EmbedJob:
                output = str(folder / name)
                return EmbedJob((str(source),), output, columns, shard_bytes=size)

            pipeline_s(job("warm"), runner, None)  # loads the models, and is not counted
            texts = texts_of(job("warm").output)
            bare_s(pool, texts[: 8 * workers], workers, threads)
            result["passages"] = len(texts)
            result["shards"] = len(manifest(job("warm").output))
            for number in range(rounds):
                own = pipeline_s(job(f"round-{number}"), runner, len(texts))
                bare = bare_s(pool, texts, workers, threads)
                names = ("pipeline_s", "pipeline_cpu_s", "bare_s", "bare_cpu_s")
                figures = (round(value, 3) for value in (*own, *bare))
                result["rounds"].append(dict(zip(names, figures, strict=True)))
            began = time.perf_counter()
            again = embed(job("round-0"), runner, Progress(lambda line: None))
            assert again.embedded == 0
            result["unchanged_s"] = round(time.perf_counter() - began, 3)
            os.utime(source)  # another version of the file, of which every passage is known
            wall, spent = pipeline_s(job("round-0"), runner, 0)
            result["copied_s"], result["copied_cpu_s"] = round(wall, 3), round(spent, 3)
        runner.close()

    rig.in_scratch(work)
    middle = {
        name: rig.median([found[name] for found in result["rounds"]])
        for name in result["rounds"][0]
    }
    share = round(middle["bare_s"] / middle["pipeline_s"], 4)
    return {
        **result,
        **middle,
        "bare_per_s": round(result["passages"] / middle["bare_s"], 1),
        "pipeline_per_s": round(result["passages"] / middle["pipeline_s"], 1),
        "cpu_share": round(middle["bare_cpu_s"] / middle["pipeline_cpu_s"], 4),
        "value": share,
        "target": TARGET,
        "unit": "of the bare encoder's passages a second",
        "holds": share >= TARGET,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    rows = [
        ["bare encoder", result["bare_per_s"], result["bare_s"], result["bare_cpu_s"], 1.0],
        [
            "pipeline",
            result["pipeline_per_s"],
            result["pipeline_s"],
            result["pipeline_cpu_s"],
            result["value"],
        ],
    ]
    return (
        "# What the bulk pipeline costs\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; load average "
        f"before: {machine['load_before']}. {result['passages']:,} passages of {result['rows']} "
        f"pages, {result['shards']} shards; {result['workers']} processes of {result['threads']} "
        f"thread; medians of {len(result['rounds'])} interleaved rounds. The pipeline's seconds "
        "hold everything from the file of pages to shards with checksums: reading, cutting, "
        "keys, matching, embedding, writing. A run over unchanged inputs takes "
        f"{result['unchanged_s']:.2f} s; over a new file of known passages, which is "
        f"everything but the model, {result['copied_cpu_s']:.2f} processor seconds.\n\n"
        + table(["what", "passages/s", "seconds", "processor seconds", "share of bare"], rows)
        + f"\nTarget: at least {result['target']:.0%}; "
        + ("holds.\n" if result["holds"] else "**missed**.\n")
    )


def main() -> None:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--passages", type=int, default=PASSAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--samples", type=Path, help="folder that has or gets the pages")
    asked = parser.parse_args()
    result = run(asked.passages, asked.rounds, asked.samples)
    text = as_markdown(result)
    rig.write_result("pipeline", result, text)
    print(text)


if __name__ == "__main__":
    main()
