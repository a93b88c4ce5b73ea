"""What every vector engine promises, tried on FAISS, a Milvus Lite file and a Milvus server."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.retrieval.engines.base import AllBut, Ids, VectorEngine, Vectors
from tests.retrieval.conftest import Engines

DIM = 8


def unit(n: int, seed: int = 0, dim: int = DIM) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def put(engine: VectorEngine, file_id: str, numbers: Ids, vectors: Vectors) -> None:
    engine.publish(engine.write(file_id, numbers, vectors))


class Reference:
    """What the engine should find: every product, by NumPy."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str, Vectors]] = {}

    def put(self, file_id: str, numbers: Ids, vectors: Vectors) -> None:
        pairs = zip(numbers.tolist(), vectors, strict=True)
        self.rows.update({n: (file_id, v) for n, v in pairs})

    def scores(self, query: Vectors, files: list[str] | AllBut | None = None) -> dict[int, float]:
        def looked(file_id: str) -> bool:
            if isinstance(files, AllBut):
                return file_id not in files.hidden
            return files is None or file_id in files

        kept = {n: v for n, (f, v) in self.rows.items() if looked(f)}
        return {n: float(v @ query) for n, v in kept.items()}

    def check(
        self, engine: VectorEngine, query: Vectors, k: int, files: list[str] | AllBut | None = None
    ) -> None:
        expected = self.scores(query, files)
        numbers, scores = engine.search(query, k, files)
        assert numbers.dtype == np.int64 and scores.dtype == np.float32
        assert len(set(numbers.tolist())) == len(numbers) == min(max(k, 0), len(expected))
        assert (np.diff(scores) <= 1e-6).all()
        best = sorted(expected.values(), reverse=True)[: len(numbers)]
        assert scores == pytest.approx(best, abs=1e-3)
        assert scores == pytest.approx([expected[n] for n in numbers.tolist()], abs=1e-3)


@pytest.fixture(scope="module")
def filled(new_engine: Engines) -> tuple[VectorEngine, Reference]:
    """300 vectors of 10 files; not to be changed."""
    engine, reference = new_engine(DIM), Reference()
    for place in range(10):
        numbers = np.arange(30) * 7 + place * 1000
        vectors = unit(30, seed=place)
        put(engine, f"file_{place}", numbers, vectors)
        reference.put(f"file_{place}", numbers, vectors)
    return engine, reference


def test_what_is_published_is_found_best_first_with_its_inner_products(filled) -> None:
    engine, reference = filled
    assert engine.count == 300
    for seed in range(5):
        reference.check(engine, unit(1, 100 + seed)[0], 10)


def test_more_can_be_asked_for_than_there_is(filled) -> None:
    engine, reference = filled
    reference.check(engine, unit(1, 100)[0], 1000)
    reference.check(engine, unit(1, 100)[0], 100_000)


@pytest.mark.parametrize("k", [0, -1])
def test_asking_for_none_gives_none(filled, k: int) -> None:
    engine, reference = filled
    reference.check(engine, unit(1, 100)[0], k)


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["file_3"],
        ["file_3", "file_3"],
        ["file_1", "file_9"],
        ["unknown"],
        ["unknown", "file_2"],
        [""],
        ["file_2", 'x"] or number >= 0 or file_id in ["', "file_\x00", "x" * 5000],
    ],
)
def test_only_the_asked_files_are_searched(filled, files: list[str]) -> None:
    engine, reference = filled
    reference.check(engine, unit(1, 100)[0], 50, files)


@pytest.mark.parametrize("hidden", [["file_1"], ["file_0", "file_9", "?"], ["never"]])
def test_a_few_files_can_be_left_out(filled, hidden: list[str]) -> None:
    engine, reference = filled
    reference.check(engine, unit(1, 100)[0], 50, AllBut(frozenset(hidden)))


def test_thousands_of_files_can_be_left_out(filled) -> None:
    engine, reference = filled
    hidden = frozenset([*(f"other_{i}" for i in range(4998)), "file_4", "file_0"])
    reference.check(engine, unit(1, 100)[0], 50, AllBut(hidden))
    everything = frozenset(f"file_{i}" for i in range(10))
    reference.check(engine, unit(1, 100)[0], 50, AllBut(everything))


