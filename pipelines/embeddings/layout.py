"""Names and schemas of the files in an output folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.embeddings.sources import Source, Span
from pipelines.embeddings.storage import Folder

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_ROWS = 4096
FOLDER = "folder.json"
MANIFEST = "manifest.jsonl"
METRICS = "metrics.json"


@dataclass(frozen=True, slots=True)
class Unit:
    """One work unit: a span of one version of a file, read in one way.

    ``seq`` grows with every unit that the folder ever planned; among equal passages the one
    with the lowest ``seq`` and row owns the vector, which makes the choice the same on every
    machine and after every crash.
    """

    id: str
    seq: int
    source: Source
    span: Span
    fingerprint: str

    @property
    def keys(self) -> str:
        return f"keys/{self.id}.keys"

    @property
    def passages(self) -> str:
        return f"passages/{self.id}.parquet"

    @property
    def shard(self) -> str:
        return shard_name(self.id)

    @property
    def row_errors(self) -> str:
        return f"errors/{self.id}-rows.parquet"

    @property
    def passage_errors(self) -> str:
        return f"errors/{self.id}-passages.parquet"


def shard_name(unit_id: str) -> str:
    return f"shards/{unit_id}.parquet"


def passage_schema() -> pa.Schema:
    """Of the passages on their way; a shard adds the vector."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("number", pa.int64(), nullable=False),
            pa.field("key", pa.binary(32), nullable=False),
            pa.field("document", pa.string(), nullable=False),
            pa.field("ordinal", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("section", pa.string()),
            pa.field("attributes", pa.string(), nullable=False),
            pa.field("tokens", pa.int32(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
        ]
    )


def shard_schema(metadata: dict[str, str]) -> pa.Schema:
    import pyarrow as pa

    # a plain list, not one of fixed size: Milvus' bulk import reads only the former
    vector = pa.field("vector", pa.list_(pa.field("element", pa.float32(), nullable=False)))
    return passage_schema().append(vector).with_metadata(metadata)


def error_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            pa.field("row", pa.int64()),
            pa.field("document", pa.string()),
            pa.field("ordinal", pa.int32()),
            pa.field("code", pa.string(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
        ]
    )


def writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet writer whose bytes depend on the rows and the Arrow version alone."""
    import pyarrow.parquet as pq

    names = [name for name in schema.names if name != "vector"]
    return pq.ParquetWriter(
        path,
        schema,
        # vectors of unit length look like noise: compressing them costs time and saves little
        compression={name: "ZSTD" for name in names} | {"vector.list.element": "NONE"},
        compression_level={name: 3 for name in names},
        use_dictionary=["source", "section", "attributes", "document"],
        write_statistics=["number", "row", "seq"],
        version="2.6",
        data_page_version="1.0",
        store_schema=True,
    )


def write_errors(folder: Folder, name: str, errors: list[dict[str, Any]]) -> None:
    """Write an errors file, or none where there is nothing to tell."""
    import pyarrow as pa

    if errors:
        with folder.writing(name) as path, writer(path, error_schema()) as out:
            out.write_table(pa.Table.from_pylist(errors, error_schema()))


def row_count(folder: Folder, name: str) -> int:
    """Return a Parquet file's number of rows, 0 where it is not there."""
    import pyarrow.parquet as pq

    if not folder.exists(name):
        return 0
    with folder.open(name) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)
