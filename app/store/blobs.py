"""Files by key, on any file system that fsspec reaches."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.ids import new_id
from app.store.durable import sync

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written: its size in bytes and SHA-256, hex."""

    bytes: int
    sha256: str


class Blobs:
    """Content under opaque keys; names that users give never become paths. Blocking."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = self._fs.protocol == "file" or "file" in self._fs.protocol
        self._fs.makedirs(self._root, exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def put(self, key: str, source: IO[bytes]) -> Stored:
        """Write all of ``source``: temporary name, sync, rename; durable on return."""
        # a name of its own, so that two writers of one key do not write into one file
        path, partial = self._path(key), self._path(new_id(f"{key}.partial-"))
        try:
            stored = self._write(partial, source)
            self._fs.mv(partial, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm(partial)
            raise
        if self._local:
            sync(Path(path).parent)
        return stored

    def _write(self, path: str, source: IO[bytes]) -> Stored:
        digest, size = hashlib.sha256(), 0
        with self._fs.open(path, "wb") as out:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
            if self._local:
                out.flush()
                os.fsync(out.fileno())
        return Stored(size, digest.hexdigest())

    def open(self, key: str) -> IO[bytes]:
        """Open for reading; raises FileNotFoundError."""
        stream: IO[bytes] = self._fs.open(self._path(key), "rb")
        return stream

    @contextlib.contextmanager
    def local_copy(self, key: str, folder: Path) -> Iterator[Path]:
        """A path to the content: the file itself when it is local, else a copy."""
        if self._local:
            yield Path(self._path(key))
            return
        copy = folder / new_id("copy_")  # several jobs may read one file at a time
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._fs.get_file(self._path(key), str(copy))
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """Remove; a missing key is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(key))
