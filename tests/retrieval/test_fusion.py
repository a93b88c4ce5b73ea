"""Fusing rankings."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval.fusion import (
    Scaling,
    from_floor,
    min_max,
    reciprocal_rank,
    three_sigma,
    weighted_sum,
)

IDS = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10)
SCORES = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30)
SCALINGS: list[Scaling] = [min_max, three_sigma, from_floor(0.0), from_floor(-1.0)]
SCORED = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.floats(-1e6, 1e6)),
    unique_by=lambda pair: pair[0],
    max_size=10,
)
EACH = pytest.mark.parametrize(
    "scaling", SCALINGS, ids=["min_max", "three_sigma", "floor_0", "floor_-1"]
)


def test_the_leader_of_every_ranking_scores_one() -> None:
    fused = reciprocal_rank([["a", "b"], ["a", "c"]])
    assert fused[0] == ("a", pytest.approx(1.0))
    assert [id_ for id_, _ in fused] == ["a", "b", "c"]


def test_reciprocal_rank_follows_the_published_formula() -> None:
    fused = dict(reciprocal_rank([["a", "b"], ["b", "a"]], weights=[2, 1], k=60))
    best = 3 / 61
    assert fused["a"] == pytest.approx((2 / 61 + 1 / 62) / best)
    assert fused["b"] == pytest.approx((2 / 62 + 1 / 61) / best)


def test_a_weight_of_zero_silences_a_ranking() -> None:
    assert reciprocal_rank([["a"], ["b"]], weights=[1, 0])[0][0] == "a"
    assert dict(weighted_sum([[("a", 1.0)], [("b", 1.0)]], [1, 0])) == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        reciprocal_rank([["a"], ["b"]], weights=weights)
    with pytest.raises(ValueError, match="weight"):
        weighted_sum([[("a", 1.0)], [("b", 1.0)]], weights=weights)


def test_a_damping_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be above 0"):
        reciprocal_rank([["a"]], k=0)


def test_a_wrong_number_of_scalings_is_refused() -> None:
    with pytest.raises(ValueError, match="need 2 scalings, got 1"):
        weighted_sum([[("a", 1.0)], [("b", 1.0)]], scalings=[min_max])


def test_no_rankings_fuse_to_nothing() -> None:
    assert reciprocal_rank([]) == []
    assert weighted_sum([[], []]) == []


@given(st.lists(IDS, max_size=4))
def test_fusion_keeps_every_id_once_with_falling_scores_within_bounds(
    rankings: list[list[str]],
) -> None:
    fused = reciprocal_rank(rankings)
    assert sorted(id_ for id_, _ in fused) == sorted({i for ranking in rankings for i in ranking})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


@given(st.lists(IDS, max_size=4), st.randoms())
def test_reciprocal_rank_does_not_depend_on_the_order_of_the_retrievers(
    rankings: list[list[str]], chance: random.Random
) -> None:
    shuffled = chance.sample(rankings, len(rankings))
    assert dict(reciprocal_rank(shuffled)) == pytest.approx(dict(reciprocal_rank(rankings)))


@given(st.lists(IDS, min_size=1, max_size=4), st.sampled_from("abcdefghij"))
def test_a_better_rank_never_lowers_the_fused_score(rankings: list[list[str]], id_: str) -> None:
    moved = [[id_, *(other for other in rankings[0] if other != id_)], *rankings[1:]]
    before = dict(reciprocal_rank(rankings)).get(id_, 0.0)
    assert dict(reciprocal_rank(moved))[id_] >= before - 1e-12


def test_weighted_sum_puts_different_scales_on_one() -> None:
    dense = [("a", 0.9), ("b", 0.8), ("c", 0.7)]
    words = [("b", 30.0), ("c", 10.0)]
    fused = dict(weighted_sum([dense, words], weights=[1, 1]))
    assert fused["b"] == pytest.approx(0.75)
    assert fused["a"] == pytest.approx(0.5)
    assert fused["c"] == pytest.approx(0.0)


def test_ids_may_be_numbers_and_each_ranking_may_have_its_own_scaling() -> None:
    dense, words = [(7, 0.5), (8, 0.0)], [(8, 4.0), (9, 2.0)]
    fused = dict(weighted_sum([dense, words], [1, 1], [from_floor(-1.0), from_floor(0.0)]))
    assert fused[7] == pytest.approx(0.5)
    assert fused[8] == pytest.approx((1 / 1.5 + 1) / 2)
    assert fused[9] == pytest.approx(0.25)


def test_an_id_named_twice_counts_once_with_its_best_score() -> None:
    fused = dict(weighted_sum([[("a", 1.0), ("b", 0.0), ("a", 3.0)]]))
    assert fused == {"a": 1.0, "b": 0.0}


def test_a_lone_result_is_perfect_only_for_itself() -> None:
    assert min_max([0.2]) == [1.0]
    assert three_sigma([0.2]) == [0.5]
    assert from_floor(0.0)([0.2]) == [1.0]
    assert from_floor(0.2)([0.2]) == [0.0]


def test_three_sigma_is_the_clipped_z_score() -> None:
    scores = [1.0, 2.0, 3.0, 10.0]
    sigma = (sum((s - 4) ** 2 for s in scores) / 4) ** 0.5
    assert three_sigma(scores) == pytest.approx([0.5 + (s - 4) / (6 * sigma) for s in scores])
    assert three_sigma([0.0] * 99 + [1.0])[-1] == 1.0


@EACH
@given(scores=SCORES)
def test_scaled_scores_lie_in_bounds_and_keep_their_order(
    scaling: Scaling, scores: list[float]
) -> None:
    scaled = scaling(scores)
    assert len(scaled) == len(scores)
    assert all(0 <= score <= 1 for score in scaled)
    pairs = sorted(zip(scores, scaled, strict=True))
    assert all(low[1] <= high[1] for low, high in itertools.pairwise(pairs))


@EACH
@given(scores=SCORES, chance=st.randoms())
def test_scaling_does_not_depend_on_the_order_of_the_results(
    scaling: Scaling, scores: list[float], chance: random.Random
) -> None:
    order = chance.sample(range(len(scores)), len(scores))
    scaled = scaling(scores)
    assert scaling([scores[i] for i in order]) == pytest.approx([scaled[i] for i in order])


@EACH
@given(
    rankings=st.lists(SCORED, max_size=4),
    weight=st.lists(st.floats(0.01, 10), min_size=4, max_size=4),
    chance=st.randoms(),
)
def test_weighted_sums_lie_in_bounds_and_do_not_depend_on_any_order(
    scaling: Scaling,
    rankings: list[list[tuple[str, float]]],
    weight: list[float],
    chance: random.Random,
) -> None:
    weights = weight[: len(rankings)]
    fused = weighted_sum(rankings, weights, scaling)
    assert {id_ for id_, _ in fused} == {id_ for ranking in rankings for id_, _ in ranking}
    values = [score for _, score in fused]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
    order = chance.sample(range(len(rankings)), len(rankings))
    shuffled = [chance.sample(rankings[i], len(rankings[i])) for i in order]
    again = weighted_sum(shuffled, [weights[i] for i in order], scaling)
    assert dict(again) == pytest.approx(dict(fused), abs=1e-9)
