"""Finds the input files, measures them and cuts them into work units."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from app.errors import BadRequest, MissingExtra, NotFound, OstiaryError, Unavailable
from pipelines.embeddings.storage import filesystem

_SUFFIXES = (".parquet", ".jsonl", ".ndjson")
_PACKED = (".gz", ".zst")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """One input file; ``constants`` are a Delta table's partition values."""

    url: str
    name: str  # as the shards name it
    constants: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()  # rows that a Delta deletion vector hides

    @property
    def packed(self) -> str:
        return next((s for s in _PACKED if self.name.endswith(s)), "")

    @property
    def kind(self) -> str:
        plain = self.name.removesuffix(self.packed) if self.packed else self.name
        return "parquet" if plain.endswith(".parquet") else "lines"

    @property
    def seekable(self) -> bool:
        return not self.packed


@dataclass(frozen=True, slots=True)
class Span:
    """A run of rows of one file; ``offset`` is its first byte where the file can be sought."""

    first: int
    rows: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a file holds: its version, and its rows in spans of bounded size."""

    fingerprint: str
    spans: tuple[Span, ...]
    rows: int
    bytes: int


def expand(inputs: tuple[str, ...]) -> list[Source]:
    """Return the files behind URLs of files, folders, globs and Delta tables, sorted by name.

    Raises:
        NotFound: a URL leads to no file.
        BadRequest: a file's suffix is none of those that are read.
    """
    found: dict[str, Source] = {}
    for url in inputs:
        listed = list(_expand(url))
        if not listed:
            raise NotFound(
                "input file", url, remedy=f"Files are found by suffix: {', '.join(_SUFFIXES)}."
            )
        found.update((source.name, source) for source in listed)
    return [found[name] for name in sorted(found)]


def _expand(url: str) -> Iterator[Source]:
    fs, path = filesystem(url)
    if any(mark in path for mark in "*?["):
        for one in fs.glob(path):
            hidden = one.rpartition("/")[2].startswith((".", "_"))
            if _readable(one) and not hidden and fs.isfile(one):
                yield _source(fs, url, one)
    elif fs.isdir(path):
        if fs.isdir(f"{path.rstrip('/')}/_delta_log"):
            yield from _delta(fs, url, path)
            return
        root = path.rstrip("/") + "/"
        for one in fs.find(path):
            inner = str(one).removeprefix(root).split("/")
            if _readable(one) and not any(part.startswith((".", "_")) for part in inner):
                yield _source(fs, url, one)
    elif fs.exists(path):
        if not _readable(path):
            raise BadRequest(
                f"The file {url!r} cannot be read; give one of {', '.join(_SUFFIXES)}, the "
                "latter two also as .gz or .zst.",
                param="input",
            )
        yield _source(fs, url, path)


def _readable(path: str) -> bool:
    for packed in _PACKED:
        if path.endswith(packed):
            return path.removesuffix(packed).endswith(_SUFFIXES[1:])
    return path.endswith(_SUFFIXES)


def _source(fs: Any, typed: str, path: str, **more: Any) -> Source:
    url = fs.unstrip_protocol(path)
    name = str(url)
    if "://" not in typed:  # a relative path stays one: shards then do not name the machine
        name = path if Path(typed).is_absolute() else os.path.relpath(path)
    return Source(str(url), name, **more)


def _delta(fs: Any, url: str, path: str) -> Iterator[Source]:
    """The live files of a Delta table's newest version, with what lies outside of them."""
    try:
        import pyarrow as pa
        from deltalake import DeltaTable
    except ImportError as error:
        raise MissingExtra("Reading Delta tables", "delta") from error
    table = DeltaTable(fs.unstrip_protocol(path) if "://" in url else path)
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise BadRequest(
            f"The Delta table {url!r} renames its columns inside the files (column mapping). "
            "Rewrite it without, or give its Parquet files with their inner names.",
            param="input",
        )
    dropped: dict[str, tuple[int, ...]] = {}
    for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()):
        for row in batch.to_pylist():
            kept = np.asarray(row["selection_vector"], bool)
            name = row["filepath"].rpartition("/")[2]
            dropped[name] = tuple(np.flatnonzero(~kept).tolist())
    actions = pa.table(table.get_add_actions(flatten=False)).to_pylist()
    for action in actions:
        # the log quotes a path as in a URL
        one = f"{path.rstrip('/')}/{unquote(action['path'])}"
        yield _source(
            fs,
            url,
            one,
            # as JSON keeps them, for the plan of a run is read back after a crash
            constants={k: _plain(v) for k, v in (action.get("partition") or {}).items()},
            dropped=dropped.get(one.rpartition("/")[2], ()),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float) else str(value)


