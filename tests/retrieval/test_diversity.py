"""Near-duplicates and variety in a ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.retrieval.diversity import (
    cosine_likeness,
    diversify,
    drop_near_duplicates,
    shingles,
    word_likeness,
    words,
)

REFUND = (
    "Refunds are paid within fourteen days of the return, to the card that was used for the "
    "order, and a message tells the customer when the money is on its way to the bank."
)
NORWAY = "Parcels to Norway take a week and pass the customs office in Oslo on their way."
# Few different words, so that near-duplicates are common.
TEXTS = st.lists(
    st.lists(st.sampled_from(["red", "blue", "door", "7", "8"]), max_size=12).map(" ".join),
    max_size=12,
)
SCORES = st.lists(st.floats(-1e3, 1e3), max_size=12)


def _jaccard(one: str, other: str) -> float:
    first, second = shingles(one), shingles(other)
    return len(first & second) / len(first | second)


def _numbers(text: str) -> set[str]:
    return {word for word in words(text) if any(c.isdigit() for c in word)}


def test_a_passage_changed_in_one_word_is_left_out() -> None:
    copy = REFUND.replace("tells", "informs")
    found = drop_near_duplicates([REFUND, NORWAY, copy])
    assert found.kept == [0, 1]
    assert found.twin_of == {2: 0}


def test_case_spacing_and_punctuation_do_not_make_a_passage_new() -> None:
    assert drop_near_duplicates([REFUND, REFUND.upper().replace(" ", "\n  ")]).kept == [0]
    assert drop_near_duplicates(["“Yes”, she said.", "yes - she said"]).kept == [0]


def test_the_best_of_a_group_stays_not_the_longest() -> None:
    assert drop_near_duplicates([REFUND, REFUND + " Always.", REFUND], 0.8).kept == [0]


def test_passages_that_differ_in_a_number_are_both_kept() -> None:
    old, new = REFUND + " Since version 5.1.", REFUND + " Since version 5.2."
    assert drop_near_duplicates([old, new]).kept == [0, 1]
    assert drop_near_duplicates([old, new], numbers_matter=False).kept == [0]


def test_a_passage_on_the_same_subject_in_other_words_is_kept() -> None:
    other = "You get your money back two weeks after we have received the parcel."
    assert drop_near_duplicates([REFUND, other]).kept == [0, 1]


def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "返品された商品の代金は十四日以内に注文に使用されたカードへ返金されます"
    assert drop_near_duplicates([text, text + "よ", "猫は暖かい屋根の上で眠る"]).kept == [0, 2]


def test_short_and_empty_passages_are_duplicates_only_of_their_equals() -> None:
    assert drop_near_duplicates(["", "a", "!?", "a b", "A"]).kept == [0, 1, 3]
    assert drop_near_duplicates([]).kept == []


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_a_threshold_outside_its_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        drop_near_duplicates(["a"], threshold)


@given(TEXTS, st.floats(0.05, 1.0), st.booleans())
def test_no_two_kept_passages_reach_the_threshold(
    texts: list[str], threshold: float, numbers: bool
) -> None:
    found = drop_near_duplicates(texts, threshold, numbers)

    def twins(one: int, other: int) -> bool:
        alike = _jaccard(texts[one], texts[other]) >= threshold
        return alike and not (numbers and _numbers(texts[one]) != _numbers(texts[other]))

    for i, one in enumerate(found.kept):
        assert not any(twins(one, other) for other in found.kept[i + 1 :])
    for left_out, kept in found.twin_of.items():
        assert kept in found.kept
        assert kept < left_out
        assert twins(left_out, kept)


@given(TEXTS, st.floats(0.05, 1.0))
def test_dropping_keeps_order_and_the_first_and_loses_nothing(
    texts: list[str], threshold: float
) -> None:
    found = drop_near_duplicates(texts, threshold)
    assert found.kept == sorted(found.kept)
    assert sorted([*found.kept, *found.twin_of]) == list(range(len(texts)))
    assert found.kept[:1] == list(range(len(texts)))[:1]
    again = drop_near_duplicates([texts[i] for i in found.kept], threshold)
    assert again.kept == list(range(len(found.kept)))


@given(TEXTS, SCORES, st.integers(0, 14), st.floats(0, 1))
def test_diversity_chooses_a_subset_led_by_the_most_relevant(
    texts: list[str], scores: list[float], k: int, balance: float
) -> None:
    n = min(len(texts), len(scores))
    texts, scores = texts[:n], scores[:n]
    chosen = diversify(scores, word_likeness(texts), k, balance)
    assert len(chosen) == len(set(chosen)) == min(k, n)
    assert set(chosen) <= set(range(n))
    if chosen:
        assert scores[chosen[0]] == max(scores)
    assert chosen == diversify(scores, word_likeness(texts), k, balance)
    assert diversify(scores, word_likeness(texts), n, balance)[: len(chosen)] == chosen


@given(SCORES.filter(bool))
def test_a_balance_of_one_is_the_order_of_the_scores(scores: list[float]) -> None:
    likeness = np.ones((len(scores), len(scores)), np.float32)
    chosen = diversify(scores, likeness, len(scores), balance=1.0)
    # Differences far below the span of the scores vanish when they are scaled.
    assert np.diff([scores[i] for i in chosen]).max(initial=0.0) <= 1e-9 * np.ptp(scores)


def test_a_copy_of_the_leader_waits_behind_a_different_passage() -> None:
    texts = [REFUND, REFUND + " Always.", NORWAY, "The cat sleeps on the warm roof."]
    scores = [0.9, 0.89, 0.6, 0.1]
    assert diversify(scores, word_likeness(texts), 3, balance=0.5)[:2] == [0, 2]
    assert diversify(scores, word_likeness(texts), 3, balance=0.9)[:2] == [0, 1]


def test_vectors_that_point_the_same_way_are_alike() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    likeness = cosine_likeness(vectors)
    assert likeness.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert diversify([1.0, 0.99, 0.9, 0.0], likeness, 2) == [0, 2]


@given(TEXTS)
def test_word_likeness_is_symmetric_and_one_with_itself(texts: list[str]) -> None:
    likeness = word_likeness(texts)
    assert likeness.shape == (len(texts), len(texts))
    assert (likeness == likeness.T).all()
    assert (np.diag(likeness) == 1).all()
    assert ((likeness >= 0) & (likeness <= 1)).all()


@pytest.mark.parametrize(
    ("scores", "shape", "balance", "message"),
    [
        ([1.0], (2, 2), 0.5, "shape"),
        ([float("nan")], (1, 1), 0.5, "finite"),
        ([1.0], (1, 1), 1.5, "balance"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    scores: list[float], shape: tuple[int, int], balance: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        diversify(scores, np.ones(shape, np.float32), 1, balance)
