"""Exact vector search in this process, over immutable segment files."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import Unavailable
from app.ids import new_id
from app.retrieval.engines.base import Ids, SegmentInfo, Vectors
from app.retrieval.engines.lock import ReadWriteLock

# A segment file: magic, dim, count, then the ids and the vectors, all little-endian.
_HEADER = struct.Struct("<8sIQ")
_MAGIC = b"OSTSEG01"
# A bitmap answers fastest, but weighs one bit for every id up to the largest.
_BITMAP_MAX_ID = 1 << 28


class FaissEngine:
    """The vectors of one collection.

    Files are only written by ``write_segment`` and ``merge``; which of them count is told by the
    caller's manifest, so a crash leaves at worst a file that no manifest names.

    Args:
        folder: a local path or any fsspec URL.
        dim: length of the vectors.
        storage_options: credentials and the like for the fsspec file system.
    """

    def __init__(
        self, folder: str, dim: int, storage_options: dict[str, Any] | None = None
    ) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self._fs, self._root = url_to_fs(str(folder), **(storage_options or {}))
        self._local = isinstance(self._fs, LocalFileSystem)
        self._lock = ReadWriteLock()
        self._index = self._empty()

    # -- the index in memory ------------------------------------------------------------

    def _empty(self) -> Any:
        import faiss

        return faiss.IndexIDMap2(faiss.IndexFlatIP(self.dim))

    @property
    def count(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add vectors; a known id gets its new vector.

        Raises:
            ValueError: wrong shape, a repeated or negative id, or a value that is not finite.
        """
        ids, vectors = self._checked(ids, vectors)
        if not len(ids):
            return
        with self._lock.write():
            if self._index.ntotal:
                self._index.remove_ids(ids)
            self._index.add_with_ids(vectors, ids)

    def remove(self, ids: Ids) -> None:
        """Forget ids; unknown ones are ignored."""
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        with self._lock.write():
            if len(ids) and self._index.ntotal:
                self._index.remove_ids(ids)

    def search(self, query: Vectors, k: int, allowed: Ids | None = None) -> tuple[Ids, Vectors]:
        """Return the ids and inner products of the at most ``k`` nearest, best first.

        Raises:
            ValueError: the query is not a finite vector of length ``dim``.
        """
        import faiss

        row = np.ascontiguousarray(query, dtype=np.float32)
        if row.shape != (self.dim,) or not np.isfinite(row).all():
            raise ValueError(f"query must be a finite vector of length {self.dim}")
        if k < 1 or (allowed is not None and not len(allowed)):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        parameters = None
        if allowed is not None:
            parameters = faiss.SearchParameters(sel=_selector(allowed))  # type: ignore[call-arg]
        with self._lock.read():
            k = min(k, self.count)
            if k == 0:
                return np.empty(0, np.int64), np.empty(0, np.float32)
            scores, ids = self._index.search(row[None, :], k, params=parameters)
        found = ids[0] >= 0  # FAISS fills up with -1
        return ids[0][found], scores[0][found]

    def _checked(self, ids: Ids, vectors: Vectors) -> tuple[Ids, Vectors]:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        if vectors.shape != (len(ids), self.dim) or ids.ndim != 1:
            raise ValueError(
                f"need ids of shape (n,) and vectors of shape (n, {self.dim}), "
                f"got {ids.shape} and {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("vectors hold a value that is not finite")
        if len(ids) and ids.min() < 0:
            raise ValueError("ids must be at least 0")
        if len(np.unique(ids)) != len(ids):
            raise ValueError("ids must not repeat within one call")
        return ids, vectors

    # -- the segments on disk -----------------------------------------------------------

    def write_segment(self, ids: Ids, vectors: Vectors) -> SegmentInfo:
        """Write a new segment durably; it is found by search only after ``add`` or ``load``.

        Raises:
            ValueError: as ``add``.
        """
        ids, vectors = self._checked(ids, vectors)
        header = _HEADER.pack(_MAGIC, self.dim, len(ids))
        parts = [header, ids.astype("<i8").tobytes(), vectors.astype("<f4").tobytes()]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        name = new_id("seg_") + ".vec"
        self._write(name, parts)
        size = sum(len(part) for part in parts)
        return SegmentInfo(name, len(ids), self.dim, digest.hexdigest(), size)

    def load(self, segments: Iterable[SegmentInfo], live_ids: Ids | None = None) -> None:
        """Replace what is in memory by the segments, verifying each; later ones win.

        Args:
            segments: what the manifest names, oldest first.
            live_ids: keep only these ids; all where None.

        Raises:
            Unavailable: a segment is missing or damaged; memory is left as it was.
        """
        index = self._empty()
        for ids, vectors in self._latest(segments, live_ids):
            index.add_with_ids(vectors, ids)
        with self._lock.write():
            self._index = index

    def merge(self, segments: Iterable[SegmentInfo], live_ids: Ids) -> SegmentInfo:
        """Write one segment with the live vectors of several; the old files stay.

        Raises:
            Unavailable: a segment is missing or damaged.
        """
        parts = list(self._latest(segments, live_ids))
        ids = [part[0] for part in parts] or [np.empty(0, np.int64)]
        vectors = [part[1] for part in parts] or [np.empty((0, self.dim), np.float32)]
        return self.write_segment(np.concatenate(ids), np.concatenate(vectors))

    def delete_segment(self, name: str) -> None:
        """Delete a segment file that no manifest names any more."""
        path = self._path(name)
        if self._fs.exists(path):
            self._fs.rm_file(path)

    def segment_names(self) -> list[str]:
        """Return the names of the segment files present, named by a manifest or not."""
        if not self._fs.exists(self._root):
            return []
        paths = self._fs.ls(self._root, detail=False, refresh=True)
        names = (str(path).rsplit("/", 1)[-1] for path in paths)
        return sorted(name for name in names if name.endswith(".vec"))

    def _latest(
        self, segments: Iterable[SegmentInfo], live_ids: Ids | None
    ) -> Iterator[tuple[Ids, Vectors]]:
        """Yield what each segment still contributes, newest first."""
        live = None if live_ids is None else np.unique(np.asarray(live_ids, dtype=np.int64))
        seen = np.empty(0, np.int64)
        for segment in reversed(list(segments)):
            ids, vectors = self._read(segment)
            keep = ~np.isin(ids, seen)
            if live is not None:
                keep &= np.isin(ids, live)
            seen = np.concatenate([seen, ids[keep]])
            if keep.all():
                yield ids, vectors
            elif keep.any():
                yield ids[keep], vectors[keep]

    def _read(self, segment: SegmentInfo) -> tuple[Ids, Vectors]:
        try:
            data = self._fs.cat_file(self._path(segment.name))
        except FileNotFoundError as error:
            raise _damaged(segment, "is missing") from error
        if hashlib.sha256(data).hexdigest() != segment.sha256:
            raise _damaged(segment, "is damaged: its checksum differs from the recorded one")
        magic, dim, count = _HEADER.unpack_from(data)
        if magic != _MAGIC or dim != self.dim or count != segment.count:
            raise _damaged(segment, f"holds {count} vectors of length {dim}, not as recorded")
        ids = np.frombuffer(data, "<i8", count, _HEADER.size)
        vectors = np.frombuffer(data, "<f4", count * dim, _HEADER.size + 8 * count)
        return ids.astype(np.int64), vectors.astype(np.float32).reshape(count, dim)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, name: str, parts: list[bytes]) -> None:
        path = self._path(name)
        if not self._local:
            self._fs.pipe_file(path, b"".join(parts))  # object stores show whole objects only
            return
        import os
        from pathlib import Path

        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        draft = final.with_suffix(".tmp")
        with draft.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(final)
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)


def _damaged(segment: SegmentInfo, what: str) -> Unavailable:
    return Unavailable(
        f"Vector segment '{segment.name}' {what}. Restore it from a backup, or index the "
        "collection's files again.",
        code="segment_damaged",
    )


def _selector(allowed: Ids) -> Any:
    import faiss

    ids: NDArray[np.int64] = np.unique(np.ascontiguousarray(allowed, dtype=np.int64))
    ids = ids[ids >= 0]
    largest = int(ids[-1]) if len(ids) else 0
    if len(ids) > 64 and largest < min(_BITMAP_MAX_ID, 64 * 8 * len(ids)):
        bits = np.zeros(largest // 8 + 1, dtype=np.uint8)
        np.bitwise_or.at(bits, ids // 8, (1 << (ids % 8)).astype(np.uint8))
        return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg,arg-type]
    return faiss.IDSelectorBatch(ids)