def fingerprint(source: Source) -> str:
    """Return what changes when the file does: its ETag, or size and time of change."""
    fs, path = filesystem(source.url)
    info = fs.info(path)
    version = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if not version:
        changed = info.get("mtime") or info.get("LastModified") or info.get("created")
        version = f"{info.get('size')}@{changed}"
    hidden = hashlib.sha256(repr((source.constants, source.dropped)).encode()).hexdigest()[:16]
    return f"{version}/{hidden}"


def survey(source: Source, columns: list[str], shard_bytes: int, shard_rows: int) -> Survey:
    """Read a file once, without decoding its rows, and cut it into spans.

    Raises:
        Unavailable: the file cannot be read whole; it fails alone.
    """
    version = fingerprint(source)
    with unreadable_told():
        if source.kind == "parquet":
            spans, rows, size = _survey_parquet(source, columns, shard_bytes, shard_rows)
        else:
            spans, rows, size = _survey_lines(source, shard_bytes, shard_rows)
    return Survey(version, tuple(spans), rows, size)


@contextlib.contextmanager
def unreadable_told() -> Iterator[None]:
    """Turn what a broken file raises into one error that names the cause."""
    import pyarrow as pa

    try:
        yield
    except OstiaryError:
        raise
    except (EOFError, gzip.BadGzipFile, pa.ArrowException, ValueError) as error:
        raise Unavailable(
            f"The file cannot be read whole: {type(error).__name__}: {str(error)[:200]}. "
            "Write it again or leave it out.",
            code="corrupt_file",
        ) from error
    except OSError as error:
        # Arrow tells broken bytes as an OSError without a number; the system gives one
        if error.errno is not None:
            raise
        raise Unavailable(
            f"The file cannot be read whole: {str(error)[:200]}. Write it again or leave it out.",
            code="corrupt_file",
        ) from error


def _survey_parquet(
    source: Source, columns: list[str], shard_bytes: int, shard_rows: int
) -> tuple[list[Span], int, int]:
    import pyarrow.parquet as pq

    fs, path = filesystem(source.url)
    with fs.open(path, "rb") as stream:
        meta = pq.ParquetFile(stream).metadata
        held = set(meta.schema.to_arrow_schema().names) | set(source.constants)
        lacking = [name for name in columns if name not in held]
        if lacking:
            raise Unavailable(
                f"The file has no column {lacking[0]!r}; it has {', '.join(sorted(held)[:20])}.",
                code="missing_column",
            )
        size = 0
        for g in range(meta.num_row_groups):
            group = meta.row_group(g)
            size += sum(
                chunk.total_uncompressed_size
                for chunk in (group.column(c) for c in range(group.num_columns))
                if chunk.path_in_schema.split(".")[0] in columns
            )
    rows = meta.num_rows
    if not rows:
        return [], 0, 0
    step = min(shard_rows, max(1, rows * shard_bytes // max(size, 1)))
    spans = [Span(first, min(step, rows - first)) for first in range(0, rows, step)]
    return spans, rows, size


def _survey_lines(source: Source, shard_bytes: int, shard_rows: int) -> tuple[list[Span], int, int]:
    spans: list[Span] = []
    row = first = position = start = 0  # next row; first row and byte of the open span
    rest = False  # a last line without its newline

    def cut(end_row: int, end_byte: int) -> None:
        nonlocal first, start
        spans.append(Span(first, end_row - first, start if source.seekable else 0))
        first, start = end_row, end_byte

    with open_lines(source) as stream:
        while block := stream.read(_BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10) + position + 1
            at = 0
            while at < len(ends):
                by_bytes = int(np.searchsorted(ends, start + shard_bytes))
                by_rows = at + (first + shard_rows - row) - 1
                last = min(by_bytes, by_rows)
                if last >= len(ends):
                    break
                last = max(last, at)
                row += last + 1 - at
                at = last + 1
                cut(row, int(ends[last]))
            row += len(ends) - at
            position += len(block)
            rest = not block.endswith(b"\n")
    row += rest
    if row > first:
        cut(row, position)
    return spans, row, position


def open_lines(source: Source, offset: int = 0) -> io.BufferedReader:
    """Open a file of lines, unpacked, at a byte of it where it can be sought."""
    fs, path = filesystem(source.url)
    raw = fs.open(path, "rb")
    if source.packed == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BLOCK)
    if source.packed == ".zst":
        import pyarrow as pa

        unpacked = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        return io.BufferedReader(unpacked, _BLOCK)
    if offset:
        raw.seek(offset)
    return io.BufferedReader(raw, _BLOCK)
