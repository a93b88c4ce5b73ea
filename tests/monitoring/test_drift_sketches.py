"""Sketches: merging in any order, their error, and the statistics that are made from them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from app.monitoring.drift_statistics import (
    chi_square_p,
    corrected,
    ks_distance,
    ks_p,
    mmd,
    psi,
    share_distance,
)
from app.monitoring.language import language_of
from app.monitoring.sketches import (
    DIRECTIONS,
    MOST_LABELS,
    OTHER,
    SAMPLED,
    Counts,
    Numbers,
    Sample,
    Steps,
    merged,
)

ERROR = 0.0135  # of a distance: twice 0.84 % at 99 %, as two errors add; KLL promises no bound


def as_sketch(values: np.ndarray, cuts: list[int], order: random.Random) -> Numbers:
    parts = np.split(values, sorted(c % (len(values) + 1) for c in cuts))
    written = []
    for part in parts:
        one = Numbers()
        one.add_all(part)
        written.append(one.as_bytes())
    order.shuffle(written)
    whole = merged("number", written)
    assert isinstance(whole, Numbers)
    return whole


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 20_000),
    shift=st.sampled_from([0.0, 0.1, 0.5, 3.0]),
    rounded=st.booleans(),
    cuts=st.lists(st.integers(0, 20_000), max_size=20),
    order=st.randoms(use_true_random=False),
)
def test_merged_in_any_partition_and_order_the_distance_is_the_exact_one_within_the_error(
    seed: int,
    count: int,
    shift: float,
    rounded: bool,
    cuts: list[int],
    order: random.Random,
) -> None:
    draw = np.random.default_rng(seed)
    a = draw.normal(size=count).astype(np.float32)
    b = draw.normal(shift, size=count + 7).astype(np.float32)
    if rounded:  # ties, as lengths have
        a, b = np.round(a, 1), np.round(b, 1)
    one, two = as_sketch(a, cuts, order), as_sketch(b, cuts, order)
    assert (one.count, two.count) == (len(a), len(b))
    exact = stats.ks_2samp(a, b).statistic
    assert ks_distance(Steps.of(a), Steps.of(b)) == pytest.approx(exact)
    assert abs(ks_distance(one.steps(), two.steps()) - exact) <= ERROR


def test_a_sketch_stays_under_four_kilobytes() -> None:
    numbers = Numbers()
    numbers.add_all(np.random.default_rng(0).lognormal(size=2_000_000).astype(np.float32))
    assert len(numbers.as_bytes()) <= 4096
    numbers.add(float("nan"))
    numbers.add(float("inf"))
    numbers.add(1e300)
    assert numbers.count == 2_000_000


@given(
    st.lists(st.lists(st.sampled_from(["en", "de", "fr", "und"]), max_size=20), max_size=8),
    st.randoms(use_true_random=False),
)
def test_counts_of_any_partition_are_the_counts_of_all(
    parts: list[list[str]], order: random.Random
) -> None:
    whole, written = Counts(), []
    for part in parts:
        one = Counts()
        for label in part:
            one.add(label)
            whole.add(label)
        written.append(one.as_bytes())
    order.shuffle(written)
    again = merged("category", written)
    assert isinstance(again, Counts)
    assert again.labels == whole.labels


def test_a_category_of_endless_labels_stays_small() -> None:
    counts = Counts()
    for i in range(1000):
        counts.add(f"label {i}")
    assert len(counts.labels) == MOST_LABELS + 1
    assert counts.count == 1000 and counts.labels[OTHER] == 1000 - MOST_LABELS


def test_a_merged_sample_is_uniform_over_all_that_was_seen() -> None:
    draw = np.random.default_rng(0)
    written = []
    for count, mean in ((6000, 0.0), (2000, 1.0)):
        one = Sample()
        for vector in draw.normal(mean, 0.01, size=(count, 16)).astype(np.float32):
            one.add(vector)
        written.append(one.as_bytes())
    whole = merged("embedding", written)
    assert isinstance(whole, Sample)
    points = whole.points()
    assert whole.count == 8000 and points.shape == (SAMPLED, DIRECTIONS)
    of_second = np.linalg.norm(points, axis=1) > 0.5
    assert 0.12 < of_second.mean() < 0.38  # a quarter; five standard deviations
    assert len(whole.as_bytes()) < 10_000


def test_ks_p_is_scipys_for_exact_steps() -> None:
    draw = np.random.default_rng(3)
    for n, m in ((400, 300), (500, 250), (300, 300), (601, 150)):
        for shift in (0.0, 0.1, 0.2, 0.3):
            a, b = draw.normal(size=n), draw.normal(shift, size=m)
            told = stats.ks_2samp(a, b, method="exact")
            p = ks_p(told.statistic, Steps.of(a), Steps.of(b))
            assert p == pytest.approx(told.pvalue, rel=0.05, abs=1e-4)


@pytest.mark.parametrize(
    ("before", "now"),
    [((90, 10), (80, 20)), ((50, 30, 20), (40, 30, 30)), ((9, 8, 7, 6), (6,) * 4)],
)
def test_chi_square_p_is_scipys(before: tuple[int, ...], now: tuple[int, ...]) -> None:
    told = stats.chi2_contingency([before, now], correction=False)
    assert chi_square_p(np.array(before, float), np.array(now, float)) == pytest.approx(told.pvalue)


P_VALUES = st.lists(st.floats(0, 1), max_size=60)


def by_definition(ps: list[float], alpha: float) -> list[bool]:
    """What Holm's procedure rejects, step by step."""
    rejected = [False] * len(ps)
    for step, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[place] * (len(ps) - step) > alpha:
            break
        rejected[place] = True
    return rejected


