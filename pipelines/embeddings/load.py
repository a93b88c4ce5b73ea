"""Hands the vectors of finished shards to a vector engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import BadRequest, NotFound, Unavailable
from pipelines.embeddings.driving import Driver
from pipelines.embeddings.layout import FOLDER, MANIFEST
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.runners import Runner
from pipelines.embeddings.storage import Folder

if TYPE_CHECKING:
    import pyarrow as pa

    from app.retrieval.engines.base import Ids, SegmentInfo, Vectors

Write = Callable[[str, "Ids", "Vectors"], Any]
SEGMENT_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load handed over."""

    files: int
    passages: int


def manifest(url: str) -> list[dict[str, Any]]:
    """Return one record a shard, in the order of the inputs' rows.

    Raises:
        NotFound: the folder has no manifest; its first run has not ended.
    """
    folder = Folder(url)
    if not folder.exists(MANIFEST):
        raise NotFound("manifest", url, remedy="Run 'ostiary pipeline embed' to its end first.")
    return [json.loads(line) for line in folder.read(MANIFEST).splitlines()]


def dim_of(url: str) -> int:
    """Return the length of a folder's vectors."""
    return int(json.loads(Folder(url).read(FOLDER))["dim"])


def read_shard(
    folder: Folder, record: dict[str, Any], columns: list[str], verify: bool = False
) -> Iterator[pa.Table]:
    """Yield a shard's rows group by group, some 4,096 at once.

    Args:
        verify: compare the file with the manifest's SHA-256 first.

    Raises:
        Unavailable: the shard is gone or not as the manifest says.
    """
    import pyarrow.parquet as pq

    name = record["shard"]
    try:
        if verify and folder.digest(name)[0] != record["sha256"]:
            raise Unavailable(
                f"{name} is not as the manifest says. Delete it and run the embedding again.",
                code="corrupt_shard",
            )
        with folder.open(name) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns)
    except FileNotFoundError as error:
        raise Unavailable(
            f"{name} is gone. Run the embedding again.", code="shard_missing"
        ) from error


def vectors_of(table: pa.Table, dim: int) -> Vectors:
    """Return a table's vectors, float32 array of shape (n, dim)."""
    column = table["vector"].combine_chunks()
    found: Vectors = np.asarray(column.flatten(), np.float32).reshape(-1, dim)
    return found


def load(
    shards_url: str,
    write: Write,
    *,
    by: str = "document",
    skip: Callable[[str], bool] = lambda file_id: False,
    verify: bool = True,
) -> Loaded:
    """Call ``write(file_id, numbers, vectors)`` for everything in the manifest, in its order.

    One shard is in memory at a time. After a crash, load again: engines take the same numbers
    again without harm, and ``skip`` leaves out what the caller knows to be there.

    Args:
        write: gets int64 numbers of shape (n,) and float32 vectors of shape (n, dim).
        by: ``document`` calls it for each input row with the row's id; ``shard`` for each
            shard with the shard's name, which makes fewer and larger files.

    Raises:
        NotFound: the folder has no manifest.
        BadRequest: ``by`` is neither, or an id occurs twice.
        Unavailable: a shard is gone or broken.
    """
    if by not in ("document", "shard"):
        raise BadRequest(f"by is {by!r}; give 'document' or 'shard'.", param="by")
    folder, records = Folder(shards_url), manifest(shards_url)
    dim = dim_of(shards_url)
    files = passages = 0
    for record in records:
        if by == "shard" and skip(record["unit"]):
            continue
        documents, numbers, vectors = _whole(folder, record, dim, verify)
        if by == "shard":
            parts = [(record["unit"], len(numbers))] if len(numbers) else []
        else:
            parts = _runs(documents)
        start = 0
        for file_id, rows in parts:
            if by == "shard" or not skip(file_id):
                write(file_id, numbers[start : start + rows], vectors[start : start + rows])
                files += 1
                passages += rows
            start += rows
    return Loaded(files, passages)


def _whole(
    folder: Folder, record: dict[str, Any], dim: int, verify: bool
) -> tuple[list[str], Ids, Vectors]:
    documents: list[str] = []
    numbers = np.empty(record["passages"], np.int64)
    vectors = np.empty((record["passages"], dim), np.float32)
    start = 0
    for table in read_shard(folder, record, ["number", "document", "vector"], verify):
        end = start + table.num_rows
        numbers[start:end] = table["number"].to_numpy()
        vectors[start:end] = vectors_of(table, dim)
        documents += table["document"].to_pylist()
        start = end
    return documents, numbers, vectors


