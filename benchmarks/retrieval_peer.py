"""Vector libraries other than ours, built and searched in a process of their own.

    python benchmarks/retrieval_peer.py build|search ENGINE DATA FOLDER [URL]

Run by ``benchmarks.retrieval`` with the Python of the environment in which the library is
installed, so this file imports NumPy and that library only. DATA holds ``base.npy``,
``queries.npy`` and ``truth.npy``; FOLDER keeps what was built. Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

K = 10
CLIENTS = 2
POINT_S = 1.5  # a point is measured for about so long, or over all queries once
GRAPH = (16, 32, 64, 128, 256, 512, 1024, 2048)
LISTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
BATCH = 10_000
MANY, MOST = 1_000_000, 10_000_000  # from here on graphs are built with less effort
Search = Callable[[Any], Any]  # from one query to the places of its nearest, best first


def construction(count: int) -> int:
    """The effort with which every graph is built (``efConstruction``, ``expansion_add``)."""
    if count >= MOST:
        return 40
    return 200 if count < MANY else 100


class Engine(Protocol):
    """One library with one kind of index."""

    about: str
    module: str  # loaded before memory is looked at
    efforts: Sequence[int]

    def build(self, base: Any, folder: Path) -> None:
        """Index ``base`` and write it below ``folder``."""
        ...

    def open(self, folder: Path) -> None:
        """Read what was built."""
        ...

    def at(self, effort: int) -> Search:
        """The search of one query at an effort."""
        ...


class Hnswlib:
    """hnswlib's graph over float32."""

    about = "HNSW, M 16, float32"
    module = "hnswlib"
    efforts = GRAPH

    def build(self, base: Any, folder: Path) -> None:
        import hnswlib

        index = hnswlib.Index("ip", base.shape[1])
        effort = construction(len(base))
        index.init_index(len(base), ef_construction=effort, M=16, random_seed=1)
        index.add_items(base, num_threads=os.cpu_count() or 1)
        index.save_index(str(folder / "index"))
        (folder / "dim").write_text(str(base.shape[1]))

    def open(self, folder: Path) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", int((folder / "dim").read_text()))
        self._index.load_index(str(folder / "index"))

    def at(self, effort: int) -> Search:
        self._index.set_ef(effort)
        return lambda query: self._index.knn_query(query, K, num_threads=1)[0][0]


class Usearch:
    """usearch's graph over float32."""

    about = "HNSW, connectivity 16, float32"
    module = "usearch.index"
    efforts = GRAPH

    def build(self, base: Any, folder: Path) -> None:
        from usearch.index import Index

        effort = construction(len(base))
        index = Index(ndim=base.shape[1], metric="ip", dtype="f32", expansion_add=effort)
        index.add(np.arange(len(base)), base, threads=os.cpu_count() or 1)
        index.save(str(folder / "index"))

    def open(self, folder: Path) -> None:
        from usearch.index import Index

        found = Index.restore(str(folder / "index"))
        assert found is not None
        self._index = found

    def at(self, effort: int) -> Search:
        self._index.expansion_search = effort
        return lambda query: self._index.search(query, K, threads=1).keys


