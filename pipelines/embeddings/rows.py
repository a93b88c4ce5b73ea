"""Reads the rows of a span of a file, one bad row at a time failing alone."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipelines.embeddings.job import Columns
from pipelines.embeddings.sources import (
    Source,
    Span,
    open_lines,
    unreadable_told,
)
from pipelines.embeddings.storage import filesystem

MOST_ROW_BYTES = 64 << 20
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One document; ``attributes`` is JSON with sorted keys."""

    number: int
    id: str
    text: str
    section: str | None = None
    attributes: str = "{}"


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be used, and why; never its text, which may be private."""

    number: int
    id: str | None
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Blank:
    """An empty line or a row without text."""

    number: int


Item = Row | Bad | Blank


class _BadRow(ValueError):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads spans of one file as documents."""

    source: Source
    columns: Columns

    def read(self, span: Span) -> Iterator[Item]:
        """Yield exactly ``span.rows`` items in the file's order.

        Raises:
            Unavailable: the file is broken.
        """
        with unreadable_told():
            read = self._parquet if self.source.kind == "parquet" else self._lines
            hidden = set(self.source.dropped)
            for number, record in read(span):
                if number in hidden:
                    yield Blank(number)
                elif isinstance(record, Bad):
                    yield record
                else:
                    yield self._item(number, record)

    def _parquet(self, span: Span) -> Iterator[tuple[int, Any]]:
        import pyarrow.parquet as pq

        fs, path = filesystem(self.source.url)
        end = span.first + span.rows
        with fs.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            columns = [c for c in self.columns.all() if c not in self.source.constants]
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start + rows > span.first and start < end:
                    number = start
                    for batch in file.iter_batches(_BATCH, [group], columns):
                        skip = max(0, min(span.first - number, batch.num_rows))
                        keep = min(batch.num_rows, end - number) - skip
                        if keep > 0:
                            records = batch.slice(skip, keep).to_pylist()
                            yield from enumerate(records, number + skip)
                        number += batch.num_rows
                        if number >= end:
                            break
                start += rows

    def _lines(self, span: Span) -> Iterator[tuple[int, Any]]:
        with open_lines(self.source, span.offset) as stream:
            begins = span.first if self.source.seekable else 0
            for number in range(begins, span.first + span.rows):
                line = stream.readline(MOST_ROW_BYTES)
                whole = line.endswith(b"\n") or len(line) < MOST_ROW_BYTES
                while not (line.endswith(b"\n") or len(line) < MOST_ROW_BYTES):
                    line = stream.readline(MOST_ROW_BYTES)
                if number < span.first:
                    continue
                if not whole:
                    reason = f"The row is longer than {MOST_ROW_BYTES >> 20} MiB; split it."
                    yield number, Bad(number, None, "too_long", reason)
                elif not line.strip():
                    yield number, None
                else:
                    try:
                        yield number, orjson.loads(line)
                    except orjson.JSONDecodeError as error:
                        reason = f"The line is not JSON: {str(error)[:120]}."
                        yield number, Bad(number, None, "not_json", reason)

    def _item(self, number: int, record: Any) -> Item:
        if record is None:
            return Blank(number)
        if not isinstance(record, Mapping):
            return Bad(number, None, "not_an_object", "The line is JSON, but not an object.")
        row = {**record, **self.source.constants}
        known: str | None = None
        try:
            known = self._id(number, row)
            text = row.get(self.columns.text)
            if text is None:
                if self.columns.text not in row:
                    raise _BadRow("no_text", f"The row has no field {self.columns.text!r}.")
                return Blank(number)
            section = row.get(self.columns.section) if self.columns.section else None
            _string(self.columns.text, text)
            if section is not None:
                _string(str(self.columns.section), section)
            if not text.strip():
                return Blank(number)
            if len(text) > MOST_ROW_BYTES:
                raise _BadRow("too_long", f"The text is longer than {MOST_ROW_BYTES >> 20} Mi.")
            return Row(number, known, text, section or None, self._attributes(row))
        except _BadRow as error:
            return Bad(number, known, error.code, str(error))

    def _id(self, number: int, row: Mapping[str, Any]) -> str:
        if self.columns.id is None:
            return f"{self.source.name}#{number}"
        value = row.get(self.columns.id)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise _BadRow("bad_id", f"The field {self.columns.id!r} holds no text or whole number.")
        known = str(value)
        _string(self.columns.id, known)
        return known

    def _attributes(self, row: Mapping[str, Any]) -> str:
        values = {
            name: _attribute(name, row[name])
            for name in self.columns.attributes
            if row.get(name) is not None
        }
        return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _BadRow("not_text", f"The field {name!r} holds {type(value).__name__}, not text.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        reason = f"The field {name!r} holds half a character (a surrogate)."
        raise _BadRow("not_unicode", reason) from error


def _attribute(name: str, value: Any) -> str | float | bool | int:
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise _BadRow("bad_attribute", f"The attribute {name!r} is {value}; give a finite number.")
    if not isinstance(value, str | int | float | bool):
        raise _BadRow(
            "bad_attribute",
            f"The attribute {name!r} is {type(value).__name__}; give text, number, boolean, date.",
        )
    if isinstance(value, str):
        _string(name, value)
    return value


def join(spans: list[Span]) -> Span:
    """Return one span over neighbours."""
    first, last = spans[0], spans[-1]
    return Span(first.first, last.first + last.rows - first.first, first.offset)
