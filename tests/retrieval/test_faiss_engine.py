"""The embedded vector engine."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import Unavailable
from app.retrieval.engines.base import Ids, VectorEngine, Vectors
from app.retrieval.engines.faiss import FaissEngine

DIM = 8


def unit(n: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def engine(tmp_path: Path, n: int = 0) -> FaissEngine:
    made = FaissEngine(str(tmp_path), DIM)
    if n:
        made.add(np.arange(n), unit(n))
    return made


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    kept: VectorEngine = engine(tmp_path, 3)
    assert kept.count == 3


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    n=st.integers(0, 120),
    k=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
def test_search_agrees_with_brute_force(tmp_path_factory, data, n, k, seed) -> None:
    ids = np.random.default_rng(seed).choice(2000, size=n, replace=False).astype(np.int64)
    vectors, query = unit(n, seed), unit(1, seed + 1)[0]
    made = FaissEngine("memory://segments", DIM)
    made.add(ids, vectors)
    removed = np.array(data.draw(st.lists(st.sampled_from(ids.tolist()))) if n else [], np.int64)
    made.remove(removed)
    some = st.none() | st.lists(st.integers(0, 2000) | st.sampled_from([0, *ids.tolist()]))
    allowed = data.draw(some)
    keep = ~np.isin(ids, removed)
    if allowed is not None:
        keep &= np.isin(ids, allowed)
    found, scores = made.search(query, k, None if allowed is None else np.array(allowed, np.int64))
    expected = np.sort(vectors[keep] @ query)[::-1][:k]
    assert scores == pytest.approx(expected, abs=1e-5)
    by_id: dict[int, float] = dict(zip(ids.tolist(), (vectors @ query).tolist(), strict=True))
    assert [by_id[i] for i in found.tolist()] == pytest.approx(scores.tolist(), abs=1e-5)
    assert set(found.tolist()) <= set(ids[keep].tolist())
    assert len(set(found.tolist())) == len(found)


@pytest.mark.parametrize("largest", [300, 2**40])
def test_many_allowed_ids_select_exactly_those(tmp_path: Path, largest: int) -> None:
    made = engine(tmp_path)
    ids: Ids = np.append(np.arange(299), largest)
    made.add(ids, unit(300))
    allowed = ids[::3]
    found, _ = made.search(unit(1, 5)[0], 300, allowed)
    assert sorted(found.tolist()) == allowed.tolist()


def test_adding_a_known_id_replaces_its_vector(tmp_path: Path) -> None:
    made = engine(tmp_path, 5)
    made.add(np.array([2]), -unit(5)[2:3])
    assert made.count == 5
    assert dict(zip(*made.search(unit(5)[2], 5), strict=True))[2] == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        ([1], np.zeros((1, DIM + 1))),
        ([1, 2], np.zeros((1, DIM))),
        ([1, 1], np.zeros((2, DIM))),
        ([-1], np.zeros((1, DIM))),
        ([1], np.full((1, DIM), np.nan)),
        ([1], np.full((1, DIM), np.inf)),
    ],
)
def test_bad_vectors_are_refused_and_change_nothing(tmp_path: Path, ids, vectors) -> None:
    made = engine(tmp_path, 2)
    for write in (made.add, made.write_segment):
        with pytest.raises(ValueError):
            write(np.array(ids), vectors)
    assert made.count == 2
    assert made.segment_names() == []


@pytest.mark.parametrize("query", [np.zeros(DIM + 1), np.full(DIM, np.nan), np.zeros((1, DIM))])
def test_a_bad_query_is_refused(tmp_path: Path, query) -> None:
    with pytest.raises(ValueError, match="query"):
        engine(tmp_path, 2).search(query, 1)


@pytest.mark.parametrize("remote", [False, True])
def test_segments_bring_back_the_same_vectors(tmp_path: Path, remote: bool) -> None:
    folder = f"memory://{tmp_path.name}" if remote else str(tmp_path / "new")
    first = FaissEngine(folder, DIM)
    segments = [
        first.write_segment(np.arange(10), unit(10)),
        first.write_segment(np.arange(8, 20), unit(12, 1)),
    ]
    assert first.count == 0
    assert first.segment_names() == sorted(segment.name for segment in segments)
    again = FaissEngine(folder, DIM)
    again.load(segments)
    assert again.count == 20
    found, scores = again.search(unit(12, 1)[0], 1)
    assert found.tolist() == [8]  # the later segment wins
    assert scores[0] == pytest.approx(1, abs=1e-5)


def test_loading_live_ids_leaves_the_deleted_out(tmp_path: Path) -> None:
    made = engine(tmp_path)
    segment = made.write_segment(np.arange(10), unit(10))
    made.load([segment], live_ids=np.array([1, 3, 99]))
    assert sorted(made.search(unit(1)[0], 10)[0].tolist()) == [1, 3]


def test_merging_keeps_the_live_vectors_and_the_old_files(tmp_path: Path) -> None:
    made = engine(tmp_path)
    old = [
        made.write_segment(np.arange(10), unit(10)),
        made.write_segment(np.arange(10, 20), unit(10, 1)),
    ]
    merged = made.merge(old, np.arange(5, 15))
    assert merged.count == 10
    assert len(made.segment_names()) == 3
    for segment in old:
        made.delete_segment(segment.name)
    made.load([merged])
    found, scores = made.search(unit(10, 1)[3], 1)
    assert found.tolist() == [13]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    made.load([made.merge([merged], np.array([], np.int64))])
    assert made.count == 0


def test_a_damaged_or_missing_segment_is_refused_and_memory_kept(tmp_path: Path) -> None:
    made = engine(tmp_path, 4)
    segment = made.write_segment(np.arange(10), unit(10))
    path = tmp_path / segment.name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Unavailable, match="checksum"):
        made.load([segment])
    path.write_bytes(data[:-9])
    with pytest.raises(Unavailable, match="checksum"):
        made.load([segment])
    with pytest.raises(Unavailable, match="missing"):
        made.load([replace(segment, name="seg_absent.vec")])
    assert made.count == 4


def test_a_crash_before_the_rename_leaves_no_segment(tmp_path: Path, monkeypatch) -> None:
    made = engine(tmp_path)

    def power_cut(self: Path, target: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        made.write_segment(np.arange(3), unit(3))
    assert made.segment_names() == []


def test_searches_run_while_vectors_come_and_go(tmp_path: Path) -> None:
    made = engine(tmp_path, 50)
    wrong: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found, _ = made.search(unit(50)[7], 1)
            if found.tolist() != [7]:
                wrong.append(1)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    extra = -unit(20)
    for _ in range(100):
        made.add(np.arange(100, 120), extra)
        made.remove(np.arange(100, 120))
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert made.count == 50
