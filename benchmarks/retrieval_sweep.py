"""Our engine's recipes and bare FAISS, built and searched in a process of their own.

    python -m benchmarks.retrieval_sweep build|search NAME DATA FOLDER

NAME is ``ours RECIPE``, ``FAISS FACTORY`` (an ``index_factory`` string, ``{lists}`` filled in) or
``FAISS same index`` (the index file that ours wrote for its default recipe, below FOLDER/../ours).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.retrieval.engines import recipes
from app.retrieval.engines.base import SegmentInfo
from app.retrieval.engines.faiss import FaissEngine
from benchmarks import retrieval_peer as peer

OURS = ("auto", "ivf_pq_fine", "ivf_sq8", "ivf_rabitq", "hnsw", "flat")
BARE = ("Flat", "HNSW16,Flat", "IVF{lists},Flat")
A_FILE = 50  # rows of one file in our segments


def files_of(count: int) -> list[tuple[str, int]]:
    """``count`` rows as files of ``A_FILE``: each one's name and rows."""
    return [(f"f{n}", min(A_FILE, count - s)) for n, s in enumerate(range(0, count, A_FILE))]


class Ours:
    """FaissEngine with one recipe: the index, then the full vectors from disk."""

    module = "faiss"

    def __init__(self, recipe: str) -> None:
        self._recipe = recipe
        self.efforts: Sequence[int] = ()
        self.about = f"FaissEngine, recipe {recipe}"

    def build(self, base: Any, folder: Path) -> None:
        engine = FaissEngine(str(folder), base.shape[1], recipe=self._recipe)
        info = engine.write_many(files_of(len(base)), np.arange(len(base)), base)
        (folder / "info.json").write_text(json.dumps(asdict(info)))

    def open(self, folder: Path) -> None:
        self.info = SegmentInfo(**json.loads((folder / "info.json").read_text()))
        self._engine = FaissEngine(str(folder), self.info.dim, recipe=self._recipe)
        self._engine.load([self.info])
        self.state = self._engine.state()
        if self.info.recipe == "flat":
            self.efforts = (0,)
        else:
            usual = peer.GRAPH if self.info.recipe == "hnsw" else peer.LISTS
            self.efforts = sorted({*usual, self.info.effort})

    def at(self, effort: int) -> peer.Search:
        self._engine.load([replace(self.info, effort=effort)])
        return lambda query: self._engine.search(query, peer.K)[0]


class Bare:
    """FAISS by itself: one call a query, without our refinement from disk."""

    module = "faiss"

    def __init__(self, factory: str) -> None:
        self._factory = factory
        self.efforts: Sequence[int] = (0,)
        if "HNSW" in factory:
            self.efforts = peer.GRAPH
        elif factory != "Flat":
            self.efforts = peer.LISTS
        self.about = f"index_factory {factory}"

    def build(self, base: Any, folder: Path) -> None:
        import faiss

        if self._factory == "same index":
            return
        lists = recipes.lists_for(len(base))
        index: Any = faiss.index_factory(
            base.shape[1], self._factory.format(lists=lists), faiss.METRIC_INNER_PRODUCT
        )
        if "HNSW" in self._factory:
            index.hnsw.efConstruction = peer.construction(len(base))
        if not index.is_trained:
            rows = np.random.default_rng(1).permutation(len(base))[: 64 * lists]
            index.train(np.ascontiguousarray(base[np.sort(rows)]))
        index.add(np.ascontiguousarray(base))
        faiss.write_index(index, str(folder / "index"))

    def open(self, folder: Path) -> None:
        import faiss

        path = folder / "index"
        if self._factory == "same index":
            ours = folder.parent / "ours auto"
            path = next(ours.glob("*.idx"), path)
            self._recipe = json.loads((ours / "info.json").read_text())["recipe"]
        else:
            self._recipe = "hnsw" if "HNSW" in self._factory else "ivf"
        self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)

    def at(self, effort: int) -> peer.Search:
        if not effort:
            return lambda query: self._index.search(query[None, :], peer.K)[1][0]
        given = recipes.parameters(self._recipe, effort)
        return lambda query: self._index.search(query[None, :], peer.K, params=given)[1][0]


def resident_of(suffix: str) -> int:
    """Bytes in memory of the files mapped by this process whose names end so."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and ":" not in words[0]:
            ours = line.endswith(suffix)
        elif ours and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total


def main() -> None:
    """Read the command line, work, and print."""
    verb, name, data, folder = sys.argv[1:]
    kind, what = name.split(" ", 1)
    engine: Ours | Bare = Ours(what) if kind == "ours" else Bare(what)
    result = peer.work(engine, verb, Path(data), Path(folder))
    if verb == "search" and isinstance(engine, Ours):
        result |= {
            "recipe": engine.info.recipe,
            "tuned_effort": engine.info.effort,
            "tuned_recall": engine.info.recall,
            "memory_bytes": engine.state.memory_bytes,
            "index_bytes": engine.info.index_bytes,
            "index_resident": resident_of(".idx"),
            "vectors_resident": resident_of(".vec"),
        }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