def test_thousands_of_files_can_be_asked_for(filled) -> None:
    engine, reference = filled
    files = [f"other_{i}" for i in range(4998)] + ["file_4", "file_0"]
    reference.check(engine, unit(1, 100)[0], 50, files)


def test_what_is_stored_of_a_file_can_be_read_back(filled) -> None:
    engine, _ = filled
    numbers, vectors = engine.vectors_of("file_3")
    order = np.argsort(numbers)
    assert numbers[order].tolist() == (np.arange(30) * 7 + 3000).tolist()
    assert np.allclose(vectors[order], unit(30, seed=3), atol=1e-6)
    for unknown in ("unknown", "", 'x"] or number >= 0', "file_\x00"):
        numbers, vectors = engine.vectors_of(unknown)
        assert (numbers.shape, vectors.shape) == ((0,), (0, DIM))


def test_the_state_tells_how_many_and_the_recall_target(filled, new_engine: Engines) -> None:
    state = filled[0].state()
    assert state.engine == new_engine.kind.partition("-")[0]
    assert (state.vectors, state.recall_target) == (300, 0.95)
    assert state.recipes
    assert state.memory_bytes >= 0 and state.disk_bytes >= 0


@pytest.mark.parametrize(
    "bad",
    [
        unit(1)[0, :3],
        unit(1),
        np.full(DIM, np.nan, np.float32),
        np.array([np.inf] + [0] * (DIM - 1), np.float32),
    ],
)
def test_a_query_that_is_no_vector_is_refused(filled, bad: Vectors) -> None:
    with pytest.raises(ValueError, match="vector"):
        filled[0].search(bad, 3)


@pytest.mark.parametrize(
    ("numbers", "vectors", "why"),
    [
        ([1, 2], unit(3), "shape"),
        ([1, 2, 3], unit(3)[:, :4], "shape"),
        ([[1], [2], [3]], unit(3), "shape"),
        ([1, 2, 3], np.full((3, DIM), np.nan), "finite"),
        ([1, -2, 3], unit(3), "at least 0"),
        ([1, 2, 1], unit(3), "repeat"),
    ],
)
def test_what_cannot_be_written_is_refused(filled, numbers, vectors, why: str) -> None:
    engine, _ = filled
    with pytest.raises(ValueError, match=why):
        engine.write("bad", np.array(numbers), np.asarray(vectors, np.float32))
    assert engine.count == 300


def test_an_empty_collection_finds_nothing(new_engine: Engines) -> None:
    engine = new_engine(DIM)
    assert engine.count == 0
    Reference().check(engine, unit(1)[0], 5)
    Reference().check(engine, unit(1)[0], 5, ["file"])
    engine.remove("file")
    assert engine.state().vectors == 0


def test_a_file_without_vectors_is_harmless(new_engine: Engines) -> None:
    engine = new_engine(DIM)
    put(engine, "empty", np.empty(0, np.int64), np.empty((0, DIM), np.float32))
    assert engine.count == 0
    engine.remove("empty")


def test_writing_again_is_harmless(new_engine: Engines) -> None:
    engine, reference = new_engine(DIM), Reference()
    numbers, vectors = np.arange(20), unit(20)
    engine.write("file", numbers, vectors)  # and then the writer was cut off
    put(engine, "file", numbers, vectors)
    reference.put("file", numbers, vectors)
    assert engine.count == 20
    reference.check(engine, unit(1, 5)[0], 30)


def test_a_removed_file_is_not_found_and_can_come_back_with_new_numbers(
    new_engine: Engines,
) -> None:
    engine, reference = new_engine(DIM), Reference()
    put(engine, "gone", np.arange(5), unit(5))
    put(engine, "kept", np.arange(10, 15), unit(5, 1))
    reference.put("kept", np.arange(10, 15), unit(5, 1))
    engine.remove("gone")
    engine.remove("gone")
    engine.remove("unknown")
    assert engine.count == 5
    reference.check(engine, unit(5)[0], 20)
    reference.check(engine, unit(5)[0], 20, ["gone", "kept"])
    put(engine, "gone", np.arange(20, 25), unit(5))
    reference.put("gone", np.arange(20, 25), unit(5))
    reference.check(engine, unit(5)[0], 20)