def _runs(documents: list[str]) -> list[tuple[str, int]]:
    """Return (id, rows) of neighbouring rows of one document.

    Raises:
        BadRequest: an id comes back after another.
    """
    runs: dict[str, int] = {}
    last = None
    for document in documents:
        if document in runs and document != last:
            raise BadRequest(
                f"The id {document!r} occurs in two places of the inputs; a row's id must be its "
                "own. Embed without --id, or with a column of unique ids.",
                code="duplicate_id",
            )
        runs[document] = runs.get(document, 0) + 1
        last = document
    return list(runs.items())


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """Builds, tunes and indexes one FAISS segment of some shards."""

    shards_url: str
    records: tuple[dict[str, Any], ...]
    engine_url: str
    recall_target: float
    recipe: str
    ledger: str

    @property
    def label(self) -> str:
        return f"segment of {len(self.records)} shards from {self.records[0]['shard']}"

    def run(self) -> SegmentInfo | None:
        """Write the segment and note it in the ledger; one that is noted is not built again.

        Raises:
            BadRequest: an id occurs twice.
            Unavailable: a shard is gone or broken.
        """
        from app.retrieval.engines.base import SegmentInfo
        from app.retrieval.engines.faiss import FaissEngine

        folder, dim = Folder(self.shards_url), dim_of(self.shards_url)
        if folder.exists(self.ledger):
            return SegmentInfo(**json.loads(folder.read(self.ledger)))
        documents: list[str] = []
        parts = []
        for record in self.records:
            names, numbers, vectors = _whole(folder, record, dim, verify=True)
            documents += names
            parts.append((numbers, vectors))
        if not documents:
            return None
        engine = FaissEngine(self.engine_url, dim, self.recall_target, recipe=self.recipe)
        info = engine.write_many(
            _runs(documents),
            np.concatenate([numbers for numbers, _ in parts]),
            np.concatenate([vectors for _, vectors in parts]),
        )
        folder.write(self.ledger, json.dumps(asdict(info)).encode())
        return info


def build_segments(
    shards_url: str,
    engine_url: str,
    runner: Runner,
    progress: Progress,
    *,
    segment_rows: int = SEGMENT_ROWS,
    recall_target: float = 0.95,
    recipe: str = "auto",
) -> list[SegmentInfo]:
    """Build the FAISS segments of all shards side by side, in the workers of ``runner``.

    The caller publishes the segments to its engine and records them in its manifest, then
    they are found. A crash costs the segments that were being built; their files are named in
    no manifest, and the engine's ``sweep`` removes them.

    Args:
        engine_url: folder of the `FaissEngine`, which all workers must reach.
        segment_rows: about so many vectors a segment; a worker needs about 8 * dim bytes for
            each while it builds.

    Raises:
        NotFound: the folder has no manifest.
        Unavailable: a segment could not be built; the others are kept, load again.
    """
    groups: list[list[dict[str, Any]]] = []
    rows = segment_rows
    for record in manifest(shards_url):
        if rows + record["passages"] > segment_rows:
            groups.append([])
            rows = 0
        groups[-1].append(record)
        rows += record["passages"]
    tasks = []
    for group in groups:
        told = [engine_url, recall_target, recipe, *(r["sha256"] for r in group)]
        name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
        ledger = f"loads/{name}.json"
        tasks.append(
            SegmentTask(shards_url, tuple(group), engine_url, recall_target, recipe, ledger)
        )
    progress.start()
    progress.enter("load", len(tasks))
    found: dict[str, SegmentInfo | None] = {}
    failed = []
    for outcome in Driver(runner, progress, lambda: False, 0).drive(tasks):
        assert isinstance(outcome.task, SegmentTask)
        progress.work_done += 1
        found[outcome.task.ledger] = outcome.value
        if outcome.error:
            failed.append(f"{outcome.task.label}: {outcome.error}")
    if failed:
        raise Unavailable(f"{len(failed)} segments were not built; load again. {failed[0]}")
    made = (found[task.ledger] for task in tasks)
    return [info for info in made if info is not None]


def milvus_files(shards_url: str, output_url: str) -> list[str]:
    """Write the shards as files for Milvus' bulk import: number, file_id, vector.

    The collection must have those fields, as ours do. Files that are there are kept.

    Args:
        output_url: a folder in the bucket of Milvus' own object store.

    Returns:
        the files' names below ``output_url``, for ``bulk_import``.

    Raises:
        NotFound: the folder has no manifest.
        Unavailable: a shard is gone or broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, target = Folder(shards_url), Folder(output_url)
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False))
    schema = pa.schema([("number", pa.int64()), ("file_id", pa.string()), ("vector", vector)])
    names = []
    for record in manifest(shards_url):
        name = f"{record['unit']}.parquet"
        if not record["passages"]:
            continue
        names.append(name)
        if target.exists(name):
            continue
        with target.writing(name) as path, pq.ParquetWriter(path, schema) as out:
            for table in read_shard(source, record, ["number", "document", "vector"], True):
                out.write_table(table.rename_columns(schema.names).cast(schema))
    return names
