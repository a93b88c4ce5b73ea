"""Plans say what a size needs, and where each number comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli import cli
from app.errors import BadRequest
from app.retrieval.engines.faiss import MOST_VECTORS
from app.retrieval.engines.recipes import AUTO
from app.retrieval.measured import Measured, shipped
from app.retrieval.planning import Wanted, as_text, plan

SIZES = st.integers(1, 10**10)
DIMS = st.sampled_from([96, 384, 768, 1536])
# few enough that processors do not decide: at 20,001 vectors an index takes over from the scan,
# and a search gets cheaper
QPS = st.floats(0.1, 500)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"vectors": 0}, "vectors"),
    ({"vectors": 10**13}, "vectors"),
    ({"dim": 1}, "dim"),
    ({"recall": 0.0}, "recall"),
    ({"recall": 1.5}, "recall"),
    ({"recall": float("nan")}, "recall"),
    ({"qps": -1.0}, "qps"),
    ({"machine_gib": 0.0}, "machine_gib"),
    ({"cores": 0}, "cores"),
    ({"latency_ms": 0.0}, "latency_ms"),
    ({"price_per_hour": -1.0}, "price_per_hour"),
    ({"price_per_hour": float("inf")}, "price_per_hour"),
    ({"embed_rate": 0.0}, "embed_rate"),
]


def ran(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["plan", "retrieval", *arguments])


@settings(deadline=None)
@given(SIZES, st.floats(1, 100), DIMS, QPS, st.sampled_from([16.0, 64.0, 256.0]))
def test_bytes_and_machines_never_fall_as_vectors_grow(
    vectors: int, times: float, dim: int, qps: float, gib: float
) -> None:
    less = Wanted(vectors, dim, qps=qps, machine_gib=gib)
    few, many = plan(less), plan(replace(less, vectors=int(vectors * times)))
    names = ["disk", "machines"]
    if (few.recipe == "flat") == (many.recipe == "flat"):  # an index takes less than the scan
        names.append("memory")
    for name in names:
        assert few.figures[name].value <= many.figures[name].value, name


@settings(deadline=None)
@given(SIZES, DIMS, QPS)
def test_every_figure_says_where_it_comes_from(vectors: int, dim: int, qps: float) -> None:
    found = plan(Wanted(vectors, dim, qps=qps, price_per_hour=1.0))
    for figure in found.figures.values():
        assert figure.value >= 0 and figure.how
        assert figure.basis in ("measured", "extrapolated", "given")
    assert all(name in as_text(found) for name in found.figures)


@settings(deadline=None)
@given(SIZES, DIMS, st.floats(0.5, 0.95))
def test_the_recall_planned_is_the_recall_asked_for(vectors: int, dim: int, recall: float) -> None:
    assert plan(Wanted(vectors, dim, recall)).figures["recall@10"].value >= recall


def test_what_was_measured_is_told_as_measured_and_all_else_is_not() -> None:
    point = next(p for p in shipped().points if p.recipe == "ivf_pq")
    same = plan(Wanted(point.vectors, point.dim))
    assert same.figures["latency"].basis == "measured"
    effort = point.reaching(0.95)
    assert effort is not None and same.figures["latency"].value == effort.p50_ms
    other = plan(Wanted(point.vectors, 2 * point.dim))
    assert other.figures["latency"].basis == "extrapolated"


def test_reckoned_bytes_lie_near_the_measured_ones() -> None:
    for point in shipped().points:
        if point.engine == "faiss" and point.recipe == "ivf_pq":
            memory = plan(Wanted(point.vectors, point.dim)).figures["memory"].value
            assert memory / point.vectors == pytest.approx(point.memory_a_vector, rel=0.05)


def test_small_collections_are_searched_exactly_and_huge_ones_lie_in_a_cluster() -> None:
    assert plan(Wanted(1000, 384)).recipe == "flat"
    assert plan(Wanted(1_000_000, 384)).layout.startswith("FAISS")
    huge = plan(Wanted(10**10, 768))
    assert huge.layout.startswith("a Milvus cluster") and huge.figures["machines"].value > 1
    assert "FAISS in one gateway will not do" in huge.why


def test_a_tighter_latency_moves_to_a_cluster_sooner() -> None:
    size = Wanted(50 * MOST_VECTORS, 384, machine_gib=1024, latency_ms=1e6)
    assert plan(size).layout.startswith("FAISS")
    assert plan(replace(size, latency_ms=1.0)).layout.startswith("a Milvus")


@pytest.mark.parametrize(("wrong", "param"), BAD)
def test_bad_input_says_what_to_give(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest, match="Give ") as caught:
        Wanted(**{"vectors": 1000, "dim": 384, **wrong})
    assert caught.value.param == param


def test_a_recall_that_the_smallest_codes_miss_takes_the_next_larger_ones() -> None:
    known = shipped()
    small = [p for p in known.points if p.engine == "faiss" and p.vectors < 2e5]
    best = {p.recipe: max(e.recall for e in p.efforts) for p in small}
    assert best["ivf_pq"] < best["ivf_sq8"]
    found = plan(Wanted(100_000, 384, best["ivf_sq8"]))
    assert found.recipe in ("ivf_rabitq", "ivf_pq_fine", "ivf_sq8")
    assert found.recipe not in AUTO or "RECIPE" not in found.setting  # it is chosen by itself
    graph = plan(Wanted(100_000, 384, best["hnsw"]))
    assert graph.recipe == "hnsw" and "OSTIARY_VECTOR_RECIPE=hnsw" in graph.setting


def test_a_recall_that_nothing_reached_says_what_the_best_is() -> None:
    known = shipped()
    points = tuple(
        replace(p, efforts=tuple(replace(e, recall=0.9) for e in p.efforts)) for p in known.points
    )
    with pytest.raises(BadRequest, match=r"the best is 0\.9"):
        plan(Wanted(10**6, 384), Measured("m", points, 1.0, "e"))


def test_the_command_prints_a_plan_and_the_same_as_json() -> None:
    shown = ran("--vectors", "1e8", "--dim", "768", "--price-per-hour", "2")
    assert shown.exit_code == 0 and "monthly cost" in shown.output
    told = ran("--vectors", "1e8", "--dim", "768", "--price-per-hour", "2", "--json")
    found = json.loads(told.output)
    assert found["wanted"]["vectors"] == 10**8
    assert found["figures"]["monthly cost"]["unit"] == "USD"


@pytest.mark.parametrize("vectors", ["1.5", "nan", "inf", "0", "1e13"])
def test_the_command_refuses_a_bad_number_in_words(vectors: str) -> None:
    refused = ran("--vectors", vectors)
    assert refused.exit_code == 2
    assert "Give" in refused.output and "Traceback" not in refused.output
