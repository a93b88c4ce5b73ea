"""Vectors in this process: immutable segments on disk, searched side by side with FAISS."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.ids import new_id
from app.retrieval.engines import recipes
from app.retrieval.engines.arrays import NOTHING, best_of, checked, checked_query
from app.retrieval.engines.base import EngineState, Files, Ids, SegmentInfo, Vectors
from app.retrieval.engines.segment import Segment
from app.retrieval.engines.segment_file import (
    checksum,
    damaged,
    map_segment,
    starts_of,
    write_segment,
)
from app.store.durable import settle, sync

TIER = 8  # so many segments of one size are merged into one of the next
MOST_VECTORS = 1 << 20  # of a merged segment; larger collections have several
DEAD_SHARE = 0.2  # from here on a segment is written anew without its removed files
_VECTORS, _INDEX = ".vec", ".idx"


class FaissEngine:
    """The vectors of one collection.

    Searches read one tuple of segments and never wait; a change replaces the tuple. Files are
    written by ``write`` and ``merge`` only; which of them count is told by the caller's manifest,
    so a crash leaves at worst a file that no manifest names.

    Args:
        folder: a local path or any fsspec URL.
        dim: length of the vectors.
        recall_target: recall@10 that the search effort of indexed segments is tuned to.
        recipe: ``auto``, or how every segment above 20,000 vectors is indexed.
        cache: where segments of a remote ``folder`` are mapped from.
        storage_options: credentials and the like for the fsspec file system.
    """

    def __init__(
        self,
        folder: str,
        dim: int,
        recall_target: float = 0.95,
        *,
        recipe: str = "auto",
        cache: Path | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        recipes.plan(0, recipe)  # refuses an unknown one
        self.dim, self.recall_target, self.recipe = dim, recall_target, recipe
        self._fs, self._root = url_to_fs(str(folder), **(storage_options or {}))
        self._remote = not isinstance(self._fs, LocalFileSystem)
        if self._remote and cache is None:
            raise ValueError("a remote folder needs a local cache folder")
        self._folder = cache if self._remote and cache is not None else Path(self._root)
        self._segments: tuple[Segment, ...] = ()
        self._changing = threading.Lock()

    # -- searching ----------------------------------------------------------------------

    @property
    def count(self) -> int:
        return sum(s.live for s in self._segments)

    def search(self, vector: Vectors, k: int, files: Files | None = None) -> tuple[Ids, Vectors]:
        """See :class:`VectorEngine`.

        Raises:
            ValueError: the vector is not finite or not of length ``dim``.
        """
        query = checked_query(vector, self.dim)
        if k < 1 or (files is not None and not files):
            return NOTHING
        parts = [s.search(query, k, files) for s in self._segments if s.live]
        return parts[0] if len(parts) == 1 else best_of(parts, k)

    def vectors_of(self, file_id: str) -> tuple[Ids, Vectors]:
        """See :class:`VectorEngine`."""
        found = [part for s in self._segments if (part := s.vectors_of(file_id)) is not None]
        if not found:
            return np.empty(0, np.int64), np.empty((0, self.dim), np.float32)
        return np.concatenate([n for n, _ in found]), np.concatenate([v for _, v in found])

    def state(self) -> EngineState:
        """See :class:`VectorEngine`; the recall is the mean over vectors, exact ones count as 1.

        In memory are the indexes, and the vectors of segments that are scanned. Those that an
        index is refined with, and all numbers, are read where a search finds something.
        """
        segments = self._segments
        total = sum(s.info.count for s in segments)
        recall = sum(s.info.recall * s.info.count for s in segments) / total if total else None
        return EngineState(
            engine="faiss",
            recipes=tuple(sorted({s.info.recipe for s in segments})),
            vectors=self.count,
            memory_bytes=sum(s.info.index_bytes or s.info.bytes for s in segments),
            disk_bytes=sum(s.info.bytes + s.info.index_bytes for s in segments),
            recall_target=self.recall_target,
            recall=None if recall is None else round(recall, 4),
        )

    # -- changing -----------------------------------------------------------------------

    def write(self, file_id: str, numbers: Ids, vectors: Vectors) -> SegmentInfo:
        """See :class:`VectorEngine`: one new segment, durable, not yet found."""
        numbers, vectors = checked(numbers, vectors, self.dim)
        return self._write([(file_id, len(numbers))], numbers, [vectors])

    def write_many(
        self, files: Sequence[tuple[str, int]], numbers: Ids, vectors: Vectors
    ) -> SegmentInfo:
        """Write many files as one segment, indexed at once: for bulk loads.

        Args:
            files: (file id, rows), each id once, in the order of the rows.

        Raises:
            ValueError: as ``write``.
        """
        numbers, vectors = checked(numbers, vectors, self.dim)
        return self._indexed(self._write(files, numbers, [vectors]))

    def publish(self, info: SegmentInfo | None) -> None:
        """See :class:`VectorEngine`.

        Raises:
            Unavailable: the segment is missing or damaged.
        """
        assert info is not None
        opened = self._open(info)
        with self._changing:
            self._segments = (*self._segments, opened)

    def remove(self, file_id: str) -> None:
        """See :class:`VectorEngine`."""
        with self._changing:
            self._segments = tuple(s.without(file_id) for s in self._segments)

    def load(self, infos: Sequence[SegmentInfo], removed: Sequence[tuple[str, int]] = ()) -> None:
        """Replace what is searched by the segments of a manifest, verifying each.

        Args:
            removed: (file id, version) of removals; one counts for the segments whose version
                is below its own.

        Raises:
            Unavailable: a segment is missing or damaged; what was searched stays.
        """
        known = {s.info.name: s for s in self._segments}

        def open_one(info: SegmentInfo) -> Segment:
            mapped = known.get(info.name)
            if mapped is None:
                segment = self._open(info, verify=True)
            else:  # immutable, so what is mapped is what the manifest names
                segment = Segment(info, mapped.data, mapped.index)
            for file_id, version in removed:
                if version > info.version:
                    segment = segment.without(file_id)
            return segment

        with ThreadPoolExecutor(2) as pool:
            opened = tuple(pool.map(open_one, infos))
        with self._changing:
            self._segments = opened

    # -- merging ------------------------------------------------------------------------

    def due(self) -> list[Segment]:
        """The segments that should be merged now: many of one size, or one with much removed."""
        tiers: dict[int, list[Segment]] = {}
        for segment in self._segments:
            if segment.info.count - segment.live > DEAD_SHARE * segment.info.count:
                return [segment]
            if segment.info.count <= MOST_VECTORS // 2:
                tier = int(np.log(max(segment.info.count, 1)) / np.log(TIER) + 1e-9)
                tiers.setdefault(tier, []).append(segment)
        for _, found in sorted(tiers.items()):
            if len(found) >= TIER:
                return _fitting(found)
        return []

    def merge(self, segments: Sequence[Segment]) -> SegmentInfo | None:
        """Write one segment with what lives in several, indexed by its size and tuned.

        Returns None when nothing lives in them. The old files stay.
        """
        rows: dict[str, list[tuple[Segment, int, int]]] = {}
        for segment in segments:
            for file_id, a, b in segment.live_files():
                rows.setdefault(file_id, []).append((segment, a, b))
        ranges = [r for found in rows.values() for r in found]
        if not ranges:
            return None
        files = [(f, sum(b - a for _, a, b in found)) for f, found in rows.items()]
        numbers = np.concatenate([s.data.numbers[a:b] for s, a, b in ranges])
        pieces = (s.data.vectors[a:b] for s, a, b in ranges)
        return self._indexed(self._write(files, numbers, pieces))

    def swap(self, old: Sequence[Segment], merged: SegmentInfo | None) -> None:
        """Search the merged segment in place of those it was made from.

        Files that were removed since ``old`` was taken are removed from it too.
        """
        then = {s.info.name: s for s in old}
        made = None if merged is None else self._open(merged)
        with self._changing:
            kept = []
            for segment in self._segments:
                before = then.get(segment.info.name)
                if before is None:
                    kept.append(segment)
                elif made is not None:
                    for place in segment.dead - before.dead:
                        made = made.without(segment.data.files[place])
            self._segments = tuple(kept) if made is None else (*kept, made)

    # -- files --------------------------------------------------------------------------

    def segment_names(self) -> list[str]:
        """The segments whose files are present, named by a manifest or not."""
        if not self._fs.exists(self._root):
            return []
        paths = self._fs.ls(self._root, detail=False, refresh=True)
        names = (str(path).rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if name.endswith(_VECTORS))

    def delete_segment(self, name: str) -> None:
        """Delete the files of a segment that no manifest names any more."""
        for file in (name, _index_name(name)):
            path = f"{self._root}/{file}"
            if self._fs.exists(path):
                self._fs.rm_file(path)
            if self._remote:
                (self._folder / file).unlink(missing_ok=True)

    def sweep(self, named: Collection[str], older_than_s: float) -> None:
        """Delete segments that no manifest names and that nobody can be about to name."""
        for name in self.segment_names():
            if name not in named and time.time() - _made_at(name) >= older_than_s:
                self.delete_segment(name)

    def destroy(self) -> None:
        """See :class:`VectorEngine`."""
        with self._changing:
            self._segments = ()
        for name in self.segment_names():
            self.delete_segment(name)

    def _write(
        self,
        files: Sequence[tuple[str, int]],
        numbers: Ids,
        vectors: Iterable[Vectors],
    ) -> SegmentInfo:
        if int(starts_of([rows for _, rows in files])[-1]) != len(numbers):
            raise ValueError("the rows of the files do not add up to the numbers")
        name = new_id("seg_") + _VECTORS
        digest, size = write_segment(self._folder / name, self.dim, files, numbers, vectors)
        self._upload(name)
        return SegmentInfo(name, len(numbers), self.dim, digest, size)

    def _indexed(self, info: SegmentInfo) -> SegmentInfo:
        """Build, tune and write the index of a written segment if its size asks for one."""
        import faiss

        tried = recipes.plan(info.count, self.recipe)
        if tried == ("flat",):
            return info
        vectors = map_segment(self._folder / info.name, self.dim, info.count).vectors
        # codes that were too coarse for a segment are too coarse for this one, more or less
        used = {s.info.recipe for s in self._segments}
        first = max((i for i, recipe in enumerate(tried) if recipe in used), default=0)
        recipe, index, tuning = recipes.chosen(tried[first:], vectors, self.recall_target)
        path = self._folder / _index_name(info.name)
        draft = path.with_suffix(path.suffix + ".tmp")
        faiss.write_index(index, str(draft))
        sync(draft)
        size, digest = draft.stat().st_size, checksum(draft)
        settle(draft, path)
        self._upload(path.name)
        return replace(
            info,
            recipe=recipe,
            index_bytes=size,
            index_sha256=digest,
            effort=tuning.effort,
            recall=tuning.recall,
        )

    def _open(self, info: SegmentInfo, verify: bool = False) -> Segment:
        path = self._fetched(info.name)
        if info.dim != self.dim:
            raise damaged(info.name, f"holds vectors of length {info.dim}, not {self.dim}")
        if verify and path.exists() and checksum(path) != info.sha256:
            raise damaged(info.name, "is damaged: its checksum differs from the recorded one")
        data = map_segment(path, self.dim, info.count)
        if info.recipe == "flat":
            return Segment(info, data)
        import faiss

        path = self._fetched(_index_name(info.name))
        if not path.exists():
            raise damaged(path.name, "is missing")
        if verify and checksum(path) != info.index_sha256:
            raise damaged(path.name, "is damaged: its checksum differs from the recorded one")
        return Segment(info, data, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))

    def _fetched(self, name: str) -> Path:
        """The local path of a file of this collection, brought here if it is remote."""
        path = self._folder / name
        if self._remote and not path.exists() and self._fs.exists(f"{self._root}/{name}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f"{name}.{new_id('get_')}.tmp")
            self._fs.get_file(f"{self._root}/{name}", str(draft))
            draft.replace(path)
        return path

    def _upload(self, name: str) -> None:
        if self._remote:  # object stores show whole objects only
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.put_file(str(self._folder / name), f"{self._root}/{name}")


def _fitting(segments: list[Segment]) -> list[Segment]:
    """The first of ``segments`` that make one of at most ``MOST_VECTORS``."""
    taken: list[Segment] = []
    total = 0
    for segment in segments:
        if taken and total + segment.live > MOST_VECTORS:
            break
        taken.append(segment)
        total += segment.live
    return taken


def _index_name(segment: str) -> str:
    return segment.removesuffix(_VECTORS) + _INDEX


def _made_at(segment: str) -> float:
    """When a segment was written, Unix seconds: its name is a UUIDv7."""
    try:
        return int(segment.removeprefix("seg_")[:12], 16) / 1e3
    except ValueError:
        return 0.0
