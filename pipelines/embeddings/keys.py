"""The address of a passage's vector by its content, and files of sorted addresses.

A keys file is: 8 bytes ``OSTKEYS1``, the number of buckets B and of keys n as little-endian
unsigned 64-bit, B + 1 such positions (bucket b holds keys[positions[b]:positions[b + 1]]),
n keys of 32 bytes in ascending order, n row numbers as little-endian unsigned 32-bit. One
bucket is two ranged reads, so that a key is found among billions without reading the others.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import Unavailable
from pipelines.embeddings.storage import Folder

KEY_BYTES = 32
_MAGIC = b"OSTKEYS1"
_HEAD = len(_MAGIC) + 16

Keys = NDArray[np.uint64]  # shape (n, 4), big-endian words of the digests in native order


def key(fingerprint: str, prefix: str, text: str) -> bytes:
    """Return the SHA-256 of what alone decides a passage's vector: model, prefix and text."""
    digest = hashlib.sha256()
    for part in (fingerprint, prefix, text):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def number(document: str, ordinal: int) -> int:
    """Return a passage's number, 63 bits of SHA-256 over its document's id and its place."""
    digest = hashlib.sha256(f"{document}/{ordinal}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def as_keys(digests: bytes) -> Keys:
    """View concatenated digests as sortable rows.

    Returns:
        uint64 array of shape (n, 4).
    """
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 4)


def as_bytes(keys: Keys) -> bytes:
    return keys.astype(">u8").tobytes()


def order(keys: Keys, *after: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the permutation that sorts keys, then by the arrays ``after``, first one first."""
    return np.lexsort((*reversed(after), keys[:, 3], keys[:, 2], keys[:, 1], keys[:, 0]))


def write(path: Path, digests: bytes, buckets: int) -> None:
    """Write the keys of rows 0, 1, … with their row numbers, sorted.

    Args:
        digests: 32 bytes a row.
        buckets: a power of two; a key's bucket is its first bits.
    """
    keys = as_keys(digests)
    rows = np.arange(len(keys), dtype=np.int64)
    sort = order(keys, rows)
    keys = keys[sort]
    bounds = np.searchsorted(bucket_of(keys, buckets), np.arange(buckets + 1))
    head = np.array([buckets, len(keys), *bounds], "<u8")
    with path.open("wb") as file:
        file.write(_MAGIC)
        file.write(head.tobytes())
        file.write(as_bytes(keys))
        file.write(rows[sort].astype("<u4").tobytes())


def bucket_of(keys: Keys, buckets: int) -> NDArray[np.int64]:
    """Return each key's bucket, int64 array of shape (n,)."""
    bits = buckets.bit_length() - 1
    if bits == 0:
        return np.zeros(len(keys), np.int64)
    return (keys[:, 0] >> np.uint64(64 - bits)).astype(np.int64)


def count(folder: Folder, name: str) -> int:
    """Return how many keys a file holds."""
    head = folder.read_range(name, 0, _HEAD)
    if not head.startswith(_MAGIC):
        raise Unavailable(f"{name} is no keys file. Delete it and run again.", code="corrupt_file")
    return int(np.frombuffer(head[8:], "<u8")[1])


def read(folder: Folder, name: str, first: int, last: int) -> tuple[Keys, NDArray[np.int64]]:
    """Read the buckets ``first`` to ``last`` - 1 of a file.

    Returns:
        keys, uint64 array of shape (n, 4), ascending, and their rows, int64 of shape (n,).
    """
    head = folder.read_range(name, 0, _HEAD)
    buckets, total = (int(v) for v in np.frombuffer(head[8:], "<u8"))
    place = folder.read_range(name, _HEAD + 8 * first, _HEAD + 8 * (last + 1))
    bounds = np.frombuffer(place, "<u8")
    start, end = int(bounds[0]), int(bounds[-1])
    if start == end:
        return np.empty((0, 4), np.uint64), np.empty(0, np.int64)
    body = _HEAD + 8 * (buckets + 1)
    digests = folder.read_range(name, body + KEY_BYTES * start, body + KEY_BYTES * end)
    tail = body + KEY_BYTES * total
    rows = folder.read_range(name, tail + 4 * start, tail + 4 * end)
    return as_keys(digests), np.frombuffer(rows, "<u4").astype(np.int64)
