"""Finding input files, cutting them into spans and reading their rows."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, NotFound, Unavailable
from pipelines.embeddings.job import Columns
from pipelines.embeddings.rows import Bad, Blank, Row, RowReader
from pipelines.embeddings.sources import Source, expand, survey
from tests.conftest import package
from tests.pipelines.corpus import document, write_lines

PLAIN = Columns()


def rows_of(source: Source, columns: Columns = PLAIN, bytes_: int = 1 << 20, rows: int = 7) -> Any:
    """Every item of a file, span by span."""
    found = survey(source, columns.all(), bytes_, rows)
    reader = RowReader(source, columns)
    assert sum(span.rows for span in found.spans) == found.rows
    return [item for span in found.spans for item in reader.read(span)]


def one(path: Path | str) -> Source:
    (source,) = expand((str(path),))
    return source


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=30),
    ended=st.booleans(),
    size=st.integers(1, 200),
    rows=st.integers(1, 9),
)
def test_spans_of_a_file_of_lines_hold_every_line_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ended: bool, size: int, rows: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    data = "\n".join(json.dumps({"text": text}) for text in lines)
    path.write_bytes((data + "\n" * (ended and bool(lines))).encode())
    items = rows_of(one(path), bytes_=size, rows=rows)
    assert [item.number for item in items] == list(range(len(lines)))
    for item, text in zip(items, lines, strict=True):
        assert item.text == text if text.strip() else isinstance(item, Blank)


def test_packed_lines_read_as_plain_ones(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "a.jsonl", map(document, range(40))).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain))
    with pa.output_stream(tmp_path / "a.jsonl.zst", compression="zstd") as out:
        out.write(plain)
    expected = [item.text for item in rows_of(one(tmp_path / "a.jsonl"))]
    for suffix in ("gz", "zst"):
        packed = rows_of(one(tmp_path / f"a.jsonl.{suffix}"))
        assert [item.text for item in packed] == expected


def test_parquet_spans_cross_row_groups(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([document(i) for i in range(50)])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=9)
    columns = Columns(id="id", attributes=("year",))
    items = rows_of(one(tmp_path / "a.parquet"), columns)
    assert [item.id for item in items] == [f"doc-{i}" for i in range(50)]
    assert items[3].attributes == '{"year":1903}'


def test_folders_and_globs_find_what_can_be_read_and_skip_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "deep/a.ndjson", "_tmp/x.jsonl", ".hidden.jsonl"):
        write_lines(tmp_path / name, [document(1)])
    (tmp_path / "notes.txt").write_text("not for us")
    assert [s.url.rpartition("/")[2] for s in expand((str(tmp_path),))] == ["b.jsonl", "a.ndjson"]
    assert [s.url.rpartition("/")[2] for s in expand((f"{tmp_path}/*.jsonl",))] == ["b.jsonl"]


def test_an_input_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="suffix"):
        expand((str(tmp_path),))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(BadRequest, match="parquet"):
        expand((str(tmp_path / "a.csv"),))
    with pytest.raises(BadRequest, match="cannot be read"):
        expand(("nowhere://x",))


BROKEN = [
    ("not json", "not_json"),
    ("[1]", "not_an_object"),
    ('{"id": "a"}', "no_text"),
    ('{"id": "a", "text": 5}', "not_text"),
    ('{"id": 1.5, "text": "x"}', "bad_id"),
    ('{"id": "", "text": "x"}', "bad_id"),
    ('{"text": "x"}', "bad_id"),
    ('{"id": "a", "text": "x", "section": []}', "not_text"),
    ('{"id": "a", "text": "x", "year": {"a": 1}}', "bad_attribute"),
    ('{"id": "a", "text": "x", "year": 1e999}', "not_json"),
]


@pytest.mark.parametrize(("line", "code"), BROKEN)
def test_a_bad_row_fails_alone_with_its_reason(tmp_path: Path, line: str, code: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [document(0), line, "", document(2)])
    columns = Columns(id="id", section="section", attributes=("year",))
    good, bad, blank, last = rows_of(one(path), columns)
    assert isinstance(good, Row) and isinstance(last, Row)
    assert isinstance(bad, Bad) and bad.code == code and bad.number == 1
    assert isinstance(blank, Blank)


@settings(max_examples=80, deadline=None)
@given(line=st.binary(max_size=60))
def test_no_line_stops_the_reader(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes(line.replace(b"\n", b" ") + b'\n{"text": "after"}\n')
    items = rows_of(one(path))
    assert len(items) == 2 and items[1].text == "after"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("kept", [0, 40, -30])
def test_a_cut_off_file_is_told_as_broken(tmp_path: Path, suffix: str, kept: int) -> None:
    plain = write_lines(tmp_path / "whole.jsonl", map(document, range(300))).read_bytes()
    whole = tmp_path / f"whole.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([document(i) for i in range(300)]), whole)
    elif suffix == "jsonl.gz":
        whole.write_bytes(gzip.compress(plain))
    else:
        with pa.output_stream(whole, compression="zstd") as out:
            out.write(plain)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[:kept])
    if kept == 0 and suffix != "parquet":
        assert rows_of(one(cut)) == []  # nothing is a file of no lines
        return
    with pytest.raises(Unavailable, match="cannot be read whole"):
        rows_of(one(cut))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(Unavailable, match="no column 'text'; it has body"):
        survey(one(tmp_path / "a.parquet"), ["text"], 100, 10)


def test_a_delta_table_gives_its_live_rows_with_their_partition(tmp_path: Path) -> None:
    deltalake = package("deltalake")
    path = str(tmp_path / "table")
    rows = [{**document(i), "lang": "en" if i % 2 else "de"} for i in range(10)]
    deltalake.write_deltalake(path, pa.Table.from_pylist(rows), partition_by=["lang"])
    deltalake.DeltaTable(path).delete("id = 'doc-3'")
    columns = Columns(id="id", attributes=("lang",))
    items = [item for source in expand((path,)) for item in rows_of(source, columns)]
    assert sorted(i.id for i in items) == sorted(f"doc-{i}" for i in range(10) if i != 3)
    for item in items:
        odd = int(item.id[4:]) % 2
        assert json.loads(item.attributes) == {"lang": "en" if odd else "de"}


def test_delta_partitions_of_any_name_are_found(tmp_path: Path) -> None:
    deltalake = package("deltalake")
    path = str(tmp_path / "table")
    names = ["a b/ü%20", None, "=,:"]
    day = datetime.datetime(2024, 1, 1, 5)
    rows = [{"text": f"t{i}", "lang": names[i], "day": day} for i in range(3)]
    deltalake.write_deltalake(path, pa.Table.from_pylist(rows), partition_by=["lang", "day"])
    columns = Columns(attributes=("lang", "day"))
    found = [json.loads(i.attributes) for s in expand((path,)) for i in rows_of(s, columns)]
    assert {one.get("lang") for one in found} == set(names)
    assert {one["day"] for one in found} == {"2024-01-01T05:00:00"}


def test_rows_that_a_deletion_vector_hides_are_not_read(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", map(document, range(4)))
    hidden = Source(one(path).url, str(path), dropped=(1, 2))
    assert [type(item) for item in rows_of(hidden)] == [Row, Blank, Blank, Row]
