"""Files of one folder, local or remote, that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from app.errors import BadRequest, MissingExtra, Unavailable
from app.store.durable import settle, sync

_TEMPORARY = ".tmp-"


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of ``url`` and the path in it.

    Raises:
        MissingExtra: the file system's package is not installed.
        BadRequest: the URL's scheme is unknown.
    """
    import fsspec

    try:
        # other processes write there too: a remembered listing would hide their files
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        scheme = url.partition("://")[0]
        if scheme in ("s3", "s3a"):
            raise MissingExtra("The S3 file system", "s3") from error
        raise Unavailable(f"The file system of {scheme}:// is not installed: {error}") from error
    except ValueError as error:
        raise BadRequest(f"The URL {url!r} cannot be read: {error}") from error
    return fs, path


class Folder:
    """A folder of immutable files, by names like ``shards/0a1b.parquet``.

    A local file is written beside its place, synced and renamed. A remote one is written on
    this machine and put in one request, which object stores make visible whole.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._fs, self._root = filesystem(self.url)
        protocol = self._fs.protocol
        self.local = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self.path(name)))

    def names(self, folder: str, suffix: str = "") -> set[str]:
        """Return the names of the files right below ``folder``, without it."""
        try:
            found = self._fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return set()
        plain = (str(path).rpartition("/")[2] for path in found)
        return {n for n in plain if n.endswith(suffix) and not n.startswith(_TEMPORARY)}

    def open(self, name: str) -> IO[bytes]:
        # large blocks serve ranged reads of a remote Parquet file best
        stream: IO[bytes] = self._fs.open(self.path(name), "rb")
        return stream

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read()

    def read_range(self, name: str, start: int, end: int) -> bytes:
        data: bytes = self._fs.cat_file(self.path(name), start=start, end=end)
        return data

    def digest(self, name: str) -> tuple[str, int]:
        """Return a file's SHA-256 and its size in bytes."""
        digest = hashlib.sha256()
        size = 0
        with self.open(name) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
        return digest.hexdigest(), size

    def write(self, name: str, data: bytes) -> None:
        with self.writing(name) as path:
            path.write_bytes(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write to; the file appears as ``name`` when the block ends well."""
        if not self.local:
            with tempfile.TemporaryDirectory(prefix="ostiary-") as scratch:
                path = Path(scratch) / "file"
                yield path
                self._fs.put_file(str(path), self.path(name))
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.parent / f"{_TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield path
            sync(path)
            settle(path, target)
        finally:
            path.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))

    def sweep(self) -> None:
        """Remove what killed writers left half-written; only the folder's one owner may."""
        if self.local and Path(self._root).is_dir():
            for path in Path(self._root).rglob(f"{_TEMPORARY}*"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Keep a second run out of a local folder for the length of the block.

        Object stores have no lock: two runs there do the same work twice, to the same bytes.

        Raises:
            Unavailable: another run holds the folder.
        """
        if not self.local:
            yield
            return
        import fcntl

        root = Path(self._root)
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Unavailable(
                    "Another run writes this output folder. Wait for its end or stop it.",
                    code="folder_in_use",
                ) from error
            yield
