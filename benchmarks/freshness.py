"""How long after an upload its first passage can be found, through a real gateway.

    python -m benchmarks.freshness

A client uploads a file, attaches it, asks for its state every 20 ms as the OpenAI SDK's polling
helpers do, and searches for a sentence of it. One file at a time; the gateway has the whole
corridor on and the default models, and is otherwise idle.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from benchmarks import rig
from benchmarks.client import Client
from benchmarks.report import table

ROUNDS = 15
POLL_S = 0.02
LONGEST_S = 300.0
SIZES = {"a note of 60 words": 60, "a page of 1,000 words": 1000, "a chapter of 10,000": 10_000}
PHASES = ("uploaded", "attached", "completed", "found")
SEED = 7
_VOWELS, _CONSONANTS = "aeiou", "bdfgklmnprstvz"


def document(words: int, rng: random.Random) -> tuple[str, str]:
    """A Markdown text of about so many made words, and a sentence of it to search for."""

    def word() -> str:
        return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(3))

    sentences = [" ".join(word() for _ in range(12)) for _ in range(words // 12)]
    parts = [". ".join(sentences[i : i + 8]) + "." for i in range(0, len(sentences), 8)]
    return f"# {word()}\n\n" + "\n\n".join(parts) + "\n", rng.choice(sentences)


def timed(client: Client, store: str, name: str, words: int, rng: random.Random) -> dict[str, Any]:
    """Seconds from the first byte of the upload until each phase is over."""
    text, sentence = document(words, rng)
    files = f"/v1/vector_stores/{store}/files"
    began = time.perf_counter()
    took: dict[str, Any] = {}

    def reached(phase: str) -> None:
        took[phase] = time.perf_counter() - began

    file_id = client.upload(name, text)
    reached("uploaded")
    state = client.post(files, {"file_id": file_id})
    reached("attached")
    while state["status"] == "in_progress" and time.perf_counter() - began < LONGEST_S:
        time.sleep(POLL_S)
        state = client.get(f"{files}/{file_id}")
    if state["status"] != "completed":
        raise RuntimeError(f"{name} ended as {state['status']}: {state['last_error']}")
    reached("completed")
    hits = client.post(f"/v1/vector_stores/{store}/search", {"query": sentence})["data"]
    if file_id not in {hit["file_id"] for hit in hits}:
        raise RuntimeError(f"{name} is completed and was not found")
    reached("found")
    return took


def run(rounds: int = ROUNDS, sizes: dict[str, int] = SIZES) -> dict[str, Any]:
    """Measure each size ``rounds`` times, interleaved, after one that is not counted."""
    result: dict[str, Any] = {"machine": rig.machine(), "versions": rig.versions("onnxruntime")}
    seen: dict[str, list[dict[str, Any]]] = {size: [] for size in sizes}

    def work(folder: Path) -> None:
        rng = random.Random(SEED)
        with rig.gateway("serve", folder, {**rig.LIMITS, "OSTIARY_LOG_LEVEL": "warning"}) as server:
            client = Client(server.url)
            store = client.post("/v1/vector_stores", {"name": "fresh"})["id"]
            timed(client, store, "warm.md", 60, rng)
            for number in range(rounds):
                for size, words in sizes.items():
                    took = timed(client, store, f"{number}-{words}.md", words, rng)
                    seen[size].append({k: round(v, 4) for k, v in took.items()})

    rig.in_scratch(work)
    return {**result, "seconds": seen}


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine = result["machine"]
    rows = []
    for size, runs in result["seconds"].items():
        middle = [rig.median([r[phase] for r in runs], 3) for phase in PHASES]
        rows.append([size, *middle, max(r["found"] for r in runs), len(runs)])
    return (
        "# From upload to search\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; load average "
        f"before: {machine['load_before']}. Seconds from the first byte of the upload, medians; "
        "one file at a time, the gateway otherwise idle. Jobs are looked for every half second.\n\n"
        + table(["file", *PHASES, "found, longest", "runs"], rows)
    )


def main() -> None:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    result = run(parser.parse_args().rounds)
    text = as_markdown(result)
    rig.write_result("freshness", result, text)
    print(text)


if __name__ == "__main__":
    main()