class Lance:
    """LanceDB's inverted lists of product codes, refined with the full vectors."""

    about = "IVF_PQ, sub-vectors of 8 dimensions, refined with 10 times as many"
    module = "lancedb"
    efforts = LISTS

    def build(self, base: Any, folder: Path) -> None:
        import lancedb
        import pyarrow as pa

        dim = base.shape[1]
        table = None
        for start in range(0, len(base), BATCH):
            part = np.ascontiguousarray(base[start : start + BATCH])
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), dim)
            numbers = pa.array(np.arange(start, start + len(part)))
            rows = pa.table({"number": numbers, "vector": vectors})
            if table is None:
                table = lancedb.connect(str(folder)).create_table("base", rows)
            else:
                table.add(rows)
        assert table is not None
        lists = 2 ** round(np.log2(2 * np.sqrt(len(base))))
        sub = next(m for m in range(dim // 8, 0, -1) if dim % m == 0)
        table.create_index(
            metric="dot", index_type="IVF_PQ", num_partitions=int(lists), num_sub_vectors=sub
        )

    def open(self, folder: Path) -> None:
        import lancedb

        self._table = lancedb.connect(str(folder)).open_table("base")

    def at(self, effort: int) -> Search:
        def search(query: Any) -> Any:
            found = self._table.search(query).distance_type("dot").nprobes(effort)
            found = found.refine_factor(10).select(["number"]).limit(K)
            return found.to_arrow()["number"].to_numpy()

        return search


class Milvus:
    """Milvus through pymilvus: a Lite file in FOLDER, or the server at URL.

    From ``MOST`` vectors on inverted lists in place of a graph, which takes hours to build on few
    cores, since segments are merged and built again.
    """

    about = "HNSW, M 16, float32"
    module = "pymilvus"
    efforts: Sequence[int] = GRAPH

    def __init__(self, url: str | None) -> None:
        self._url, self._effort = url, "ef"

    def _client(self, folder: Path) -> Any:
        from pymilvus import MilvusClient

        if self._url is None:
            return MilvusClient(str(folder / "lite.db"))
        return MilvusClient(self._url, token="root:Milvus")

    def build(self, base: Any, folder: Path) -> None:
        from pymilvus import DataType, MilvusClient, MilvusException

        client = self._client(folder)
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("number", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=base.shape[1])
        client.create_collection("base", schema=schema)
        for start in range(0, len(base), BATCH // 2):
            part = base[start : start + BATCH // 2]
            rows = [{"number": start + n, "vector": v} for n, v in enumerate(part)]
            client.insert("base", rows)
        client.flush("base")
        kind, made = "HNSW", {"M": 16, "efConstruction": construction(len(base))}
        if len(base) >= MOST:
            kind, made = "IVF_FLAT", {"nlist": 2048}
            self.about = "IVF_FLAT, 2,048 lists a segment, float32"
        params = client.prepare_index_params()
        params.add_index("vector", index_type=kind, metric_type="IP", params=made)
        try:
            client.create_index("base", params)
        except MilvusException as error:  # pymilvus repeats a call that is answered late
            if "index already exists" not in str(error):
                raise
        client.load_collection("base")
        give_up = time.monotonic() + 7200
        while self._url is not None and time.monotonic() < give_up:
            about = client.describe_index("base", client.list_indexes("base")[0])
            if about.get("state") == "Finished" and not int(about.get("pending_index_rows") or 0):
                break
            time.sleep(0.2)
        client.close()

    def open(self, folder: Path) -> None:
        self._own = self._client(folder)
        self._own.load_collection("base")
        found = self._own.describe_index("base", self._own.list_indexes("base")[0])
        if found["index_type"] != "HNSW":
            self._effort, self.efforts = "nprobe", LISTS

    def at(self, effort: int) -> Search:
        params = {"metric_type": "IP", "params": {self._effort: effort}}

        def search(query: Any) -> Any:
            found = self._own.search(
                "base",
                data=[query],
                anns_field="vector",
                limit=K,
                search_params=params,
                consistency_level="Eventually",
            )
            return found[0].ids

        return search


def made(name: str, url: str | None) -> Engine:
    """The engine of a peer's name."""
    if name.startswith("Milvus"):
        return Milvus(url)
    return {"hnswlib": Hnswlib, "usearch": Usearch, "LanceDB": Lance}[name]()


def family(pid: int) -> Iterator[int]:
    """A process and all that it started and that still run."""
    waiting = [pid]
    while waiting:
        yield (one := waiting.pop())
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                waiting += [int(p) for p in (task / "children").read_text().split()]


def processor_s(pid: int) -> float:
    """Processor seconds that a process and those it started have taken."""
    ticks = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            after_name = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, after_name[11:15]))  # own and of ended children
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> dict[str, int]:
    """Bytes in memory of a process and those it started: own, and mapped files."""
    found = {"own": 0, "mapped": 0}
    for one in family(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        sizes = {
            line.split(":")[0]: int(line.split()[1]) * 1024
            for line in status.splitlines()
            if line.startswith("Rss")
        }
        found["own"] += sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)
        found["mapped"] += sizes.get("RssFile", 0)
    return found


def latencies(search: Search, queries: Any, seconds: float) -> tuple[list[float], list[Any]]:
    """Ask one query after the other, all once at least; returns seconds each, and the answers."""
    took: list[float] = []
    answers: list[Any] = []
    ends = time.perf_counter() + seconds
    while len(answers) < len(queries) or time.perf_counter() < ends:
        query = queries[len(took) % len(queries)]
        began = time.perf_counter()
        found = search(query)
        took.append(time.perf_counter() - began)
        if len(answers) < len(queries):
            answers.append(found)
        if time.perf_counter() > ends + 8 * seconds:  # a slow one is told by fewer queries
            break
    return took, answers


def rate(search: Search, queries: Any, seconds: float, clients: int = CLIENTS) -> float:
    """Searches a second of ``clients`` that each wait for their answer, one each at least."""
    done = [0] * clients
    ends = time.perf_counter() + seconds

    def client(place: int) -> None:
        n = place
        while not done[place] or time.perf_counter() < ends:
            search(queries[n % len(queries)])
            n += clients
            done[place] += 1

    threads = [threading.Thread(target=client, args=(place,)) for place in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def recall(answers: Sequence[Any], truth: Any) -> float:
    """The share of the true nearest that were found."""
    right = sum(
        len(set(map(int, found)) & set(near.tolist()))
        for found, near in zip(answers, truth, strict=False)
    )
    return right / (len(answers) * truth.shape[1])


def measure(engine: Engine, data: Path, seconds: float = POINT_S) -> list[dict[str, Any]]:
    """Recall, latency and rate at each effort, until recall is as good as complete."""
    queries, truth = np.load(data / "queries.npy"), np.load(data / "truth.npy")
    points = []
    for effort in engine.efforts:
        search = engine.at(effort)
        latencies(search, queries[:50], 0.0)  # the first calls read pages and make buffers
        took, answers = latencies(search, queries, seconds)
        points.append(
            {
                "effort": effort,
                "recall": round(recall(answers, truth), 4),
                "p50_ms": round(float(np.percentile(took, 50)) * 1e3, 4),
                "p99_ms": round(float(np.percentile(took, 99)) * 1e3, 4),
                "qps": round(rate(search, queries, seconds), 1),
                "queries": len(took),
            }
        )
        if points[-1]["recall"] >= 0.998:
            break
    return points


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def work(engine: Engine, verb: str, data: Path, folder: Path) -> dict[str, Any]:
    """Build, or open and measure; what is told of it."""
    if verb == "build":
        folder.mkdir(parents=True, exist_ok=True)
        base = np.load(data / "base.npy", mmap_mode="r")
        began, spent = time.perf_counter(), processor_s(os.getpid())
        engine.build(base, folder)
        return {
            "about": engine.about,
            "build_s": round(time.perf_counter() - began, 2),
            "build_cpu_s": round(processor_s(os.getpid()) - spent, 2),
            "disk_bytes": size_of(folder),
        }
    importlib.import_module(engine.module)
    before = resident(os.getpid())
    engine.open(folder)
    points = measure(engine, data)
    after = resident(os.getpid())
    return {
        "points": points,
        "own_bytes": after["own"] - before["own"],
        "mapped_bytes": after["mapped"] - before["mapped"],
    }


def main() -> None:
    """Read the command line, work, and print."""
    verb, name, data, folder, *url = sys.argv[1:]
    engine = made(name, url[0] if url else None)
    print(json.dumps(work(engine, verb, Path(data), Path(folder))), flush=True)


if __name__ == "__main__":
    main()
