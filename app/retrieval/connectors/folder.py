"""Follows the files below a folder, and never leaves it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.batches import stepped
from app.retrieval.connectors.posix import EVERYONE, Names, Readers
from app.retrieval.connectors.settings import FolderSettings

CHUNK_BYTES = 1 << 20
# what editors, office programs and downloads leave while they work
_TEMPORARY_STARTS = (".", "~$")
_TEMPORARY_ENDS = ("~", ".tmp", ".temp", ".swp", ".part", ".partial", ".crdownload")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # ELOOP: a link stands in its place
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINKS  # a pipe must not hold us up


class FolderSource:
    """Files by their path below a folder, with ``/`` between its parts. Links are not followed.

    Every folder on the way is opened from the one above it, so that a link which takes the
    place of a folder meanwhile leads nowhere.
    """

    def __init__(self, settings: FolderSettings) -> None:
        if os.open not in os.supports_dir_fd:
            raise SourceError("A source of kind folder needs Linux or macOS.")
        self._root = Path(settings.path)
        self._names = Names() if settings.permissions == "posix" else None

    def items(self, part: Part) -> AsyncIterator[Item]:
        """Every file of the part.

        Raises:
            SourceError: the folder is missing or empty, or one below it cannot be read.
        """
        return stepped(self._walk(part))

    def _walk(self, part: Part) -> Iterator[Item]:
        with self._opened_root() as root:
            if not _names_in(root):
                raise SourceError(
                    "The folder of this source holds nothing, as one whose disk is not mounted. "
                    "Mount it. If it is meant to be empty, put a hidden file into it, as .keep."
                )
            yield from self._below(root, "", EVERYONE, part)

    def _below(self, folder: int, prefix: str, way: Readers, part: Part) -> Iterator[Item]:
        try:
            names = _names_in(folder)
        except OSError as error:
            raise _unlisted(prefix) from error
        for name in names:
            if left_out(name):
                continue
            key = prefix + name
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno in _GONE:
                    continue
                raise _unlisted(prefix) from error
            if stat.S_ISDIR(found.st_mode):
                if _reaches(part, key + "/"):
                    yield from self._inside(folder, name, key + "/", way, part)
            elif stat.S_ISREG(found.st_mode) and part.holds(key):
                access = None
                if self._names is not None:
                    access = self._names.access(way.reading(found, folder, name))
                yield Item(key, _fingerprint(found), name, access=access)

    def _inside(
        self, folder: int, name: str, prefix: str, way: Readers, part: Part
    ) -> Iterator[Item]:
        try:
            inner = os.open(name, _FOLDER | _NO_LINKS, dir_fd=folder)
        except OSError as error:
            if error.errno in _GONE:
                return
            raise _unlisted(prefix) from error
        try:
            if self._names is not None:
                way = way.passing(os.fstat(inner), folder, name)
            yield from self._below(inner, prefix, way, part)
        finally:
            os.close(inner)

    async def fetch(self, item: Item, into: IO[bytes], max_bytes: int) -> None:
        """Write a file's bytes.

        Raises:
            ItemUnavailable: it is gone, too large, not readable, or changes while it is read.
            SourceError: the folder is missing.
        """
        await asyncio.to_thread(self._copy, item, into, max_bytes)

    def _copy(self, item: Item, into: IO[bytes], max_bytes: int) -> None:
        with ExitStack() as opened:
            root = opened.enter_context(self._opened_root())
            with _told(item):
                file = self._open(item, root, opened)
                before = os.fstat(file.fileno())
            size = before.st_size
            if size <= max_bytes:
                size = 0
                while chunk := _read(item, file):
                    size += len(chunk)
                    if size > max_bytes:
                        break
                    into.write(chunk)
            if size > max_bytes:
                raise _unavailable(item, f"has more than {max_bytes} bytes")
            if _fingerprint(os.fstat(file.fileno())) != _fingerprint(before):
                raise _unavailable(item, "was being written; the next run reads it")

    def _open(self, item: Item, folder: int, opened: ExitStack) -> IO[bytes]:
        """The file of a key, opened step by step; who may read it is asked of what was opened."""
        *folders, name = item.key.split("/")
        if any(step in ("", ".", "..") or "\0" in step for step in (*folders, name)):
            raise ItemUnavailable("The key of this document is no path below the folder.")
        way = EVERYONE
        for step in folders:
            inner = os.open(step, _FOLDER | _NO_LINKS, dir_fd=folder)
            opened.callback(os.close, inner)
            if self._names is not None:
                way = way.passing(os.fstat(inner), folder, step)
            folder = inner
        file = opened.enter_context(os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb"))
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _unavailable(item, "is no file any more")
        if self._names is not None:
            readers = way.reading(found, folder, name)
            if self._names.access(readers) != item.access:
                raise _unavailable(item, "has other permissions by now")
        return file

    @contextmanager
    def _opened_root(self) -> Iterator[int]:
        try:
            root = os.open(self._root, _FOLDER)
        except OSError as error:
            raise SourceError(
                "The folder of this source is missing or may not be read. Mount it, correct "
                "`path`, or let the gateway's user read it."
            ) from error
        try:
            yield root
        finally:
            os.close(root)

    async def aclose(self) -> None:
        """Nothing stays open."""


def _names_in(folder: int) -> list[str]:
    with os.scandir(folder) as found:
        return sorted({entry.name for entry in found})


def left_out(name: str) -> bool:
    """Hidden or temporary."""
    if name.startswith(_TEMPORARY_STARTS) or name.lower().endswith(_TEMPORARY_ENDS):
        return True
    return name.startswith("#") and name.endswith("#")


def _reaches(part: Part, folder: str) -> bool:
    """Whether keys that begin with ``folder`` may belong to the part."""
    if not (folder.startswith(part.path) or part.path.startswith(folder)):
        return False
    # a pattern with * at its end that holds the folder holds all below it
    ends = [pattern for pattern in part.exclude if pattern.endswith("*")]
    return Part(exclude=ends).holds(folder)


@contextmanager
def _told(item: Item) -> Iterator[None]:
    """Say in words why a file cannot be opened or read."""
    try:
        yield
    except PermissionError as error:
        raise _unavailable(item, "may not be read by the gateway's user") from error
    except OSError as error:
        if error.errno in _GONE:
            raise _unavailable(item, "is gone") from error
        raise _unavailable(item, "cannot be read; look at the disk") from error


def _read(item: Item, file: IO[bytes]) -> bytes:
    with _told(item):
        return file.read(CHUNK_BYTES)


def _fingerprint(found: os.stat_result) -> str:
    """Times, size and inode: what was put in place of another file with its time and size, or
    came back from a backup, has another inode or another time of change."""
    return f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{found.st_size:x}-{found.st_ino:x}"


def _unlisted(prefix: str) -> SourceError:
    """A folder that cannot be listed; its files are not taken for deleted."""
    shown = _shown(prefix)
    where = f"The folder '{shown}'" if prefix else "The folder of this source"
    remedy = f", or leave it out with the pattern '{shown}*'" if prefix else ""
    return SourceError(f"{where} cannot be read. Let the gateway's user read it{remedy}.")


def _unavailable(item: Item, why: str) -> ItemUnavailable:
    return ItemUnavailable(f"'{_shown(item.key)}' {why}.")


def _shown(path: str) -> str:
    """A path as text; bytes of a name that are no UTF-8 become question marks."""
    return path.encode("utf-8", "replace").decode()
