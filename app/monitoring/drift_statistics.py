"""Distances between two distributions, and how likely chance alone makes them so large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.monitoring.sketches import Steps

Correction = Literal["holm", "bonferroni", "benjamini-hochberg", "none"]
PSI_BINS = 10
HISTOGRAM_BINS = 20
LEAST_EXPECTED = 5.0  # of a label, for the chi-square test to hold; rarer ones are put together
PERMUTATIONS = 4_999


def ks_distance(a: Steps, b: Steps) -> float:
    """Largest gap between two distribution functions (Kolmogorov, Smirnov); 0 to 1."""
    at = np.concatenate([a.values, b.values])
    if not len(at):
        return 0.0
    return float(np.abs(a.share_up_to(at) - b.share_up_to(at)).max())


def ks_p(distance: float, a: Steps, b: Steps) -> float:
    """Chance of so large a distance between two samples of one distribution.

    The error that sketching adds counts as that of a smaller sample: at the middle, a rank of
    ``n`` observations varies by ``0.25 / n``. The limit is taken with Stephens' correction
    (1970), which is exact enough from 50 values on, half a step of the distance lower: two
    samples have distances that are multiples of one over their counts' least common multiple.
    """
    spread = 1 / a.count + 1 / b.count + 4 * (a.sigma**2 + b.sigma**2)
    root = math.sqrt(1 / spread)
    distance -= 0.5 / math.lcm(a.count, b.count)
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:
        return 1.0
    terms = ((1 if i % 2 else -1) * math.exp(-2 * (i * scaled) ** 2) for i in range(1, 101))
    return min(1.0, max(0.0, 2 * sum(terms)))


def psi_of_shares(reference: NDArray[Any], current: NDArray[Any]) -> float:
    """Population stability index of two sets of counts; half an observation is added to each
    bin, so that an empty one is no infinite drift."""
    p = (reference + 0.5) / (reference + 0.5).sum()
    q = (current + 0.5) / (current + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def psi(reference: Steps, current: Steps) -> float:
    """Population stability index over the deciles of the reference."""
    cuts = np.unique(reference.quantiles(np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    counts = [
        np.diff(s.share_up_to(cuts), prepend=0.0, append=1.0) * s.count
        for s in (reference, current)
    ]
    return psi_of_shares(counts[0], counts[1])


def label_counts(
    reference: Mapping[str, int], current: Mapping[str, int]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Labels of both, the most frequent of the reference first, with the counts of each."""
    labels = sorted({*reference, *current}, key=lambda name: (-reference.get(name, 0), name))
    counts = [np.array([of.get(name, 0) for name in labels], float) for of in (reference, current)]
    return labels, counts[0], counts[1]


def share_distance(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """Fisher and Rao's distance of two sets of shares; 0 to pi.

    Of yes and no it is Cohen's h: 0.2 is a small effect, also where yes is rare, as from 1 % to
    4 %. It serves any number of labels.
    """
    alike = np.sqrt(reference / reference.sum() * current / current.sum()).sum()
    return 2 * math.acos(min(1.0, float(alike)))


def chi_square_p(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """Chance of so different counts from one distribution (Pearson's chi-square test)."""
    both = np.array([reference, current])
    shares = both.sum(axis=1, keepdims=True) / both.sum()
    rare = (both.sum(axis=0) * shares).min(axis=0) < LEAST_EXPECTED
    if rare.any():
        both = np.column_stack([both[:, ~rare], both[:, rare].sum(axis=1)])
        both = both[:, both.sum(axis=0) > 0]
    expected = both.sum(axis=0) * shares
    return _chi_square_tail(float(((both - expected) ** 2 / expected).sum()), both.shape[1] - 1)


def _chi_square_tail(x: float, freedom: int) -> float:
    """Share of the chi-square distribution above ``x``, by its finite series."""
    if freedom < 1 or x <= 0:
        return 1.0
    half = x / 2
    if freedom % 2:
        total, term = math.erfc(math.sqrt(half)), math.sqrt(half / math.pi) * 2 * math.exp(-half)
        for i in range(3, freedom + 1, 2):
            total += term
            term *= x / i
        return min(1.0, total)
    total = term = math.exp(-half)
    for i in range(1, freedom // 2):
        term *= half / i
        total += term
    return min(1.0, total)


def corrected(ps: Sequence[float], how: Correction) -> list[float]:
    """p-values of one report corrected for their number, in the order given.

    What is then at most alpha is called drift. With ``bonferroni`` (Dunn 1961) and ``holm``
    (Holm 1979, never less powerful) a report has a false call with a chance of at most alpha,
    whatever its features have in common; with ``benjamini-hochberg`` (1995) at most that share
    of the calls is false, so that each drift found lets more through.
    """
    if how == "none" or not ps:
        return list(ps)
    order = np.argsort(ps, kind="stable")
    least_first = np.asarray(ps, float)[order]
    if how == "bonferroni":
        adjusted = least_first * len(ps)
    elif how == "holm":
        adjusted = np.maximum.accumulate(least_first * np.arange(len(ps), 0, -1))
    else:
        scaled = least_first * len(ps) / np.arange(1, len(ps) + 1)
        adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    found = np.empty(len(ps))
    found[order] = np.minimum(adjusted, 1.0)
    return [float(p) for p in found]


def mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Maximum mean discrepancy of two samples and its p-value by permutation; about 0.1 s.

    The kernel is Gaussian, its width the median distance (Gretton et al. 2012).

    Args:
        a, b: of shape (n, d) and (m, d), a few hundred rows each.
    """
    both = np.concatenate([a, b])
    squares = (both**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * both @ both.T, 0)
    width = float(np.median(distances[np.triu_indices(len(both), 1)])) or 1.0
    kernel = np.exp(-distances / width).astype(np.float32)
    np.fill_diagonal(kernel, 0)  # unbiased: no point is compared with itself
    n, m = len(a), len(b)
    draw = np.random.default_rng(0)  # the same samples have the same p
    first = np.zeros((len(both), PERMUTATIONS + 1), np.float32)
    first[:n, 0] = 1
    for i in range(1, PERMUTATIONS + 1):
        first[draw.permutation(len(both))[:n], i] = 1
    rows = kernel @ first
    within_a = (first * rows).sum(axis=0)
    across = rows.sum(axis=0) - within_a
    within_b = kernel.sum() - within_a - 2 * across
    found = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
    at_least = int((found[1:] >= found[0] - 1e-7).sum())
    return float(found[0]), (at_least + 1) / (PERMUTATIONS + 1)


def shared_bins(
    reference: Steps, current: Steps
) -> tuple[list[float], NDArray[np.float64], NDArray[np.float64]]:
    """Edges of equal bins over what all but the outermost of both hold, and the shares in them.

    What lies beyond an outer edge is counted in its bin.
    """
    ends = np.concatenate([s.quantiles([0.005, 0.995]) for s in (reference, current)])
    low, high = float(ends.min()), float(ends.max())
    edges = np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)
    shares = [
        np.diff(s.share_up_to(edges[1:-1]), prepend=0.0, append=1.0) for s in (reference, current)
    ]
    return edges.tolist(), shares[0], shares[1]
