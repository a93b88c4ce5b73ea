"""Whole runs in real worker processes with the real model."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import BadRequest, Conflict, Unavailable
from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from pipelines.embeddings.job import Columns, ModelSpec
from pipelines.embeddings.load import vectors_of
from pipelines.embeddings.progress import Progress, shown
from pipelines.embeddings.run import Report, embed, prune
from pipelines.embeddings.runners import LocalRunner, Outcome
from pipelines.embeddings.storage import Folder
from tests.pipelines.corpus import contents, document, errors, job, read_all, write_lines

Run = Callable[..., Report]


def test_every_passage_gets_the_vector_that_the_encoder_gives_it(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", map(document, range(20)))
    report = run(job(source, tmp_path / "out"))
    assert (report.state, report.shards, report.passages) == ("complete", 3, 20)
    table = read_all(tmp_path / "out")
    assert table["document"].to_pylist() == [f"doc-{i}" for i in range(20)]
    assert table["attributes"].to_pylist()[4] == '{"year":1904}'
    model = OnnxEmbedder(packaged_bge_dir(), threads=1)
    texts = zip(table["section"].to_pylist(), table["text"].to_pylist(), strict=True)
    expected = model.encode_passages([f"{section}\n{text}" for section, text in texts])
    assert np.array_equal(vectors_of(table, model.dim), expected)
    assert table["tokens"].to_pylist() == [model.count_tokens(t) for t in table["text"].to_pylist()]


def test_long_texts_are_cut_as_ingestion_cuts_them(tmp_path: Path, run: Run) -> None:
    words = " ".join(f"Sentence {i} speaks of doors." for i in range(120))
    source = write_lines(tmp_path / "a.jsonl", [{"id": "long", "text": words}])
    run(job(source, tmp_path / "out", max_tokens=40, overlap_tokens=8))
    table = read_all(tmp_path / "out")
    assert table["ordinal"].to_pylist() == list(range(table.num_rows))
    assert table.num_rows > 10 and max(table["tokens"].to_pylist()) <= 40
    run(job(source, tmp_path / "whole", max_tokens=0, overlap_tokens=0))
    assert read_all(tmp_path / "whole")["text"].to_pylist() == [words]


def test_equal_passages_are_embedded_once_across_shards_and_files(tmp_path: Path, run: Run) -> None:
    same = [{**document(0), "id": f"copy-{i}"} for i in range(30)]
    write_lines(tmp_path / "in/a.jsonl", [document(0), *same[:15], document(1)])
    write_lines(tmp_path / "in/b.jsonl", [*same[15:], document(1) | {"id": "again"}, document(2)])
    report = run(job(tmp_path / "in", tmp_path / "out"))
    assert (report.passages, report.embedded, report.copied) == (34, 3, 31)
    table = read_all(tmp_path / "out")
    by_key: dict[bytes, set[bytes]] = {}
    for key, vector in zip(table["key"].to_pylist(), vectors_of(table, 384), strict=True):
        by_key.setdefault(key, set()).add(vector.tobytes())
    assert len(by_key) == 3 and all(len(vectors) == 1 for vectors in by_key.values())


def test_a_second_run_embeds_what_is_new_and_nothing_else(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", map(document, range(24)))
    run(job(source, tmp_path / "out"))
    before = contents(tmp_path / "out")
    again = run(job(source, tmp_path / "out"))
    assert (again.state, again.embedded, again.copied) == ("complete", 0, 0)
    assert contents(tmp_path / "out") == before
    rows = [document(i) for i in range(24) if i != 5] + [document(99)]
    write_lines(source, rows)
    changed = run(job(source, tmp_path / "out"))
    assert (changed.passages, changed.embedded, changed.copied) == (24, 1, 23)
    ids = read_all(tmp_path / "out")["document"].to_pylist()
    assert ids == [row["id"] for row in rows]


def test_pruning_keeps_what_counts_and_a_later_run_still_copies(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", map(document, range(16)))
    run(job(source, tmp_path / "out"))
    write_lines(source, map(document, range(4, 20)))
    run(job(source, tmp_path / "out"))
    table = read_all(tmp_path / "out")
    assert prune(str(tmp_path / "out")) == 2
    assert len(list((tmp_path / "out/shards").iterdir())) == 2
    assert read_all(tmp_path / "out").equals(table)
    write_lines(source, map(document, range(5, 21)))
    report = run(job(source, tmp_path / "out"))
    assert (report.embedded, report.copied) == (1, 15)


def test_one_worker_makes_the_same_bytes_as_two(tmp_path: Path, run: Run) -> None:
    rows = [document(i % 25, "keys and doors") | {"id": f"r{i}"} for i in range(60)]
    source = write_lines(tmp_path / "a.jsonl", rows)
    run(job(source, tmp_path / "two"))
    single = LocalRunner(1)
    try:
        embed(job(source, tmp_path / "one"), single, Progress(lambda line: None))
    finally:
        single.close()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_packed_files_and_parquet_give_the_same_vectors(tmp_path: Path, run: Run) -> None:
    rows = [document(i) for i in range(30)]
    plain = write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=11)
    tables = []
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        report = run(job(tmp_path / name, tmp_path / f"out-{name}"))
        assert (report.state, report.shards) == ("complete", 4)
        tables.append(read_all(tmp_path / f"out-{name}").drop_columns(["source"]))
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_bad_rows_and_files_fail_alone_and_are_told(tmp_path: Path, run: Run) -> None:
    rows = [document(0), "{", {"id": "x", "text": 7}, document(0), document(1)]
    write_lines(tmp_path / "in/a.jsonl", rows)
    (tmp_path / "in/b.parquet").write_bytes(b"no parquet at all")
    report = run(job(tmp_path / "in", tmp_path / "out"))
    assert (report.state, report.passages, report.errors) == ("incomplete", 2, 3)
    assert len(report.failed) == 1 and "b.parquet" in report.failed[0]
    told = [(e["row"], e["code"]) for e in errors(tmp_path / "out")]
    assert sorted(told, key=str) == sorted(
        [(1, "not_json"), (2, "not_text"), (3, "duplicate_id"), (None, "corrupt_file")], key=str
    )
    pq.write_table(pa.Table.from_pylist([document(2)]), tmp_path / "in/b.parquet")
    healed = run(job(tmp_path / "in", tmp_path / "out"))
    assert (healed.state, healed.passages, healed.embedded) == ("complete", 3, 1)


def test_a_file_whose_middle_is_broken_fails_alone(tmp_path: Path, run: Run) -> None:
    write_lines(tmp_path / "in/a.jsonl", map(document, range(3)))
    broken = tmp_path / "in/b.parquet"
    pq.write_table(pa.Table.from_pylist([document(i) for i in range(3, 90)]), broken)
    data = bytearray(broken.read_bytes())
    data[4:400] = b"\xff" * 396  # the first page; the footer stays whole
    broken.write_bytes(data)
    report = run(job(tmp_path / "in", tmp_path / "out"))
    assert report.state == "incomplete" and report.passages == 3
    assert all("b.parquet" in line for line in report.failed)


def test_an_output_folder_serves_one_model_and_layout(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", [document(0)])
    run(job(source, tmp_path / "out"))
    with pytest.raises(Conflict, match="buckets 4, this run has 8"):
        run(job(source, tmp_path / "out", buckets=8))


def test_a_folder_without_a_model_is_refused(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", [document(0)])
    with pytest.raises(Unavailable, match=r"model\.onnx"):
        run(job(source, tmp_path / "out", model=ModelSpec(folder=str(tmp_path))))


def test_two_runs_do_not_share_a_folder(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", [document(0)])
    with (
        Folder(str(tmp_path / "out")).owned(),
        pytest.raises(Unavailable, match="Another run"),
    ):
        run(job(source, tmp_path / "out"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("buckets", 3), ("max_tokens", -1), ("overlap_tokens", 200), ("shard_bytes", 0)],
)
def test_a_job_that_makes_no_sense_is_refused(
    tmp_path: Path, run: Run, field: str, value: int
) -> None:
    with pytest.raises(BadRequest, match=field):
        run(job(tmp_path, tmp_path / "out", **{field: value}))


def test_progress_is_told_and_written_for_machines(tmp_path: Path, workers: LocalRunner) -> None:
    source = write_lines(tmp_path / "a.jsonl", [*map(document, range(20)), "{"])
    lines: list[str] = []
    embed(
        job(source, tmp_path / "out"),
        workers,
        Progress(lines.append, every_s=0, metrics_file=tmp_path / "m.prom"),
    )
    assert any(line.startswith("embed: ") and "/s" in line and "left" in line for line in lines)
    text = (tmp_path / "m.prom").read_text()
    assert "ostiary_pipeline_passages_embedded 20.0" in text
    assert 'ostiary_pipeline_stage{stage="embed"} 1.0' in text
    progress = Progress(lines.append, metrics_file=tmp_path / "m.json")
    embed(job(source, tmp_path / "out"), workers, progress)
    assert json.loads((tmp_path / "m.json").read_text())["units_done"] == 3


def test_time_left_follows_the_rate_of_this_start() -> None:
    now = [0.0]
    progress = Progress(lambda line: None, clock=lambda: now[0])
    progress.start()
    progress.enter("embed", 1000, work_done=400)
    assert progress.left_s is None
    now[0], progress.work_done = 10.0, 500
    assert progress.rate == 10.0 and progress.left_s == 50.0
    assert [shown(s) for s in (None, 59, 61, 7200, 200_000)] == [
        "unknown time",
        "59 s",
        "1 min 1 s",
        "2 h 0 min",
        "2 d 7 h",
    ]


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lineage_names_inputs_outputs_and_the_end(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", map(document, range(4)))
    run(job(source, tmp_path / "out"), lineage=str(tmp_path / "events.jsonl"))
    start, complete = events_of(tmp_path / "events.jsonl")
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["schemaURL"].endswith("2-0-2/OpenLineage.json#/$defs/RunEvent")
    assert complete["inputs"][0] | {"inputFacets": 0, "facets": 0} == {
        "namespace": "file",
        "name": str(source),
        "inputFacets": 0,
        "facets": 0,
    }
    assert complete["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 4
    (tmp_path / "b.parquet").write_bytes(b"broken")
    run(job(tmp_path / "b.parquet", tmp_path / "o2"), lineage=str(tmp_path / "fail.jsonl"))
    failed = events_of(tmp_path / "fail.jsonl")[-1]
    assert failed["eventType"] == "FAIL"
    assert "1 parts failed" in failed["run"]["facets"]["errorMessage"]["message"]


def test_lineage_goes_to_a_collector_and_its_absence_costs_nothing(
    tmp_path: Path, run: Run
) -> None:
    got: list[dict[str, Any]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = write_lines(tmp_path / "a.jsonl", [document(0)])
    url = f"http://127.0.0.1:{server.server_port}"
    run(job(source, tmp_path / "out"), lineage=url)
    assert [event["eventType"] for event in got] == ["START", "COMPLETE"]
    server.shutdown()
    server.server_close()
    assert run(job(source, tmp_path / "out"), lineage=url).state == "complete"


@dataclass(frozen=True)
class Deadly:
    """Kills its worker, as running out of memory does."""

    label: str = "deadly"

    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Harmless:
    label: str = "harmless"

    def run(self) -> str:
        return "done"


def test_a_task_that_kills_its_worker_fails_alone_after_three_attempts() -> None:
    runner = LocalRunner(1)
    try:
        runner.submit(Deadly())
        runner.submit(Harmless())
        outcomes: list[Outcome] = []
        while len(outcomes) < 2:
            outcomes += runner.wait(30)
        assert {(o.task.label, o.value, o.code) for o in outcomes} == {
            ("deadly", None, "worker_died"),
            ("harmless", "done", ""),
        }
        assert any("died 3 times, the last time of signal 9" in o.error for o in outcomes)
    finally:
        runner.close()


def test_rows_without_an_id_are_named_by_file_and_row(tmp_path: Path, run: Run) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    run(job(source, tmp_path / "out", columns=Columns()))
    assert read_all(tmp_path / "out")["document"].to_pylist() == [f"{source}#0", f"{source}#1"]
