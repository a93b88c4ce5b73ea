"""Fuses several rankings of passages into one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import fmean
from typing import TypeVar

Id = TypeVar("Id", bound=Hashable)
Scaling = Callable[[Sequence[float]], list[float]]

_SIGMAS = 3.0


def min_max(scores: Sequence[float]) -> list[float]:
    """Scale so that the lowest score gives 0 and the highest 1; all 1 where all are equal.

    As in Lee, SIGIR 1997. What the lowest score is depends on how many results were asked for:
    see ``from_floor``.

    Args:
        scores: finite numbers, on any scale.

    Returns:
        One number in 0..1 for each score, in their order.
    """
    return _between(scores, min(scores, default=0.0), max(scores, default=0.0))


def from_floor(floor: float) -> Scaling:
    """Return a scaling from the lowest score there can be (0) to the highest found (1).

    The theoretical minimum (0 for BM25, -1 for a cosine) does not move with the number of
    results, and a lone weak result is not made a perfect one by having no worse beside it.
    From Bruch, Gai and Ingber, ACM TOIS 42(1), 2023.

    Args:
        floor: the least score the retriever can give; a score below it counts as it.
    """

    def scale(scores: Sequence[float]) -> list[float]:
        highest = max(scores, default=floor)
        if highest <= floor:
            return [0.0] * len(scores)
        return _between([max(floor, score) for score in scores], floor, highest)

    return scale


def three_sigma(scores: Sequence[float]) -> list[float]:
    """Scale so that the mean gives 0.5, and 3 standard deviations below and above it 0 and 1.

    The z-score, clipped to -3..3 and moved to 0..1 ("distribution-based score fusion",
    Mazzeschi, 2023): one outlier does not press all others together. All 0.5 where all scores
    are equal.

    Args:
        scores: finite numbers, on any scale.

    Returns:
        One number in 0..1 for each score, in their order.
    """
    if not scores:
        return []
    largest = max(abs(score) for score in scores) or 1.0
    small = [score / largest for score in scores]  # squares of large scores would overflow
    mean = fmean(small)
    sigma = fmean((score - mean) ** 2 for score in small) ** 0.5
    if sigma == 0 or min(small) == max(small):
        return [0.5] * len(small)
    return [min(1.0, max(0.0, 0.5 + (score - mean) / (2 * _SIGMAS * sigma))) for score in small]


def _between(scores: Sequence[float], low: float, high: float) -> list[float]:
    # Halves, because the span of two finite numbers may be infinite.
    half = high / 2 - low / 2
    if half <= 0:
        return [1.0] * len(scores)
    return [min(1.0, max(0.0, (score / 2 - low / 2) / half)) for score in scores]


def _weights(weights: Sequence[float] | None, n: int) -> list[float]:
    chosen = [1.0] * n if weights is None else [float(weight) for weight in weights]
    if len(chosen) != n or any(not 0 <= weight < float("inf") for weight in chosen):
        raise ValueError(f"need {n} finite weights of at least 0, got {weights!r}")
    if n and sum(chosen) == 0:
        raise ValueError("at least one weight must be above 0")
    return chosen


def _ranked(scores: dict[Id, float]) -> list[tuple[Id, float]]:
    # sorted() is stable: ties keep the order of the first ranking that named them.
    return sorted(scores.items(), key=lambda item: -item[1])


def reciprocal_rank(
    rankings: Sequence[Sequence[Id]], weights: Sequence[float] | None = None, k: int = 60
) -> list[tuple[Id, float]]:
    """Fuse by reciprocal rank (Cormack, Clarke, Buettcher, SIGIR 2009).

    Args:
        rankings: ids, best first, one sequence for each retriever.
        weights: one for each ranking, at least 0; all 1 by default.
        k: damping of the first ranks, above 0.

    Returns:
        (id, score), best first. The score is the sum of ``weight / (k + rank)`` over its
        possible maximum: in 0..1, and 1 for the id that leads every ranking.

    Raises:
        ValueError: the weights do not fit the rankings, or ``k`` is not above 0.
    """
    if k <= 0:
        raise ValueError(f"k must be above 0, got {k}")
    chosen = _weights(weights, len(rankings))
    best = sum(chosen) / (k + 1) or 1.0
    scores: dict[Id, float] = {}
    for ranking, weight in zip(rankings, chosen, strict=True):
        for rank, id_ in enumerate(dict.fromkeys(ranking), start=1):
            scores[id_] = scores.get(id_, 0.0) + weight / (k + rank)
    return [(id_, min(1.0, score / best)) for id_, score in _ranked(scores)]


def weighted_sum(
    rankings: Sequence[Sequence[tuple[Id, float]]],
    weights: Sequence[float] | None = None,
    scalings: Scaling | Sequence[Scaling] = min_max,
) -> list[tuple[Id, float]]:
    """Fuse by the weighted mean of scores, each ranking first scaled to 0..1.

    An id that a ranking lacks scores 0 there; one that it names twice counts with its best
    score.

    Args:
        rankings: (id, finite score), one sequence for each retriever, in any order and on any
            scale.
        weights: one for each ranking, at least 0; all 1 by default.
        scalings: one for all rankings, or one for each: ``min_max``, ``from_floor(0.0)``,
            ``three_sigma``.

    Returns:
        (id, score), best first, the score in 0..1.

    Raises:
        ValueError: the weights or the scalings do not fit the rankings.
    """
    chosen = _weights(weights, len(rankings))
    scales = [scalings] * len(rankings) if callable(scalings) else list(scalings)
    if len(scales) != len(rankings):
        raise ValueError(f"need {len(rankings)} scalings, got {len(scales)}")
    total = sum(chosen) or 1.0
    scores: dict[Id, float] = {}
    for ranking, weight, scale in zip(rankings, chosen, scales, strict=True):
        best: dict[Id, float] = {}
        for id_, score in ranking:
            best[id_] = max(score, best.get(id_, score))
        for id_, scaled in zip(best, scale(list(best.values())), strict=True):
            scores[id_] = scores.get(id_, 0.0) + weight / total * scaled
    return [(id_, min(1.0, score)) for id_, score in _ranked(scores)]
