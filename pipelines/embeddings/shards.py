"""The third stage: a unit's passages become a shard of vectors."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.errors import Unavailable
from app.retrieval.types import embedded_text
from pipelines.embeddings import keys
from pipelines.embeddings.job import FORMAT, EmbedJob
from pipelines.embeddings.layout import (
    Unit,
    row_count,
    shard_name,
    shard_schema,
    write_errors,
    writer,
)
from pipelines.embeddings.matching import refs_of, roll
from pipelines.embeddings.model import ModelInfo, encoder
from pipelines.embeddings.storage import Folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

_SLICE = 256  # texts that the encoder sees at once; the same on every run
_OPEN_OWNERS = 16


@dataclass(frozen=True, slots=True)
class Embedded:
    """One finished shard, as the manifest tells it."""

    unit: str
    passages: int
    embedded: int  # by the model, for this shard; the others were copied
    errors: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EmbedTask:
    """Embeds what the unit owns, copies what others own, writes the shard.

    Args:
        refs: the files that tell which of the unit's rows others own.
    """

    job: EmbedJob
    model: ModelInfo
    run_number: int
    unit: Unit
    refs: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"embed {self.unit.source.name} from row {self.unit.span.first}"

    def run(self) -> Embedded:
        """Write the shard where it is not there yet.

        Raises:
            Unavailable: a shard that owns one of the vectors is gone, or the model's server is.
        """
        folder = Folder(self.job.output)
        if not folder.exists(self.unit.shard):
            self._make(folder)
        folder.delete(self.unit.passages)
        return self._told(folder)

    def _make(self, folder: Folder) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows, owners = refs_of(folder, self.refs, self.unit.seq)
        copies = _Copies(folder, self.job.output, self.run_number, self.unit.seq, rows, owners)
        errors: list[dict[str, Any]] = []
        embedded = copied = start = 0
        names = {
            "ostiary.format": str(FORMAT),
            "ostiary.model": self.model.name,
            "ostiary.fingerprint": self.model.fingerprint,
            "ostiary.prefix": self.model.prefix,
            "ostiary.dim": str(self.model.dim),
        }
        schema = shard_schema(names)
        with (
            folder.writing(self.unit.shard) as path,
            writer(path, schema) as out,
            folder.open(self.unit.passages) as stream,
        ):
            file = pq.ParquetFile(stream)
            copies.repeats(file)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                lent = copies.rows_within(start, start + table.num_rows)
                vectors, good = self._vectors(table, lent, copies, start)
                mine = np.ones(table.num_rows, bool)
                mine[lent] = False
                embedded += int((mine & good).sum())
                copied += int((~mine & good).sum())
                errors += _failures(table, good, mine)
                offsets = np.arange(int(good.sum()) + 1, dtype=np.int32) * np.int32(self.model.dim)
                column = pa.ListArray.from_arrays(
                    offsets, vectors[good].reshape(-1), type=schema.field("vector").type
                )
                kept = table.filter(pa.array(good)).append_column(schema.field("vector"), column)
                out.write_table(kept.cast(schema))
                start += table.num_rows
            counts = {"ostiary.embedded": str(embedded), "ostiary.copied": str(copied)}
            out.add_key_value_metadata(counts)
            write_errors(folder, self.unit.passage_errors, errors)

    def _vectors(
        self, table: pa.Table, lent: NDArray[np.int64], copies: _Copies, start: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the vectors of a group, shape (n, dim), and which of them are good."""
        digests = table["key"].to_pylist()
        mine = np.ones(table.num_rows, bool)
        mine[lent] = False
        sections, texts = table["section"].to_pylist(), table["text"].to_pylist()
        vectors = np.full((table.num_rows, self.model.dim), np.nan, np.float32)
        own = np.flatnonzero(mine)
        for at in range(0, len(own), _SLICE):
            part = own[at : at + _SLICE]
            vectors[part] = self._encode([embedded_text(sections[i], texts[i]) for i in part])
        copies.keep(digests, vectors, own)
        copies.fill(digests, vectors, lent, start)
        good: NDArray[np.bool_] = np.isfinite(vectors.sum(axis=1, dtype=np.float64))
        return vectors, good

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        encode = encoder(self.job.model).encode_passages
        try:
            return encode(texts)
        except Unavailable as error:
            if error.code != "embedding_server_refused":
                raise  # the server is away, whatever the texts are
            log.exception("%d passages were refused; trying one by one", len(texts))
        except Exception:
            log.exception("a slice of %d passages failed; trying one by one", len(texts))
        vectors = np.full((len(texts), self.model.dim), np.nan, np.float32)
        for row, text in enumerate(texts):
            try:
                vectors[row] = encode([text])[0]
            except Exception:
                log.exception("a passage failed alone")
        return vectors

    def _told(self, folder: Folder) -> Embedded:
        import pyarrow.parquet as pq

        digest, size = folder.digest(self.unit.shard)
        with folder.open(self.unit.shard) as stream:
            meta = pq.ParquetFile(stream).metadata
        return Embedded(
            self.unit.id,
            meta.num_rows,
            int(meta.metadata[b"ostiary.embedded"]),
            row_count(folder, self.unit.passage_errors),
            size,
            digest,
        )


