"""Vectors in Milvus: one collection of a Lite file, a server or a cluster."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from app.errors import OstiaryError, Unavailable
from app.retrieval.engines.arrays import NOTHING, best_of, checked, checked_query
from app.retrieval.engines.base import AllBut, EngineState, Files, Ids, Vectors
from app.retrieval.engines.milvus_link import MilvusLink
from app.retrieval.engines.milvus_schema import BUILD, FILE_ID_BYTES, open_collection

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

# Which search parameter of a kind of index trades time for recall.
_EFFORT = {
    "HNSW": ("ef", (16, 32, 64, 128, 256, 512, 1024)),
    "IVF_FLAT": ("nprobe", (4, 8, 16, 32, 64, 128, 256, 512, 1024)),
    "IVF_SQ8": ("nprobe", (4, 8, 16, 32, 64, 128, 256, 512, 1024)),
    "DISKANN": ("search_list", (16, 32, 64, 128, 256, 512)),
}
_START = 128  # effort until one was measured
_MOST_HITS = 16_384  # Milvus refuses to return more
_FILES_AT_ONCE = 4_096  # of one filter expression: 5,000 ids are parsed in about 40 ms
_BATCH_BYTES = 8 << 20
_INDEXED_ROWS = 1_024  # Milvus builds no index for a smaller sealed segment
_SEAL_ROWS = 10_000  # unsealed rows are compared one by one: exact, and quick so far
_SEAL_ROWS_LITE = 1_000  # Lite compares unsealed rows one by one in Python
_SEAL_SHARE = 0.25  # new rows, of the sealed ones, that are sealed and indexed
_HELD, _NEAREST = 200, 10
_EXACT_ROWS = 100_000  # recall is measured against exact search up to here
_PROPERTY = "ostiary.search"


class MilvusEngine:
    """The vectors of one collection; connects at the first call.

    Searches take what Milvus has consumed and never wait for a write ("Eventually"); ``publish``
    and ``remove`` wait instead, with one "Strong" read, until every process finds the change.
    With "Strong" or "Session" searches each one beside a writer would wait for Milvus's next time
    tick: 200 ms where 3 ms are enough.

    Vectors that were written are sealed and indexed when they have grown by a quarter; at each
    doubling the search effort is measured on stored vectors and the least that reaches the recall
    target is kept with the collection, so that other processes use it too.

    Args:
        uri: the path of a Milvus Lite file (``.db``), or ``http(s)://host:port[/database]``.
        collection: letters, digits and underscores; made when it does not exist.
        dim: length of the vectors.
        token: ``user:password`` or an API key.
        recall_target: recall@10 that the search effort is tuned to.
        index: HNSW, IVF_FLAT, IVF_SQ8 or FLAT, for a new collection; an existing one keeps its
            own. Lite always has FLAT.
        timeout_s: seconds one call may take, retries included.

    Raises:
        BadRequest: the URI is not one.
    """

    def __init__(
        self,
        uri: str,
        collection: str,
        dim: int,
        *,
        token: str | None = None,
        recall_target: float = 0.95,
        index: str = "HNSW",
        timeout_s: float = 10.0,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", collection):
            raise ValueError(f"not a name for a Milvus collection: {collection[:80]!r}")
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if index not in BUILD:
            raise ValueError(f"index must be one of {', '.join(BUILD)}, got {index!r}")
        self.dim, self.recall_target = dim, recall_target
        self._link = MilvusLink(uri, token, timeout_s)
        self._lite_folder = Path(uri) if self._link.lite else None
        self._name = collection
        self._timeout = timeout_s
        self._opening = threading.Lock()
        self._ready = False
        self._index = "FLAT" if self._link.lite else index
        self._effort = _START
        self._recall: float | None = None
        self._sealed = self._measured_at = 0  # rows then
        self._unsealed_lite = 0

    # -- searching ----------------------------------------------------------------------

    @property
    def count(self) -> int:
        return self._count("Eventually")

    def search(self, vector: Vectors, k: int, files: Files | None = None) -> tuple[Ids, Vectors]:
        """See :class:`VectorEngine`; at most 16,384 are returned.

        Raises:
            ValueError: the vector is not finite or not of length ``dim``.
            Unavailable: Milvus cannot be reached or refuses.
        """
        query = checked_query(vector, self.dim)
        if k < 1 or (files is not None and not files):
            return NOTHING
        k = min(k, _MOST_HITS)
        self._open()
        parts = [self._nearest([query], k, f, self._effort)[0] for f in _filters(files)]
        return best_of(parts, k)

    def vectors_of(self, file_id: str) -> tuple[Ids, Vectors]:
        """See :class:`VectorEngine`."""
        pages = []
        if _storable(file_id):
            self._open()
            pages = list(self._pages(next(_filters([file_id]))))
        if not pages:
            return np.empty(0, np.int64), np.empty((0, self.dim), np.float32)
        return np.concatenate([n for n, _ in pages]), np.concatenate([v for _, v in pages])

    def state(self) -> EngineState:
        """See :class:`VectorEngine`.

        A server's memory and disk are its own affair and given as 0; a Lite file's are told.
        """
        vectors = self.count  # opens the collection, so that the rest is known
        parameter = _EFFORT.get(self._index)
        recipe = self._index.lower() + (f" {parameter[0]}={self._effort}" if parameter else "")
        disk = 0
        if self._lite_folder is not None:
            disk = sum(p.stat().st_size for p in self._lite_folder.rglob("*") if p.is_file())
        return EngineState(
            engine="milvus",
            recipes=(recipe,),
            vectors=vectors,
            memory_bytes=0,
            disk_bytes=disk,
            recall_target=self.recall_target,
            recall=1.0 if self._index == "FLAT" else self._recall,
        )

    def _nearest(
        self, queries: Sequence[Vectors], k: int, where: str, effort: int
    ) -> list[tuple[Ids, Vectors]]:
        params: dict[str, int] = {}
        if self._index in _EFFORT:
            name = _EFFORT[self._index][0]
            # graph searches must visit at least as many as they return
            params[name] = effort if name == "nprobe" else max(effort, k)
        found = self._ask(
            "search",
            lambda client: client.search(
                self._name,
                data=list(queries),
                anns_field="vector",
                limit=k,
                filter=where,
                search_params={"metric_type": "IP", "params": params},
                consistency_level="Eventually",
                timeout=self._timeout,
            ),
        )
        return [
            (np.array(hits.ids, dtype=np.int64), np.array(hits.distances, dtype=np.float32))
            for hits in found
        ]

    # -- changing -----------------------------------------------------------------------

    def write(self, file_id: str, numbers: Ids, vectors: Vectors) -> None:
        """See :class:`VectorEngine`; a file id is printable and at most 512 bytes of UTF-8."""
        numbers, vectors = checked(numbers, vectors, self.dim)
        if not _storable(file_id):
            raise ValueError("a file id must be printable and of 1 to 512 bytes")
        self._open()
        step = max(1, _BATCH_BYTES // (4 * self.dim))
        for start in range(0, len(numbers), step):
            batch = slice(start, start + step)
            pairs = zip(numbers[batch].tolist(), vectors[batch], strict=True)
            rows = [{"number": n, "file_id": file_id, "vector": v} for n, v in pairs]
            self._ask(
                "write vectors",
                lambda c, rows=rows: c.upsert(  # type: ignore[misc]
                    self._name, rows, timeout=6 * self._timeout
                ),
            )
        self._unsealed_lite += len(numbers)

    def publish(self, info: object = None) -> None:
        """Wait until every process finds what was written; now and then seal and measure it."""
        self._open()
        rows = 0 if self._link.lite else self._count("Strong")  # Lite shows a write at once
        try:
            self._seal(rows)
        except Unavailable as error:  # the vectors are found all the same
            log.warning("the collection could not be sealed now, the next file will: %s", error)

    def _seal(self, rows: int) -> None:
        if self._link.lite:
            if self._unsealed_lite >= _SEAL_ROWS_LITE:
                self._flush()
                self._unsealed_lite = 0
        elif rows - self._sealed >= max(_SEAL_ROWS, _SEAL_SHARE * self._sealed):
            self._flush()
            self._sealed = rows
            self.measure()
        elif self._measured_at < self._sealed // 2:  # the index was not ready then
            self.measure(wait_s=0)

    def remove(self, file_id: str) -> None:
        """See :class:`VectorEngine`."""
        if not _storable(file_id):
            return
        self._open()
        where = next(_filters([file_id]))
        self._ask(
            "remove vectors",
            lambda client: client.delete(
                self._name, filter=where, consistency_level="Strong", timeout=6 * self._timeout
            ),
        )
        if not self._link.lite:
            self._count("Strong")

    def destroy(self) -> None:
        """See :class:`VectorEngine`."""

        def drop(client: MilvusClient) -> None:
            if client.has_collection(self._name, timeout=self._timeout):
                client.drop_collection(self._name, timeout=self._timeout)

        with self._opening:
            self._link.ask("delete the collection", drop)
            self._ready = False

    # -- tuning -------------------------------------------------------------------------

    def measure(self, wait_s: float = 30.0) -> None:
        """Choose the least search effort whose recall@10 reaches the target, and keep it.

        The queries are 200 stored vectors, each not counted among its own neighbours; their true
        neighbours come from an exact search by NumPy up to 100,000 vectors, and from the greatest
        effort above. Does nothing unless the collection has doubled since the last time, or when
        Milvus has not indexed what was sealed within ``wait_s`` seconds.
        """
        self._open()
        rows = self._sealed
        if self._index not in _EFFORT or rows < _SEAL_ROWS or rows < 2 * self._measured_at:
            return
        deadline = time.monotonic() + wait_s
        while not self._indexed():
            if time.monotonic() >= deadline:
                return
            time.sleep(0.25)
        held, queries = self._held(rows)
        efforts = _EFFORT[self._index][1]
        if rows <= _EXACT_ROWS:
            truth = self._exact(held, queries)
        else:
            truth = [numbers for numbers, _ in self._neighbours(held, queries, efforts[-1])]
        effort, recall = efforts[-1], 0.0
        # a quarter of the way to 1 above the target: the sample is not the future
        aim = self.recall_target + 0.25 * (1 - self.recall_target)
        for effort in efforts:
            found = self._neighbours(held, queries, effort)
            shares = [
                len(np.intersect1d(n, t)) / min(_NEAREST, len(t))
                for (n, _), t in zip(found, truth, strict=True)
                if len(t)
            ]
            recall = float(np.mean(shares)) if shares else 1.0
            if recall >= aim:
                break
        self._effort, self._recall, self._measured_at = effort, round(recall, 4), rows
        kept = {"effort": effort, "recall": self._recall, "rows": rows}
        try:
            self._ask(
                "keep the search effort",
                lambda client: client.alter_collection_properties(
                    self._name, {_PROPERTY: json.dumps(kept)}, timeout=self._timeout
                ),
            )
        except OstiaryError as error:  # this process still has it
            log.warning("the search effort could not be kept with the collection: %s", error)

    def _indexed(self) -> bool:
        """Whether all that is sealed is indexed and is what searches use."""

        def ask(client: MilvusClient) -> bool:
            index = client.describe_index(self._name, "vector", timeout=self._timeout)
            if int(index.get("pending_index_rows", 0)):
                return False
            segments = client.list_loaded_segments(self._name, timeout=self._timeout)
            sealed = [s for s in segments if s.state_name == "Sealed"]
            if any(s.num_rows >= _INDEXED_ROWS and not s.index_name for s in sealed):
                return False
            return bool(sum(s.num_rows for s in sealed) >= int(index.get("total_rows", 0)))

        return self._ask("describe its index", ask)

    def _held(self, rows: int) -> tuple[Ids, Vectors]:
        """Stored vectors from all over the numbers, to serve as queries."""
        every = max(1, rows // _HELD)
        found = self._ask(
            "read vectors",
            lambda client: client.query(
                self._name,
                filter=f"number % {every} == {every // 2}",
                output_fields=["number", "vector"],
                limit=_HELD,
                consistency_level="Eventually",
                timeout=6 * self._timeout,
            ),
        )
        return _rows(found, self.dim)

    def _neighbours(
        self, held: Ids, queries: Vectors, effort: int
    ) -> Iterator[tuple[Ids, Vectors]]:
        found = self._nearest(list(queries), _NEAREST + 1, "", effort)
        for own, (numbers, scores) in zip(held, found, strict=True):
            others = numbers != own
            yield numbers[others][:_NEAREST], scores[others][:_NEAREST]

    def _exact(self, held: Ids, queries: Vectors) -> list[Ids]:
        """The true neighbours, and with them those that are as near as the tenth."""
        numbers = np.empty((len(held), 0), np.int64)
        scores = np.empty((len(held), 0), np.float32)
        for some, vectors in self._pages():
            near = queries @ vectors.T
            near[held[:, None] == some[None, :]] = -np.inf
            numbers = np.hstack([numbers, np.broadcast_to(some, near.shape)])
            scores = np.hstack([scores, near])
            best = np.argsort(-scores, axis=1)[:, : 2 * _NEAREST]
            numbers = np.take_along_axis(numbers, best, axis=1)
            scores = np.take_along_axis(scores, best, axis=1)
        tenth = scores[:, min(_NEAREST, scores.shape[1]) - 1] if scores.shape[1] else scores
        return [n[s >= t - 1e-6] for n, s, t in zip(numbers, scores, tenth, strict=True)]

    def _pages(self, where: str = "") -> Iterator[tuple[Ids, Vectors]]:
        pages = self._ask(
            "read vectors",
            lambda client: client.query_iterator(
                self._name,
                filter=where,
                batch_size=2_000,
                output_fields=["number", "vector"],
                timeout=6 * self._timeout,
            ),
        )
        try:
            while page := self._ask("read vectors", lambda _: pages.next()):
                yield _rows(page, self.dim)
        finally:
            pages.close()

    # -- the collection -----------------------------------------------------------------

    def _ask(self, doing: str, call: Callable[[MilvusClient], Answer]) -> Answer:
        try:
            return self._link.ask(doing, call)
        except Unavailable as error:
            if error.code == "milvus_collection_missing":
                self._ready = False
            raise

    def _count(self, consistency: str) -> int:
        self._open()
        rows = self._ask(
            "count vectors",
            lambda client: client.query(
                self._name,
                output_fields=["count(*)"],
                consistency_level=consistency,
                timeout=self._timeout,
            ),
        )
        return int(rows[0]["count(*)"])

    def _flush(self) -> None:
        self._ask("seal", lambda client: client.flush(self._name, timeout=6 * self._timeout))

    def _open(self) -> None:
        if self._ready:
            return
        with self._opening:
            if not self._ready:
                self._link.ask("open the collection", self._opened)
                self._ready = True

    def _opened(self, client: MilvusClient) -> None:
        opened = open_collection(
            client, self._link.name, self._name, self.dim, self._index, self._timeout
        )
        self._index = opened.index
        kept = json.loads(opened.properties.get(_PROPERTY, "{}"))
        if kept:
            self._effort, self._recall = int(kept["effort"]), float(kept["recall"])
            self._sealed = self._measured_at = int(kept["rows"])


def _storable(file_id: str) -> bool:
    """Whether a file id can be stored; then JSON's escapes are also Milvus's."""
    return file_id.isprintable() and 1 <= len(file_id.encode()) <= FILE_ID_BYTES


def _filters(files: Files | None) -> Iterator[str]:
    """Filter expressions that together allow the files; each of bounded length."""
    if files is None:
        yield ""
        return
    if isinstance(files, AllBut):
        yield " and ".join(f"file_id not in {some}" for some in _lists(files.hidden))
        return
    for some in _lists(files):
        yield f"file_id in {some}"


def _lists(files: Collection[str]) -> Iterator[str]:
    known = sorted({f for f in files if _storable(f)})
    for start in range(0, len(known), _FILES_AT_ONCE):
        yield json.dumps(known[start : start + _FILES_AT_ONCE], ensure_ascii=False)


def _rows(found: Sequence[dict[str, Any]], dim: int) -> tuple[Ids, Vectors]:
    numbers = np.array([row["number"] for row in found], dtype=np.int64)
    vectors = np.array([row["vector"] for row in found], dtype=np.float32)
    return numbers, vectors.reshape(len(found), dim)
