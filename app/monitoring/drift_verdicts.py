"""Judges features: distance, chance, and whether both together are drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from app.monitoring.drift_references import Frozen

if TYPE_CHECKING:
    from app.monitoring.drift_statistics import Correction
    from app.monitoring.sketches import Counts, Numbers, Sample, Steps

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
Test = Literal["ks", "chi-square", "mmd"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is called drift: a distance that chance does not explain and that is large enough.

    Attributes:
        alpha: corrected p-value that drift has at most.
        ks, psi, shares, mmd: distances that drift has at least; ``ks`` or ``psi`` of numbers,
            ``shares`` or ``psi`` of categories, ``mmd`` of embeddings.
        min_count: observations under which there is no verdict.
        reference_count: observations of the oldest windows that become the first reference.
    """

    alpha: float = 0.05
    correction: Correction = "holm"
    ks: float = 0.1
    psi: float = 0.2
    shares: float = 0.2
    mmd: float = 0.01
    min_count: int = 100
    reference_count: int = 1000
    keep_days: float = 30.0


DEFAULT_RULES = Rules()


@dataclass(frozen=True, slots=True)
class Pair:
    """A feature's newest windows and its reference, as they are stored."""

    feature: str
    kind: str
    since: int  # Unix seconds
    until: int
    sketches: list[bytes]
    reference: Frozen | None


