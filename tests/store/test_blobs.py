"""Files by key: whole or not at all, on a local folder and on any fsspec file system."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from app.store.blobs import CHUNK_BYTES, Blobs

CONTENT = bytes(range(256)) * 10_000


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "files")
        return
    yield "memory://bucket/files"
    fsspec.filesystem("memory").store.clear()


def names(url: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(url)
    return sorted(str(path).rsplit("/", 1)[-1] for path in system.ls(root, detail=False))


class Broken(io.BytesIO):
    """A source that fails after its first megabyte."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError("the client went away")
        return super().read(size)


def test_what_is_put_is_read_back_with_size_and_digest(url: str) -> None:
    blobs = Blobs(url)
    stored = blobs.put("a", io.BytesIO(CONTENT))
    assert (stored.bytes, stored.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    with Blobs(url).open("a") as stream:
        assert stream.read() == CONTENT
    assert names(url) == ["a"]


def test_an_empty_file_is_a_file(url: str) -> None:
    blobs = Blobs(url)
    assert blobs.put("a", io.BytesIO()).bytes == 0
    with blobs.open("a") as stream:
        assert stream.read() == b""


def test_a_partial_file_is_never_visible_and_not_left_behind(url: str) -> None:
    blobs = Blobs(url)
    with pytest.raises(OSError, match="went away"):
        blobs.put("a", Broken(CONTENT))
    with pytest.raises(FileNotFoundError):
        blobs.open("a")
    assert names(url) == []


def test_a_failed_write_leaves_the_old_content(url: str) -> None:
    blobs = Blobs(url)
    blobs.put("a", io.BytesIO(b"old"))
    with pytest.raises(OSError, match="went away"):
        blobs.put("a", Broken(CONTENT))
    with blobs.open("a") as stream:
        assert stream.read() == b"old"


def test_a_reader_sees_the_old_or_the_new_content_and_nothing_between(tmp_path: Path) -> None:
    blobs = Blobs(str(tmp_path))
    versions = {bytes([n]) * (2 * CHUNK_BYTES) for n in range(6)}
    blobs.put("a", io.BytesIO(bytes(2 * CHUNK_BYTES)))
    over = threading.Event()
    wrong: list[int] = []

    def read() -> None:
        while not over.is_set():
            with blobs.open("a") as stream:
                found = stream.read()
            if found not in versions:
                wrong.append(len(found))

    reader = threading.Thread(target=read)
    reader.start()
    writers = [
        threading.Thread(target=lambda v=v: blobs.put("a", io.BytesIO(v)))  # type: ignore[misc]
        for v in versions
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    over.set()
    reader.join()
    assert wrong == []
    assert names(str(tmp_path)) == ["a"]


def test_deleting_twice_is_fine(url: str) -> None:
    blobs = Blobs(url)
    blobs.put("a", io.BytesIO(CONTENT))
    blobs.delete("a")
    blobs.delete("a")
    assert names(url) == []


def test_two_readers_have_a_local_copy_each_and_leave_none(url: str, tmp_path: Path) -> None:
    blobs = Blobs(url)
    blobs.put("a", io.BytesIO(CONTENT))
    scratch = tmp_path / "scratch"
    with blobs.local_copy("a", scratch) as one:
        with blobs.local_copy("a", scratch) as two:
            assert two.read_bytes() == CONTENT
        assert one.read_bytes() == CONTENT
    assert not scratch.exists() or list(scratch.iterdir()) == []
    with blobs.open("a") as stream:
        assert stream.read() == CONTENT
