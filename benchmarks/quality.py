"""How well search finds judged passages: vectors, words, both, and both reranked (goal G9).

    python -m benchmarks.quality [--sets django cwe postgresql cranfield]

Every ranker searches the same passages, cut as in the product, with the product's own parts:
exact cosines of the default embedder, the word index, the fusion and the blend of the
cross-encoder as `app/retrieval/search.py` uses them. No recall is lost to an approximate index
here; `benchmarks/retrieval.py` measures that apart.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import OstiaryError
from app.retrieval.embedding import (
    CrossEncoder,
    OnnxEmbedder,
    packaged_bge_dir,
    packaged_reranker_dir,
)
from app.retrieval.fusion import reciprocal_rank, weighted_sum
from app.retrieval.quality.matching import Returned
from app.retrieval.quality.score import MAIN, Measured, row_of
from app.retrieval.quality.significance import compare, holm
from app.retrieval.rerank import WEIGHT, Reranker
from app.retrieval.search import NAMED_DENSE, weights
from app.retrieval.types import DEFAULT_RANKING, Candidate
from app.samples.django_docs import SamplesUnavailable
from benchmarks import rig
from benchmarks.collections import CACHE, Cache, Collection, collection, scoring
from benchmarks.report import table

SETS = ("django", "cwe", "postgresql", "cranfield")
SINGLE = ("dense", "BM25")
OURS = "hybrid + rerank"
TARGET = 0.10  # relative gain over the better single ranker
DEPTH = 20
WIDE = 50  # of each side that are fused, as in the product
RERANKED = 20
Ranking = list[tuple[int, float]]


class Rankers:
    """Every way of ranking that is compared, on one collection."""

    def __init__(
        self, held: Collection, embedder: OnnxEmbedder, model: CrossEncoder, cache: Cache
    ) -> None:
        self._held, self._embedder = held, embedder
        self._reranker = Reranker(scoring(model, cache))

    def close(self) -> None:
        """End the reranker's thread."""
        self._reranker.close()

    def all(self, query: str) -> dict[str, Ranking]:
        """(place of the passage, score), best first, by ranker."""
        dense, words = self._dense(query), self._held.words.search(query, WIDE, operators=False)
        sides = [dict(dense), dict(words)]
        of_vectors, of_words = weights(query, DEFAULT_RANKING)
        chosen = [of_vectors if dense else 0, of_words if words else 0]
        named = [[(str(n), s) for n, s in side.items()] for side in sides]
        hybrid = [(int(n), s) for n, s in weighted_sum(named, chosen)]
        ranks = reciprocal_rank([[str(n) for n in side] for side in sides])
        return {
            "dense": dense,
            "BM25": words,
            "hybrid by rank": [(int(n), s) for n, s in ranks],
            "hybrid": hybrid,
            OURS: self._reranked(query, hybrid),
        }

    def _dense(self, query: str) -> Ranking:
        cosines = self._held.vectors @ self._embedder.encode_query(query)
        best = np.argsort(-cosines, kind="stable")[:WIDE]
        return [(int(n), float(cosines[n])) for n in best]

    def _reranked(self, query: str, first: Ranking) -> Ranking:
        head, tail = first[:RERANKED], first[RERANKED:]
        candidates = [Candidate(self._held.pieces[n].text, score) for n, score in head]
        done = asyncio.run(self._reranker.rerank(query, candidates, budget_ms=None))
        order = [(head[i][0], s) for i, s in zip(done.order, done.scores, strict=True)]
        return [*order, *tail]


def measure(held: Collection, rankers: Rankers) -> dict[str, Measured]:
    """Every ranker's scores on every question of a collection."""
    rows: dict[str, list[Any]] = {}
    for query in held.queries:
        for name, found in rankers.all(query.text).items():
            results = [
                Returned(held.pieces[n].filename, held.pieces[n].text) for n, _ in found[:DEPTH]
            ]
            rows.setdefault(name, []).append(row_of(query, results, DEPTH))
    return {name: Measured(name, tuple(kept)) for name, kept in rows.items()}


def summary(held: Collection, measured: dict[str, Measured]) -> dict[str, Any]:
    """What is kept of one collection: means, intervals, and p against the better single one."""
    best = max(SINGLE, key=lambda name: measured[name].mean(MAIN))
    others = [name for name in measured if name not in SINGLE]
    found = {n: compare(measured[best].values(MAIN), measured[n].values(MAIN)) for n in others}
    adjusted = dict(zip(others, holm([found[n].p for n in others]), strict=True))
    rankers: dict[str, Any] = {}
    for name, m in measured.items():
        low, high = m.interval(MAIN)
        rankers[name] = {
            **{measure: round(m.mean(measure), 4) for measure in m.measures},
            "interval": [round(low, 4), round(high, 4)],
            "kinds": {kind: round(m.mean(MAIN, kind), 4) for kind in m.kinds},
        }
        if name in found:
            c = found[name]
            rankers[name] |= {
                "gain": round(c.difference / c.first, 4) if c.first else 0.0,
                "difference": [round(v, 4) for v in (c.difference, c.low, c.high)],
                "p": adjusted[name],
                "wins": c.wins,
                "losses": c.losses,
            }
    return {
        "files": held.files,
        "passages": len(held.pieces),
        "questions": len(held.queries),
        "kinds": measured[best].kinds,
        "best_single": best,
        "rankers": rankers,
    }