@given(P_VALUES, st.floats(0.001, 0.2))
def test_corrected_p_values_reject_what_their_procedures_do(ps: list[float], alpha: float) -> None:
    assert corrected(ps, "none") == ps
    assert corrected(ps, "bonferroni") == [min(1.0, p * len(ps)) for p in ps]
    holm = corrected(ps, "holm")
    assert [p <= alpha for p in holm] == by_definition(ps, alpha)
    false_discovery = corrected(ps, "benjamini-hochberg")
    assert false_discovery == pytest.approx(list(stats.false_discovery_control(ps)) if ps else [])
    strictest_first = (corrected(ps, "bonferroni"), holm, false_discovery, ps)
    for row in zip(*strictest_first, strict=True):
        assert list(row) == pytest.approx(sorted(row, reverse=True))


def test_distances_of_equal_distributions_are_nothing_and_of_others_what_they_should_be() -> None:
    draw = np.random.default_rng(4)
    a, b = Steps.of(draw.normal(size=5000)), Steps.of(draw.normal(size=5000))
    far = Steps.of(draw.normal(1, size=5000))
    assert psi(a, b) < 0.02 < 0.5 < psi(a, far)
    rare, less_rare = np.array([99.0, 1.0]), np.array([96.0, 4.0])
    h = 2 * abs(np.arcsin(np.sqrt(0.01)) - np.arcsin(np.sqrt(0.04)))
    assert share_distance(rare, less_rare) == pytest.approx(h)


def test_mmd_tells_a_moved_cloud_from_the_same_one() -> None:
    draw = np.random.default_rng(5)
    cloud = draw.normal(size=(200, 8))
    assert mmd(cloud, draw.normal(size=(200, 8)))[1] > 0.05
    value, p = mmd(cloud, draw.normal(0.4, size=(200, 8)))
    assert value > 0.01 and p < 0.001


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the fee of the harbour, and how do I pay it?", "en"),
        ("Wie hoch ist die Gebühr und was muss ich bezahlen?", "de"),
        ("Quel est le prix des billets pour les enfants ?", "fr"),
        ("¿Cuál es el precio de los billetes para las familias?", "es"),
        ("Сколько стоит билет?", "ru"),
        ("料金はいくらですか", "ja"),
        ("票价是多少", "zh"),
        ("0123 4567", "und"),
        ("", "und"),
    ],
)
def test_language_is_guessed_from_script_and_common_words(text: str, language: str) -> None:
    assert language_of([text]) == language