def _failures(
    table: pa.Table, good: NDArray[np.bool_], mine: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    columns = ["source", "row", "document", "ordinal"]
    return [
        {
            **table.slice(row, 1).select(columns).to_pylist()[0],
            "code": "not_embedded",
            "reason": "The model gave no finite vector for this passage."
            if mine[row]
            else "The model gave no finite vector for the equal passage that was read first.",
        }
        for row in np.flatnonzero(~good).tolist()
    ]


class _Copies:
    """Vectors that this unit takes from the passages that own them."""

    def __init__(
        self,
        folder: Folder,
        output: str,
        run: int,
        seq: int,
        rows: NDArray[np.int64],
        owners: NDArray[np.int64],
    ) -> None:
        self._folder, self._output, self._run, self._seq = folder, output, run, seq
        self._rows, self._owners = rows, owners
        self._wanted: set[bytes] = set()  # keys that the unit itself repeats
        self._kept: dict[bytes, NDArray[np.float32]] = {}
        self._open: OrderedDict[int, _Shard] = OrderedDict()

    def repeats(self, file: pq.ParquetFile) -> None:
        """Learn from the unit's passages which of its own vectors it will ask for again."""
        inside = self._rows[self._owners == self._seq]
        if len(inside):
            self._wanted = set(file.read(["key"])["key"].take(inside).to_pylist())

    def rows_within(self, start: int, end: int) -> NDArray[np.int64]:
        """Return which rows of a group, counted from its start, others own."""
        first, last = np.searchsorted(self._rows, [start, end])
        return self._rows[first:last] - start

    def keep(
        self, digests: list[bytes], vectors: NDArray[np.float32], own: NDArray[np.int64]
    ) -> None:
        """Remember the unit's own vectors where it repeats itself."""
        if self._wanted:
            for i in own.tolist():
                if digests[i] in self._wanted:
                    self._kept[digests[i]] = vectors[i].copy()

    def fill(
        self,
        digests: list[bytes],
        vectors: NDArray[np.float32],
        lent: NDArray[np.int64],
        start: int,
    ) -> None:
        """Put the owners' vectors where they belong; one that failed there stays NaN."""
        if not len(lent):
            return
        owners = self._owners[np.searchsorted(self._rows, lent + start)]
        for owner in np.unique(owners).tolist():
            asked = lent[owners == owner].tolist()
            if owner == self._seq:
                for i in asked:
                    vectors[i] = self._kept[digests[i]]
            else:
                found = self._shard(owner).find([digests[i] for i in asked])
                for i in asked:
                    if digests[i] in found:
                        vectors[i] = found[digests[i]]

    def _shard(self, owner: int) -> _Shard:
        if owner in self._open:
            self._open.move_to_end(owner)
        else:
            name = shard_name(roll(self._output, self._run).ids[owner])
            self._open[owner] = _Shard(self._folder, name)
            if len(self._open) > _OPEN_OWNERS:
                self._open.popitem(last=False)
        return self._open[owner]


class _Shard:
    """The keys of a finished shard, and its vectors group by group."""

    def __init__(self, folder: Folder, name: str) -> None:
        import pyarrow.parquet as pq

        self._folder, self._name = folder, name
        try:
            with folder.open(name) as stream:
                file = pq.ParquetFile(stream)
                column = file.read(["key"])["key"].to_pylist()
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        except FileNotFoundError as error:
            raise Unavailable(
                f"{name} owns vectors that another shard copies, and is gone. Run again.",
                code="shard_missing",
            ) from error
        self._ends = np.cumsum(sizes, dtype=np.int64)
        # sorted digests take a tenth of a dictionary's memory
        digests = keys.as_keys(b"".join(column))
        self._sort = keys.order(digests)
        self._sorted = np.frombuffer(keys.as_bytes(digests[self._sort]), "S32")

    def find(self, wanted: list[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors of those keys that the shard has."""
        import pyarrow.parquet as pq

        found: dict[bytes, NDArray[np.float32]] = {}
        asked = np.array(wanted, "S32")
        at = np.searchsorted(self._sorted, asked)
        at_safe = np.minimum(at, max(len(self._sorted) - 1, 0))
        if not len(self._sorted):
            return found
        hit = self._sorted[at_safe] == asked
        rows = self._sort[at_safe]
        groups = np.searchsorted(self._ends, rows, side="right")
        with self._folder.open(self._name) as stream:
            file = pq.ParquetFile(stream)
            for group in np.unique(groups[hit]).tolist():
                column = file.read_row_group(group, ["vector"])["vector"].combine_chunks()
                start = int(self._ends[group - 1]) if group else 0
                values = column.flatten().to_numpy().reshape(len(column), -1)
                for i in np.flatnonzero(hit & (groups == group)).tolist():
                    found[wanted[i]] = values[int(rows[i]) - start].copy()
        return found
