"""Fuses several rankings of passages into one."""

from __future__ import annotations

from collections.abc import Sequence


def _weights(weights: Sequence[float] | None, n: int) -> list[float]:
    chosen = [1.0] * n if weights is None else [float(weight) for weight in weights]
    if len(chosen) != n or any(not 0 <= weight < float("inf") for weight in chosen):
        raise ValueError(f"need {n} finite weights of at least 0, got {weights!r}")
    if n and sum(chosen) == 0:
        raise ValueError("at least one weight must be above 0")
    return chosen


def _ranked(scores: dict[str, float]) -> list[tuple[str, float]]:
    # sorted() is stable: ties keep the order of the first ranking that named them.
    return sorted(scores.items(), key=lambda item: -item[1])


def reciprocal_rank(
    rankings: Sequence[Sequence[str]], weights: Sequence[float] | None = None, k: int = 60
) -> list[tuple[str, float]]:
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
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, chosen, strict=True):
        for rank, id_ in enumerate(dict.fromkeys(ranking), start=1):
            scores[id_] = scores.get(id_, 0.0) + weight / (k + rank)
    return [(id_, min(1.0, score / best)) for id_, score in _ranked(scores)]


def weighted_sum(
    rankings: Sequence[Sequence[tuple[str, float]]], weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Fuse by the weighted mean of scores, each ranking first scaled to 0..1.

    An id that a ranking lacks scores 0 there; a ranking whose scores are all equal scores 1.

    Args:
        rankings: (id, score), one sequence for each retriever, in any order and on any scale.
        weights: one for each ranking, at least 0; all 1 by default.

    Returns:
        (id, score), best first, the score in 0..1.

    Raises:
        ValueError: the weights do not fit the rankings.
    """
    chosen = _weights(weights, len(rankings))
    total = sum(chosen) or 1.0
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, chosen, strict=True):
        if not ranking:
            continue
        raw = [score for _, score in ranking]
        low, span = min(raw), max(raw) - min(raw)
        for id_, score in ranking:
            scaled = (score - low) / span if span > 0 else 1.0
            scores[id_] = scores.get(id_, 0.0) + weight * scaled / total
    return [(id_, min(1.0, score)) for id_, score in _ranked(scores)]
