"""Small inputs for the pipeline's tests, and ways to look at what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.embeddings.job import Columns, EmbedJob

COLUMNS = Columns(id="id", section="section", attributes=("year",))
# what a run leaves for others; the rest are its own notes
LASTING = ("shards", "keys", "errors")


def document(number: int, words: str = "keeper of the door") -> dict[str, Any]:
    return {
        "id": f"doc-{number}",
        "text": f"Text {number} tells of the {words}.\n\nIts second part is about {number} keys.",
        "section": f"Chapter {number % 3}",
        "year": 1900 + number,
    }


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def job(source: Path | str, output: Path | str, **more: Any) -> EmbedJob:
    given: dict[str, Any] = {"columns": COLUMNS, "shard_rows": 8, "buckets": 4, **more}
    return EmbedJob((str(source),), str(output), **given)


def read_all(output: Path) -> pa.Table:
    """The rows of the manifest's shards, in order."""
    lines = (output / "manifest.jsonl").read_text().splitlines()
    return pa.concat_tables([pq.read_table(output / json.loads(line)["shard"]) for line in lines])


def errors(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted((output / "errors").glob("*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows


def contents(output: Path) -> dict[str, str]:
    """The checksum of each lasting file by its name."""
    files = [output / "manifest.jsonl"]
    for folder in LASTING:
        files += (output / folder).glob("*")
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }
