"""The first stage: a work unit's rows become passages and their sorted keys."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.errors import OstiaryError, Unavailable
from app.retrieval.chunking import chunk
from app.retrieval.parsers.block import Block, clean
from app.retrieval.types import embedded_text
from pipelines.embeddings import keys
from pipelines.embeddings.job import EmbedJob
from pipelines.embeddings.layout import (
    GROUP_ROWS,
    Unit,
    passage_schema,
    row_count,
    write_errors,
    writer,
)
from pipelines.embeddings.model import ModelInfo, token_counter
from pipelines.embeddings.rows import Bad, Blank, Item, Row, RowReader, join
from pipelines.embeddings.sources import fingerprint
from pipelines.embeddings.storage import Folder

_PARAGRAPHS = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Chunked:
    """How many passages a unit has, and how many of its rows were unusable."""

    unit: str
    passages: int
    errors: int


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """Cuts neighbouring units of one file; those that are done stay as they are.

    A file that can be entered anywhere has a task for each unit.
    """

    job: EmbedJob
    model: ModelInfo
    units: tuple[Unit, ...]

    @property
    def label(self) -> str:
        return f"chunk {self.units[0].source.name} from row {self.units[0].span.first}"

    def run(self) -> list[Chunked]:
        """Write passages and keys of each unit.

        Raises:
            Unavailable: the file is broken or changed after it was planned.
        """
        folder = Folder(self.job.output)
        todo = [unit for unit in self.units if not folder.exists(unit.keys)]
        if todo:
            first = todo[0]
            if fingerprint(first.source) != first.fingerprint:
                raise Unavailable(
                    "The file changed after this run was planned. Run again to take it anew.",
                    code="source_changed",
                )
            cutter = _Cutter(self.job, self.model)
            left = self.units[self.units.index(first) :]
            # read on through units that are done: a packed file cannot be entered half-way
            items = RowReader(first.source, self.job.columns).read(join([u.span for u in left]))
            for unit in left:
                mine = itertools.islice(items, unit.span.rows)
                if unit in todo:
                    _write(folder, self.job, unit, cutter, mine)
                for _ in mine:
                    pass
        return [
            Chunked(unit.id, keys.count(folder, unit.keys), row_count(folder, unit.row_errors))
            for unit in self.units
        ]


class _Cutter:
    def __init__(self, job: EmbedJob, model: ModelInfo) -> None:
        self._count = token_counter(job.model)
        self._most = min(job.max_tokens, model.max_tokens)
        self._overlap = min(job.overlap_tokens, self._most // 2)
        self._model = model

    def cut(self, row: Row) -> list[tuple[str, str | None, int, bytes]]:
        """Return text, section, tokens and key of each passage of a row."""
        text = clean(row.text)
        if not text:
            return []
        section = " ".join(clean(row.section).split()) or None if row.section else None
        if self._most:
            blocks = [
                Block(part, None, section, "text")
                for part in _PARAGRAPHS.split(text)
                if part.strip()
            ]
            pieces = [
                (piece.text, piece.section)
                for piece in chunk(blocks, self._most, self._overlap, self._count)
            ]
        else:
            pieces = [(text, section)]
        model = self._model
        return [
            (
                piece,
                under,
                self._count(piece),
                keys.key(model.fingerprint, model.prefix, embedded_text(under, piece)),
            )
            for piece, under in pieces
        ]


def _write(
    folder: Folder, job: EmbedJob, unit: Unit, cutter: _Cutter, items: Iterator[Item]
) -> None:
    """Write the errors, the passages and, last, the keys, whose presence says all is there."""
    import pyarrow as pa

    schema = passage_schema()
    digests = bytearray()
    errors: list[dict[str, Any]] = []
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    seen: set[str] = set()

    def fail(bad: Bad) -> None:
        told = {"row": bad.number, "document": bad.id, "code": bad.code, "reason": bad.reason}
        errors.append({"source": unit.source.name, **told})

    with folder.writing(unit.passages) as path, writer(path, schema) as out:

        def flush(most: int) -> None:
            while len(columns["number"]) >= max(most, 1):
                part = {name: values[:GROUP_ROWS] for name, values in columns.items()}
                out.write_table(pa.Table.from_pydict(part, schema))
                for values in columns.values():
                    del values[:GROUP_ROWS]

        for item in items:
            if isinstance(item, Blank):
                continue
            if isinstance(item, Row) and item.id in seen:
                reason = "The id occurs before in this part of the file; ids must be unique."
                item = Bad(item.number, item.id, "duplicate_id", reason)
            if isinstance(item, Bad):
                fail(item)
                continue
            seen.add(item.id)
            try:
                cut = cutter.cut(item)
            except OstiaryError as error:
                fail(Bad(item.number, item.id, error.code, error.message))
                continue
            for ordinal, (text, section, tokens, digest) in enumerate(cut):
                digests += digest
                for name, value in (
                    ("number", keys.number(item.id, ordinal)),
                    ("key", digest),
                    ("document", item.id),
                    ("ordinal", ordinal),
                    ("text", text),
                    ("section", section),
                    ("attributes", item.attributes),
                    ("tokens", tokens),
                    ("source", unit.source.name),
                    ("row", item.number),
                ):
                    columns[name].append(value)
            flush(GROUP_ROWS)
        flush(0)
        if not digests:
            out.write_table(schema.empty_table())
    write_errors(folder, unit.row_errors, errors)
    with folder.writing(unit.keys) as path:
        keys.write(path, bytes(digests), job.buckets)
