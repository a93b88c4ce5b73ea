"""Measures of one ranking against graded judgements.

A ranking is a sequence of ids, best first, without repeats. Grades map ids to how relevant they
are: 0 is not relevant and may be left out; an id that is not judged counts as not relevant.
Every measure lies in 0..1 and is 0 where nothing is judged relevant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Grades = Mapping[str, int]


def ndcg(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Normalised discounted cumulative gain at ``k``.

    The gain of a grade is ``2**grade - 1``, the discount of rank r is ``log2(1 + r)``.

    Raises:
        ValueError: ``k`` is below 1, a grade is below 0, or the ranking repeats an id.

    Reference: Järvelin and Kekäläinen, ACM TOIS 20(4), 2002; the gain is that of Burges et al.,
    Learning to rank using gradient descent, ICML 2005.
    """
    _check(ranking, grades, k)
    ideal = _discounted(sorted(grades.values(), reverse=True)[:k])
    if ideal == 0:
        return 0.0
    # the same gains may be summed in another order than the ideal's
    return min(1.0, _discounted([grades.get(i, 0) for i in ranking[:k]]) / ideal)


def _discounted(grades: Sequence[int]) -> float:
    return math.fsum((2.0**g - 1) / math.log2(1 + r) for r, g in enumerate(grades, start=1))


def recall(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """The share of what is relevant that is among the first ``k``."""
    _check(ranking, grades, k)
    relevant = _relevant(grades)
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def precision(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """The share of ``k`` places that hold something relevant; empty places count as misses."""
    _check(ranking, grades, k)
    return len(_relevant(grades).intersection(ranking[:k])) / k


def success(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 if anything relevant is among the first ``k``, else 0."""
    _check(ranking, grades, k)
    return 0.0 if _relevant(grades).isdisjoint(ranking[:k]) else 1.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """One over the rank of the first relevant id within ``k``, else 0 (its mean is the MRR)."""
    _check(ranking, grades, k)
    relevant = _relevant(grades)
    ranks = (rank for rank, i in enumerate(ranking[:k], start=1) if i in relevant)
    return 1.0 / next(ranks, math.inf)


def average_precision(ranking: Sequence[str], grades: Grades, k: int = 1000) -> float:
    """The mean, over all that is relevant, of the precision at its rank (its mean is the MAP).

    What is relevant and not among the first ``k`` counts as 0.

    Reference: Buckley and Voorhees, Evaluating evaluation measure stability, SIGIR 2000.
    """
    _check(ranking, grades, k)
    relevant = _relevant(grades)
    found, total = 0, 0.0
    for rank, i in enumerate(ranking[:k], start=1):
        if i in relevant:
            found += 1
            total += found / rank
    return total / len(relevant) if relevant else 0.0


def _relevant(grades: Grades) -> set[str]:
    return {i for i, grade in grades.items() if grade > 0}


def _check(ranking: Sequence[str], grades: Grades, k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1.")
    if any(grade < 0 for grade in grades.values()):
        raise ValueError("A grade is below 0; grades start at 0, not relevant.")
    if len(set(ranking)) != len(ranking):
        raise ValueError("The ranking names an id twice; keep the first of each.")
