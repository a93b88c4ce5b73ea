"""The file of one immutable segment: the vectors of some files of a collection, checksummed."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson

from app.errors import Unavailable
from app.retrieval.engines.base import Ids, Vectors
from app.store.durable import settle

# Little-endian: header, numbers (int64), JSON of [file id, rows] in row order, padding, vectors
# (float32). The vectors come last and aligned, so they are searched where they lie in the file.
_HEADER = struct.Struct("<8sIIQQ")  # magic, dim, bytes of the JSON, count, where the vectors begin
_MAGIC = b"OSTSEG02"
_ALIGN = 4096


@dataclass(frozen=True)
class SegmentData:
    """What a segment file holds; rows of one file are neighbours.

    Attributes:
        numbers: int64 array of shape (n,), mapped from the file.
        vectors: float32 array of shape (n, dim), mapped from the file.
        files: the file ids, in the order of their rows.
        starts: int64 array of shape (len(files) + 1,): where each file's rows begin, and n.
    """

    numbers: Ids
    vectors: Vectors
    files: tuple[str, ...]
    starts: Ids

    @cached_property
    def place(self) -> dict[str, int]:
        """The place of each file in ``files``."""
        return {file_id: place for place, file_id in enumerate(self.files)}


def starts_of(counts: Sequence[int]) -> Ids:
    """Where each file's rows begin, and their number, from the rows of each file."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def write_segment(
    path: Path,
    dim: int,
    files: Sequence[tuple[str, int]],
    numbers: Ids,
    vectors: Iterable[Vectors],
) -> tuple[str, int]:
    """Write a segment durably: complete and synced under its name, or not there.

    Args:
        files: (file id, rows), in the order of the rows.
        numbers: int64 array of shape (n,).
        vectors: float32 arrays of shape (any, dim) in row order, in pieces that fit memory.

    Returns:
        The SHA-256 and the size in bytes.
    """
    listed = orjson.dumps([[file_id, rows] for file_id, rows in files])
    count = len(numbers)
    begin = -(-(_HEADER.size + 8 * count + len(listed)) // _ALIGN) * _ALIGN
    head = _HEADER.pack(_MAGIC, dim, len(listed), count, begin)
    head += numbers.astype("<i8").tobytes() + listed
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(path.suffix + ".tmp")
    size = 0
    with draft.open("wb") as file:
        for piece in _pieces(head.ljust(begin, b"\0"), vectors):
            digest.update(piece)
            file.write(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    if size != begin + 4 * dim * count:
        draft.unlink()
        raise ValueError(f"{count} numbers came with vectors of {size - begin} bytes")
    settle(draft, path)
    return digest.hexdigest(), size


def _pieces(head: bytes, vectors: Iterable[Vectors]) -> Iterator[bytes | memoryview]:
    yield head
    for some in vectors:
        if len(some):
            yield np.ascontiguousarray(some, dtype="<f4").data.cast("B")


def checksum(path: Path) -> str:
    """The SHA-256 of a file, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_segment(path: Path, dim: int, count: int) -> SegmentData:
    """Map a segment file; only its head and the list of its files are read.

    Raises:
        Unavailable: it is missing, cut short or not the segment that the manifest names.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                raise damaged(path.name, "is cut short")
            magic, found_dim, listed_bytes, found, begin = _HEADER.unpack(head)
            if magic != _MAGIC or (found_dim, found) != (dim, count):
                raise damaged(path.name, f"holds {found} vectors of length {found_dim}")
            if os.fstat(file.fileno()).st_size != begin + 4 * dim * found:
                raise damaged(path.name, "is cut short")
            file.seek(8 * found, os.SEEK_CUR)
            listed = orjson.loads(file.read(listed_bytes))
            if found:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                numbers: Ids = np.frombuffer(mapped, "<i8", found, _HEADER.size)
                flat = np.frombuffer(mapped, "<f4", found * dim, begin)
            else:
                numbers, flat = np.empty(0, np.int64), np.empty(0, np.float32)
    except FileNotFoundError as error:
        raise damaged(path.name, "is missing") from error
    starts = starts_of([rows for _, rows in listed])
    return SegmentData(numbers, flat.reshape(found, dim), tuple(f for f, _ in listed), starts)


def damaged(name: str, what: str) -> Unavailable:
    """The error of a segment that cannot be used."""
    return Unavailable(
        f"Vector segment '{name}' {what}. Restore it from a backup, or index the "
        "collection's files again.",
        code="segment_damaged",
    )
