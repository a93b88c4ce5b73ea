"""Fusing rankings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval.fusion import reciprocal_rank, weighted_sum

IDS = st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=10)


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


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        reciprocal_rank([["a"], ["b"]], weights=weights)
    with pytest.raises(ValueError, match="weight"):
        weighted_sum([[("a", 1.0)], [("b", 1.0)]], weights=weights)


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


def test_weighted_sum_puts_different_scales_on_one() -> None:
    dense = [("a", 0.9), ("b", 0.8), ("c", 0.7)]
    words = [("b", 30.0), ("c", 10.0)]
    fused = dict(weighted_sum([dense, words], weights=[1, 1]))
    assert fused["b"] == pytest.approx(0.75)
    assert fused["a"] == pytest.approx(0.5)
    assert fused["c"] == pytest.approx(0.0)
