"""Handing finished shards to engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from app.errors import BadRequest, NotFound, Unavailable
from pipelines.embeddings.load import build_segments, load, milvus_files, vectors_of
from pipelines.embeddings.progress import Progress
from pipelines.embeddings.run import Report
from pipelines.embeddings.runners import LocalRunner
from tests.conftest import wait_for
from tests.pipelines.conftest import silent
from tests.pipelines.corpus import document, job, read_all, write_lines
from tests.retrieval.conftest import MilvusEngine, MilvusServer, milvus_server

Run = Callable[..., Report]
__all__ = ["milvus_server"]  # a fixture of its neighbours


class Recorder:
    """Keeps what a load hands over."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[Any, Any]] = {}

    def write(self, file_id: str, numbers: Any, vectors: Any) -> None:
        assert numbers.dtype == np.int64 and vectors.dtype == np.float32
        self.files[file_id] = numbers, vectors


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("load")
    long = {"id": "long", "text": "\n\n".join(f"Part {i} of a long text." for i in range(12))}
    rows = [long, *map(document, range(20))]
    run(job(write_lines(root / "a.jsonl", rows), root / "out", max_tokens=20, overlap_tokens=0))
    yield root / "out"


def test_each_document_is_written_with_its_numbers_and_vectors(shards: Path) -> None:
    table = read_all(shards)
    kept = Recorder()
    loaded = load(str(shards), kept.write)
    assert (loaded.files, loaded.passages) == (21, table.num_rows)
    assert list(kept.files) == ["long", *(f"doc-{i}" for i in range(20))]
    assert len(kept.files["long"][0]) > 3
    numbers = np.concatenate([n for n, _ in kept.files.values()])
    vectors = np.concatenate([v for _, v in kept.files.values()])
    assert numbers.tolist() == table["number"].to_pylist()
    assert np.array_equal(vectors, vectors_of(table, 384))


def test_a_shard_can_be_one_file_and_known_files_are_skipped(shards: Path) -> None:
    kept = Recorder()
    load(str(shards), kept.write, by="shard")
    assert len(kept.files) == 3
    first = next(iter(kept.files))
    rest = load(str(shards), Recorder().write, by="shard", skip=lambda name: name == first)
    assert rest.files == 2


def test_what_cannot_be_loaded_is_told(shards: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(NotFound, match="to its end first"):
        load(str(tmp_path), Recorder().write)
    with pytest.raises(BadRequest, match="'document' or 'shard'"):
        load(str(shards), Recorder().write, by="row")
    source = write_lines(tmp_path / "a.jsonl", [document(0)])
    run(job(source, tmp_path / "out"))
    (shard,) = (tmp_path / "out/shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Unavailable, match="not as the manifest says"):
        load(str(tmp_path / "out"), Recorder().write)
    shard.unlink()
    with pytest.raises(Unavailable, match="is gone"):
        load(str(tmp_path / "out"), Recorder().write)


def test_segments_built_in_parallel_find_every_passage(
    shards: Path, tmp_path: Path, workers: LocalRunner
) -> None:
    from app.retrieval.engines.faiss import FaissEngine

    folder = str(tmp_path / "index")
    quiet = Progress(silent)
    infos = build_segments(str(shards), folder, workers, quiet, segment_rows=12)
    assert len(infos) >= 2
    engine = FaissEngine(folder, 384)
    for info in infos:
        engine.publish(info)
    table = read_all(shards)
    assert engine.count == table.num_rows
    vectors = vectors_of(table, 384)
    for row, number in enumerate(table["number"].to_pylist()):
        assert engine.search(vectors[row], 1)[0].tolist() == [number]
    engine.remove("long")
    assert engine.count == 20
    again = build_segments(str(shards), folder, workers, Progress(silent), segment_rows=12)
    assert again == infos  # noted in the ledger, not built anew


def test_files_for_milvus_hold_number_file_and_vector(shards: Path, tmp_path: Path) -> None:
    names = milvus_files(str(shards), str(tmp_path))
    assert milvus_files(str(shards), str(tmp_path)) == names
    rows = [row for name in names for row in pq.read_table(tmp_path / name).to_pylist()]
    table = read_all(shards)
    assert [row["number"] for row in rows] == table["number"].to_pylist()
    assert [row["file_id"] for row in rows] == table["document"].to_pylist()
    assert len(rows[0]["vector"]) == 384


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*ORM-style")
def test_a_milvus_server_imports_the_files_itself(
    shards: Path,
    tmp_path: Path,
    milvus_server: MilvusServer,
) -> None:
    from pymilvus import connections, utility

    engine = MilvusEngine(milvus_server.url, "bulk", 384, token=milvus_server.token)
    table = read_all(shards)
    vectors = vectors_of(table, 384)
    assert engine.search(vectors[0], 1)[0].tolist() == []  # which makes the collection
    names = milvus_files(str(shards), str(tmp_path))
    connections.connect(uri=milvus_server.url, token=milvus_server.token)
    try:
        asked = [utility.do_bulk_insert("bulk", [str(tmp_path / name)]) for name in names]

        def states() -> list[str]:
            return [utility.get_bulk_insert_state(task).state_name for task in asked]

        wait_for(lambda: set(states()) <= {"Completed", "Failed"}, 120, "the import")
        assert set(states()) == {"Completed"}
    finally:
        connections.disconnect("default")

    def found() -> list[Any]:
        return [engine.search(vector, 1)[0].tolist() for vector in vectors]

    expected = [[number] for number in table["number"].to_pylist()]
    wait_for(lambda: found() == expected, 60, "the imported rows to be found")
