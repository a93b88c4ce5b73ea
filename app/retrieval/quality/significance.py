"""Whether two rankers truly differ on the same questions, or by chance.

Both tests read one score a question from each ranker, in the same order, and draw with a seed,
so that the same scores give the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
SEED = 0
_AT_ONCE = 1_000_000  # signs or indexes held in memory


@dataclass(frozen=True, slots=True)
class Comparison:
    """``second`` against ``first`` on the same questions.

    ``difference`` is the mean of second minus first with its 95 % interval ``low`` to ``high``;
    ``p`` is the two-sided p-value; ``wins``, ``losses`` and ``ties`` count questions for second.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare two rankers by their scores on the same questions.

    Raises:
        ValueError: no scores, unequally many, or one that is not finite.
    """
    a, b = _paired(first, second)
    differences = b - a
    low, high = bootstrap_interval(differences.tolist())
    return Comparison(
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=paired_randomisation(first, second),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def paired_randomisation(
    first: Sequence[float], second: Sequence[float], draws: int = DRAWS, seed: int = SEED
) -> float:
    """The two-sided p-value of Fisher's paired randomisation test.

    If both rankers were alike, each question's two scores could as well be swapped. The p-value
    is the share of such random swaps whose mean difference is at least as large as the one
    seen; the seen one is counted among them, so that it is never 0.

    Returns:
        A p-value in (0, 1].

    Raises:
        ValueError: no scores, unequally many, or one that is not finite.

    Reference: Smucker, Allan and Carterette, A comparison of statistical significance tests for
    information retrieval evaluation, CIKM 2007.
    """
    a, b = _paired(first, second)
    differences = b - a
    seen = abs(float(differences.sum()))
    if seen == 0:
        return 1.0
    random = np.random.default_rng(seed)
    as_large, left = 0, draws
    while left:
        n = min(left, max(1, _AT_ONCE // len(differences)))
        signs = random.integers(0, 2, (n, len(differences)), dtype=np.int8) * 2.0 - 1
        # rounding must not make a draw with the very same differences look smaller
        as_large += int((np.abs(signs @ differences) >= seen * (1 - 1e-12)).sum())
        left -= n
    return (as_large + 1) / (draws + 1)


def bootstrap_interval(
    values: Sequence[float], draws: int = DRAWS, seed: int = SEED
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of ``values``.

    Raises:
        ValueError: no values, or one that is not finite.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    array, _ = _paired(values, values)
    low, high = np.percentile(bootstrap_means(array, draws, seed), (2.5, 97.5))
    return float(low), float(high)


def bootstrap_means(
    values: NDArray[np.float64], draws: int = DRAWS, seed: int = SEED
) -> NDArray[np.float64]:
    """The means of ``draws`` samples, with replacement, of one or more values."""
    random = np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, _AT_ONCE // len(values))
    for start in range(0, draws, step):
        n = min(step, draws - start)
        means[start : start + n] = values[random.integers(0, len(values), (n, len(values)))].mean(1)
    return means


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for being several, in the order given.

    Reference: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted = [0.0] * len(ps)
    least = 0.0
    for done, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, ps[place] * (len(ps) - done)))
        adjusted[place] = least
    return adjusted


def _paired(
    first: Sequence[float], second: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"Need as many scores of both, at least one; got {a.size} and {b.size}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("A score is not a finite number.")
    return a, b