def test_numbers_may_be_as_large_as_the_database_counts(new_engine: Engines) -> None:
    engine = new_engine(DIM)
    numbers = np.array([0, 2**31, 2**53 + 1, 2**63 - 1])
    put(engine, "file", numbers, unit(4))
    found, _ = engine.search(unit(4)[2], 4)
    assert found[0] == 2**53 + 1
    assert sorted(found.tolist()) == numbers.tolist()


def test_searches_go_on_beside_a_writer(new_engine: Engines) -> None:
    engine = new_engine(DIM)
    put(engine, "first", np.arange(50), unit(50))
    done = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for place in range(1, 13):
                put(engine, f"f{place}", np.arange(50) + place * 100, unit(50, place))
                if place % 3 == 0:
                    engine.remove(f"f{place}")
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    def search() -> None:
        try:
            turns = 0
            while not done.is_set() or turns < 20:
                turns += 1
                numbers, scores = engine.search(unit(50)[turns % 50], 3)
                assert numbers[0] == turns % 50 and scores[0] == pytest.approx(1, abs=1e-3)
                numbers, _ = engine.search(unit(1, turns)[0], 100, ["first"])
                assert set(numbers.tolist()) == set(range(50))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for work in (write, search, search)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert engine.count == 9 * 50


def test_destroying_leaves_nothing(new_engine: Engines) -> None:
    engine = new_engine(DIM)
    put(engine, "file", np.arange(5), unit(5))
    engine.destroy()
    assert engine.count == 0
    assert not len(engine.search(unit(1)[0], 5)[0])
    engine.destroy()


def test_the_recall_target_is_reached_on_clustered_vectors(new_engine: Engines) -> None:
    dim, generator = 32, np.random.default_rng(3)
    centres = unit(200, 1, dim)
    vectors = centres[generator.integers(200, size=20_100)]
    vectors = vectors + 0.1 * generator.normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored, queries = vectors[:20_000], vectors[20_000:]
    engine = new_engine(dim)
    put(engine, "all", np.arange(20_000), stored)
    products = queries @ stored.T
    tenth = np.sort(products, axis=1)[:, -10]
    reached = []
    for row, query in enumerate(queries):
        numbers, _ = engine.search(query, 10)
        reached.append((products[row, numbers] >= tenth[row] - 1e-6).sum() / 10)
    assert np.mean(reached) >= 0.95
    state = engine.state()
    assert state.vectors == 20_000
    assert state.recall is not None and state.recall >= 0.95


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_small_collection_agrees_with_brute_force(new_engine: Engines, data) -> None:
    if not new_engine.made or new_engine.made[-1].count:
        new_engine(DIM)
    engine, reference = new_engine.made[-1], Reference()
    ids = st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=12)
    names = data.draw(st.lists(ids, min_size=1, max_size=3, unique=True))
    total = data.draw(st.integers(len(names), 40))
    seed = data.draw(st.integers(0, 1000))
    numbers = np.random.default_rng(seed).choice(10_000, total, replace=False).astype(np.int64)
    vectors = unit(total, seed)
    for place, name in enumerate(names):
        own = slice(place, None, len(names))
        put(engine, name, numbers[own], vectors[own])
        reference.put(name, numbers[own], vectors[own])
    if data.draw(st.booleans()):
        gone = names.pop()
        engine.remove(gone)
        reference.rows = {n: row for n, row in reference.rows.items() if row[0] != gone}
    assert engine.count == len(reference.rows)
    files = data.draw(st.none() | st.lists(st.sampled_from([*names, "?"]) | ids, max_size=4))
    reference.check(engine, unit(1, seed + 1)[0], data.draw(st.integers(0, 50)), files)
    for name in names:
        engine.remove(name)
    assert engine.count == 0
