"""An export is verified from its file alone, and shows every change to it."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from app.monitoring.export import AuditExport, Format
from app.monitoring.export_check import verify_export
from app.monitoring.verification import Verdict
from app.store.models_audit import audit_checkpoints
from tests.monitoring.chains import Chains
from tests.monitoring.test_audit_verify import run


async def checked(chains: Chains, path: Path, *, filed: bool = False) -> Verdict:
    file = chains.file if filed else None
    return await asyncio.to_thread(
        verify_export, path, trusted=chains.keys.trusted, checkpoints=file
    )


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_an_export_is_verified_without_the_database(
    chains: Chains, tmp_path: Path, form: Format
) -> None:
    path = await chains.export(tmp_path / f"audit.{form}", form=form)
    verdict = await checked(chains, path, filed=True)
    assert (verdict.faults, verdict.records, verdict.checkpoints) == ([], 12, 3)
    assert verify_export(path).faults == []  # by the keys that it names itself
    assert run(chains, "--export", str(path))[0] == 0


async def test_parquet_columns_can_be_asked_without_us(chains: Chains, tmp_path: Path) -> None:
    from pyarrow import parquet

    path = await chains.export(tmp_path / "audit.parquet", form="parquet")
    table = parquet.read_table(path, filters=[("type", "=", "record")])
    assert table.num_rows == 12
    assert sum(table["cost_nano_usd"].to_pylist()) == 12 * 350
    assert table["request_id"].to_pylist()[0] == "req_1"


async def test_an_export_of_a_time_begins_and_ends_within_the_chain(
    chains: Chains, tmp_path: Path
) -> None:
    export = AuditExport(chains.db, chains.keys)
    begun = await export.begin("t1", 1_000_003.0, 1_000_009.0)
    path = tmp_path / "part.jsonl"
    path.write_bytes(b"".join([piece async for piece in export.write(begun, "jsonl")]))
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["seq"] for line in lines if line["type"] == "record"] == [3, 4, 5, 6, 7, 8]
    verdict = await checked(chains, path, filed=True)
    assert (verdict.faults, verdict.records, verdict.checkpoints) == ([], 6, 2)


async def test_an_export_of_a_cut_chain_is_found_by_the_file(
    chains: Chains, tmp_path: Path
) -> None:
    from tests.monitoring.test_audit_verify import beyond

    await chains.damage(*beyond(7, 7), delete(audit_checkpoints).where(audit_checkpoints.c.seq > 7))
    path = await chains.export(tmp_path / "audit.jsonl")
    assert (await checked(chains, path)).faults == []
    (fault,) = (await checked(chains, path, filed=True)).faults
    assert (fault.seq, fault.kind) == (8, "truncated")


async def test_a_file_that_was_cut_is_no_export(chains: Chains, tmp_path: Path) -> None:
    path = await chains.export(tmp_path / "audit.jsonl")
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 300, len(whole) // 2, 10, 0):
        path.write_bytes(whole[:cut])
        assert (await checked(chains, path)).faults or cut == len(whole) - 1
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1])
    assert [f.kind for f in (await checked(chains, path)).faults] == ["export_damaged"]


async def test_an_export_takes_the_same_memory_however_long_it_is(chains: Chains) -> None:
    from app.monitoring import export as module

    await asyncio.gather(*(chains.fill(n, n) for n in range(100, 1300)))
    peaks = []
    for until in (1_000_250.0, None):
        export = AuditExport(chains.db, chains.keys)
        begun = await export.begin("t1", None, until)
        written = 0
        tracemalloc.start()
        original, module.PAGE = module.PAGE, 50
        try:
            async for piece in export.write(begun, "jsonl"):
                written += len(piece)
        finally:
            module.PAGE = original
        peaks.append((written, tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    (short, little), (long, much) = peaks
    assert long > 4 * short and much < 2 * little


async def test_an_export_goes_on_while_retention_removes_before_and_behind_it(
    chains: Chains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.monitoring import export as module

    monkeypatch.setattr(module, "PAGE", 3)
    export = AuditExport(chains.db, chains.keys)
    begun = await export.begin("t1", None, None)
    pieces = export.write(begun, "jsonl")
    whole = await anext(pieces)
    await asyncio.to_thread(chains.removal.bodies_of, "t1", [7], "a test")
    await asyncio.to_thread(chains.removal.records, "t1", 5, "a test")
    whole += b"".join([piece async for piece in pieces])
    path = tmp_path / "audit.jsonl"
    path.write_bytes(whole)
    verdict = await checked(chains, path, filed=True)
    assert verdict.faults == []
    lines = [orjson.loads(line) for line in whole.splitlines()]
    assert [n["seq"] for n in lines if n["type"] == "record"] == [1, 2, 3, *range(6, 13)]


# -- any change ---------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a JSON value has something that can be changed."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from places(child, (*path, name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from places(child, (*path, number))
        yield path
    else:
        yield path


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["seq", "hash", "x"]), st.integers(0, 9), max_size=2),
)


@pytest.fixture(scope="module")
async def exported(signed: Chains, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return await signed.export(tmp_path_factory.mktemp("exported") / "audit.jsonl")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_single_change_to_any_line_is_found(
    signed: Chains, exported: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = [orjson.loads(line) for line in exported.read_bytes().splitlines()]
    number = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["value", "character", "drop", "twice", "swap"]))
    before = list(lines)
    if kind == "drop":
        del lines[number]
    elif kind == "twice":
        lines.insert(number, lines[number])
    elif kind == "swap":
        other = data.draw(st.integers(0, len(lines) - 1))
        lines[number], lines[other] = lines[other], lines[number]
    else:
        path = data.draw(st.sampled_from(list(places(lines[number]))))
        old = lines[number]
        for step in path:
            old = old[step]
        new = data.draw(_values)
        if kind == "character" and isinstance(old, str) and old:
            place = data.draw(st.integers(0, len(old) - 1))
            new = old[:place] + data.draw(st.characters(codec="ascii")) + old[place + 1 :]
        lines[number] = changed(lines[number], path, new)
    told = [orjson.dumps(line, option=orjson.OPT_SORT_KEYS) for line in lines]
    assume(told != [orjson.dumps(line, option=orjson.OPT_SORT_KEYS) for line in before])
    file = tmp_path_factory.getbasetemp() / "changed.jsonl"
    file.write_bytes(b"\n".join(told) + b"\n")
    assert verify_export(file, trusted=signed.keys.trusted).faults


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_changed_byte_is_found_or_changes_nothing(
    signed: Chains, exported: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(exported.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    file = tmp_path_factory.getbasetemp() / "byte.jsonl"
    file.write_bytes(whole)
    if not verify_export(file, trusted=signed.keys.trusted).faults:
        same = [orjson.loads(line) for line in exported.read_bytes().splitlines()]
        assert [orjson.loads(line) for line in bytes(whole).splitlines()] == same