def run(sets: Sequence[str] = SETS, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure the collections; one whose documents cannot be had is named, not counted."""
    threads = 2
    embedder = OnnxEmbedder(packaged_bge_dir(), threads)
    model = CrossEncoder(packaged_reranker_dir(), threads)
    result: dict[str, Any] = {
        "machine": rig.machine(),
        "versions": rig.versions("onnxruntime", "tantivy", "numpy"),
        "models": {"embedder": embedder.name, "reranker": model.name},
        "settings": {
            "dense": DEFAULT_RANKING.dense,
            "dense_named": NAMED_DENSE,
            "rerank": WEIGHT,
            "reranked": RERANKED,
        },
        "sets": {},
        "left_out": {},
    }

    def work(scratch: Path) -> None:
        cache = Cache(CACHE / "cache.sqlite")
        for name in sets:
            began = time.perf_counter()
            try:
                with (
                    collection(name, embedder, cache, scratch) as held,
                    closing(Rankers(held, embedder, model, cache)) as rankers,
                ):
                    measured = measure(held, rankers)
                    result["sets"][name] = summary(held, measured)
            except (SamplesUnavailable, OstiaryError) as error:
                result["left_out"][name] = str(error)
                say(f"{name}: left out. {error}")
                continue
            scores = {n: round(m.mean(MAIN), 3) for n, m in measured.items()}
            say(f"{name}: {scores} ({time.perf_counter() - began:.0f} s)")
        cache.close()

    rig.in_scratch(work)
    gains = [s["rankers"][OURS]["gain"] for s in result["sets"].values()]
    result["gains"] = gains
    result["holds"] = bool(gains) and statistics.fmean(gains) >= TARGET and min(gains) >= 0
    return result


def as_markdown(result: dict[str, Any]) -> str:
    """The result for a reader."""
    settings = result["settings"]
    parts = [
        "# How well search finds\n",
        f"{MAIN} over passages (Cranfield: over abstracts), mean of the questions with its 95 % "
        f"bootstrap interval. Gain and p (paired randomisation, Holm over the rankers of a set) "
        f"are against the better of the two single rankers, marked *. Models: "
        f"{result['models']['embedder']}, {result['models']['reranker']}; weight of vectors "
        f"{settings['dense']} ({settings['dense_named']} where the query names an identifier), of "
        f"the reranker {settings['rerank']}, which reads the best "
        f"{settings['reranked']}.\n",
        ", ".join(f"{k} {v}" for k, v in result["versions"].items()) + ".\n",
    ]
    for name, found in result["sets"].items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in found["kinds"].items())
        parts.append(f"## {name}\n")
        parts.append(
            f"{found['questions']} questions{f' ({kinds})' if kinds else ''}, {found['files']} "
            f"documents, {found['passages']:,} passages.\n"
        )
        parts.append(_set_table(found))
    if result["left_out"]:
        lines = [f"- {name}: {why}" for name, why in result["left_out"].items()]
        parts += ["## Left out\n", "\n".join(lines) + "\n"]
    parts.append("## Against the target\n")
    mean = statistics.fmean(result["gains"]) if result["gains"] else 0.0
    least = min(result["gains"], default=0.0)
    parts.append(
        f"{OURS} gains {mean:+.1%} over the better single ranker on average (target "
        f"+{TARGET:.0%}), {least:+.1%} at least (target: never below): "
        f"{'holds' if result['holds'] else '**does not hold**'}.\n"
    )
    return "\n".join(parts)


def _set_table(found: dict[str, Any]) -> str:
    kinds = list(found["kinds"])
    head = ["ranker", MAIN, "95 % interval", "gain", "p", "recall@10", "MRR@10", *kinds]
    rows = []
    for name, r in found["rankers"].items():
        low, high = r["interval"]
        rows.append(
            [
                name + (" *" if name == found["best_single"] else ""),
                f"{r[MAIN]:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{r['gain']:+.1%}" if "gain" in r else "",
                f"{r['p']:.4f}" if "p" in r else "",
                f"{r['recall@10']:.3f}",
                f"{r['MRR@10']:.3f}",
                *(f"{r['kinds'][kind]:.3f}" for kind in kinds),
            ]
        )
    return table(head, rows)


def plot(result: dict[str, Any], path: Path) -> None:
    """The rankers side by side on each collection, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = ("#8a8a8a", "#e69f00", "#56b4e9", "#0072b2", "#7b3294")
    sets = list(result["sets"])
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    names = list(next(iter(result["sets"].values()))["rankers"])
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        found = [result["sets"][s]["rankers"][name] for s in sets]
        means = [f[MAIN] for f in found]
        low = [f[MAIN] - f["interval"][0] for f in found]
        high = [f["interval"][1] - f[MAIN] for f in found]
        where = [i + (place - (len(names) - 1) / 2) * width for i in range(len(sets))]
        axes.bar(
            where,
            means,
            width * 0.92,
            yerr=[low, high],
            color=colours[place % len(colours)],
            error_kw={"elinewidth": 0.8, "ecolor": "#444"},
            label=name,
        )
    axes.set_xticks(range(len(sets)), sets)
    axes.set(title=f"{MAIN}, 95 % intervals", ylim=(0, 1))
    axes.grid(True, axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(result: dict[str, Any]) -> str:
    """Keep the result as JSON, Markdown and plot; returns the Markdown."""
    text = as_markdown(result)
    rig.write_result("quality", result, text)
    if result["sets"]:
        plot(result, rig.RESULTS / "quality.png")
    return text


def main() -> int:
    """Read the command line, measure, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    result = run(parser.parse_args().sets)
    print(write(result))
    return 0 if result["sets"] else 1


if __name__ == "__main__":
    sys.exit(main())