@dataclass(frozen=True, slots=True)
class Tested:
    """What the newest test of an embedding found."""

    version: int  # of the reference
    count: int
    value: float
    p: float
    at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of the window and of the reference in the same bins.

    ``bins`` are labels, or the edges of as many bins less one.
    """

    bins: list[float] | list[str]
    window: list[float]
    reference: list[float]


@dataclass(frozen=True, slots=True)
class Drift:
    """One feature's newest windows against its reference.

    ``value`` is the distance that ``test`` names, None while either side has too few
    observations.
    """

    feature: str
    window: int  # where the compared windows begin, Unix seconds
    until: int
    count: int
    reference: int | None  # its version; 0: the oldest windows
    reference_count: int
    test: Test
    value: float | None
    threshold: float
    psi: float | None
    psi_threshold: float | None
    p: float | None
    p_corrected: float | None
    correction: Correction
    alpha: float
    drifted: bool
    histogram: Histogram | None
    quantiles: list[float]
    reference_quantiles: list[float]


def judge(pairs: Sequence[Pair], tested: dict[str, Tested], rules: Rules) -> list[Drift]:
    """Judge all features of a tenant together; blocking, about a millisecond each."""
    measured = []
    for pair in pairs:
        if pair.kind == "number":
            measured.append(_numbers(pair, rules))
        elif pair.kind == "category":
            measured.append(_category(pair, rules))
        else:
            measured += _embedding(pair, tested.get(pair.feature), rules)
    return decide(measured, rules.correction)


def decide(measured: Sequence[Drift], correction: Correction) -> list[Drift]:
    """Correct the p-values of one report for their number, and call drift by them."""
    from app.monitoring.drift_statistics import corrected

    left = iter(corrected([d.p for d in measured if d.p is not None], correction))
    return [
        replace(d, correction=correction) if d.p is None else _decided(d, next(left), correction)
        for d in measured
    ]


def _decided(drift: Drift, p: float, correction: Correction) -> Drift:
    assert drift.value is not None
    large = drift.value >= drift.threshold
    if drift.psi is not None and drift.psi_threshold is not None:
        large = large or drift.psi >= drift.psi_threshold
    return replace(drift, p_corrected=p, correction=correction, drifted=large and p <= drift.alpha)


def _undecided(pair: Pair, count: int, test: Test, threshold: float, rules: Rules) -> Drift:
    reference = pair.reference
    return Drift(
        feature=pair.feature,
        window=pair.since,
        until=pair.until,
        count=count,
        reference=None if reference is None else reference.version,
        reference_count=0 if reference is None else reference.count,
        test=test,
        value=None,
        threshold=threshold,
        psi=None,
        psi_threshold=None if test == "mmd" else rules.psi,
        p=None,
        p_corrected=None,
        correction=rules.correction,
        alpha=rules.alpha,
        drifted=False,
        histogram=None,
        quantiles=[],
        reference_quantiles=[],
    )


def numbers_of(pair: Pair) -> tuple[Numbers, Numbers | None]:
    """The sketches of a pair of numbers."""
    from app.monitoring.sketches import Numbers, merged

    reference = pair.reference
    current = merged("number", pair.sketches)
    assert isinstance(current, Numbers)
    return current, None if reference is None else Numbers.read(reference.sketch)


def counts_of(pair: Pair) -> tuple[Counts, Counts | None]:
    """The counts of a pair of categories."""
    from app.monitoring.sketches import Counts, merged

    reference = pair.reference
    current = merged("category", pair.sketches)
    assert isinstance(current, Counts)
    return current, None if reference is None else Counts.read(reference.sketch)


def samples_of(pair: Pair) -> tuple[Sample, Sample | None]:
    """The samples of a pair of embeddings."""
    from app.monitoring.sketches import Sample, merged

    reference = pair.reference
    current = merged("embedding", pair.sketches)
    assert isinstance(current, Sample)
    return current, None if reference is None else Sample.read(reference.sketch)


def _numbers(pair: Pair, rules: Rules) -> Drift:
    current, reference = numbers_of(pair)
    found = _undecided(pair, current.count, "ks", rules.ks, rules)
    now, before = current.steps(), None if reference is None else reference.steps()
    return _compared(found, now, before, rules)


def _compared(found: Drift, now: Steps, before: Steps | None, rules: Rules) -> Drift:
    """With the distances of two distributions, where both have enough."""
    from app.monitoring.drift_statistics import ks_distance, ks_p, psi, shared_bins

    if now.count:
        found = replace(found, quantiles=now.quantiles(QUANTILES).tolist())
    if before is None or not before.count:
        return found
    found = replace(found, reference_quantiles=before.quantiles(QUANTILES).tolist())
    if not now.count:
        return found
    edges, reference, window = shared_bins(before, now)
    found = replace(found, histogram=Histogram(edges, window.tolist(), reference.tolist()))
    if min(now.count, before.count) < rules.min_count:
        return found
    value = ks_distance(before, now)
    return replace(found, value=value, psi=psi(before, now), p=ks_p(value, before, now))


def _category(pair: Pair, rules: Rules) -> Drift:
    from app.monitoring.drift_statistics import (
        chi_square_p,
        label_counts,
        psi_of_shares,
        share_distance,
    )

    current, reference = counts_of(pair)
    found = _undecided(pair, current.count, "chi-square", rules.shares, rules)
    if reference is None or not current.count or not reference.count:
        return found
    labels, before, now = label_counts(reference.labels, current.labels)
    shares = [(of / of.sum()).tolist() for of in (now, before)]
    found = replace(found, histogram=Histogram(labels, shares[0], shares[1]))
    if min(current.count, reference.count) < rules.min_count:
        return found
    return replace(
        found,
        value=share_distance(before, now),
        psi=psi_of_shares(before, now),
        p=chi_square_p(before, now),
    )


def _embedding(pair: Pair, tested: Tested | None, rules: Rules) -> list[Drift]:
    """The distances to the reference's centroid, and what the test of the whole found."""
    import numpy as np

    from app.monitoring.sketches import Steps

    current, reference = samples_of(pair)
    whole = _undecided(pair, current.count, "mmd", rules.mmd, rules)
    apart = _undecided(pair, current.count, "ks", rules.ks, rules)
    apart = replace(apart, feature=f"{pair.feature}_distance")
    if reference is not None and reference.count:
        centre = reference.points().mean(axis=0)
        now, before = (
            Steps.of(np.linalg.norm(of.points() - centre, axis=1)) for of in (current, reference)
        )
        apart = _compared(apart, now, before, rules)
    if tested is not None and pair.reference and tested.version == pair.reference.version:
        whole = replace(whole, value=tested.value, p=tested.p)
    return [whole, apart]


def compare_embeddings(pair: Pair, rules: Rules, at: float) -> Tested | None:
    """Test a pair of samples; None where either has too few. Blocking, about 0.1 s."""
    from app.monitoring.drift_statistics import mmd

    current, reference = samples_of(pair)
    if reference is None or pair.reference is None:
        return None
    if min(current.count, reference.count) < rules.min_count:
        return None
    value, p = mmd(reference.points(), current.points())
    return Tested(pair.reference.version, current.count, value, p, at)
