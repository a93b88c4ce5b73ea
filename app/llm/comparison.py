"""Candidates of a model against its stable servers, from what their calls measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from app.llm.deployment import Role
from app.llm.samples import Sample
from app.retrieval.quality.significance import bootstrap_interval, bootstrap_means

ROLES: tuple[Role, ...] = get_args(Role)
DRAWS = 1_000  # of the bootstrap
LEAST = 10  # calls of a side below which no interval is told
MEASURES = ("latency_ms", "first_ms", "completion_tokens", "cost_usd")

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread; of no values there is none."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Side:
    """The calls of one server in one role."""

    deployment: str
    role: Role
    answered: int
    failed: int
    skipped: int
    latency_ms: Spread | None
    first_ms: Spread | None
    completion_tokens: Spread | None
    cost_usd: Spread | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of the candidates' calls less that of the stable servers', with its 95 % interval.

    ``low`` and ``high`` are None where a side has fewer than ``LEAST`` calls.
    """

    measure: str
    role: Role
    paired: bool
    stable: float
    candidate: float
    low: float | None
    high: float | None

    @property
    def significant(self) -> bool:
        """Whether chance alone hardly explains it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The answers of shadows against those that were given to the same calls."""

    count: int
    equal: float
    token_f1: Spread
    same_beginning: Spread
    cosine: Spread | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of a model's candidates."""

    sides: list[Side]
    pairs: Pairs | None
    differences: list[Difference]


def compare(samples: Sequence[Sample]) -> Comparison:
    """Compare what the samples tell; the same samples always give the same intervals."""
    sides: dict[tuple[Role, str], list[Sample]] = {}
    for sample in samples:
        sides.setdefault((sample.role, sample.deployment), []).append(sample)
    shadows = [s for s in samples if s.pair is not None and s.role == "shadow"]
    return Comparison(
        [_side(*key, sides[key]) for key in sorted(sides, key=lambda k: (ROLES.index(k[0]), k[1]))],
        _pairs(shadows),
        [*_of_canaries(samples), *_of_shadows(samples, shadows)],
    )


def _side(role: Role, name: str, samples: list[Sample]) -> Side:
    answered = [s for s in samples if s.outcome == "answered"]
    return Side(
        name,
        role,
        len(answered),
        sum(s.outcome == "failed" for s in samples),
        sum(s.outcome == "skipped" for s in samples),
        *(_spread(_values(answered, measure)) for measure in MEASURES),
    )


def _values(samples: Iterable[Sample], measure: str) -> Numbers:
    found = (getattr(s, measure) for s in samples)
    return np.array([v for v in found if v is not None], dtype=np.float64)


def _spread(values: Numbers) -> Spread | None:
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return Spread(float(values.mean()), float(p50), float(p95), float(p99))


def _pairs(shadows: list[Sample]) -> Pairs | None:
    f1, same = (_spread(_values(shadows, name)) for name in ("token_f1", "same_beginning"))
    if f1 is None or same is None:
        return None
    equal = float(np.mean([bool(s.equal) for s in shadows]))
    return Pairs(len(shadows), equal, f1, same, _spread(_values(shadows, "cosine")))


def _of_canaries(samples: Sequence[Sample]) -> Iterator[Difference]:
    stable, canary = ([s for s in samples if s.role == role] for role in ROLES[:2])
    for measure in MEASURES:
        yield from _apart(
            measure,
            *(
                _values((s for s in side if s.outcome == "answered"), measure)
                for side in (stable, canary)
            ),
        )
    failed = [np.array([s.outcome == "failed" for s in side], float) for side in (stable, canary)]
    yield from _apart("failed", *failed)


def _apart(measure: str, stable: Numbers, canary: Numbers) -> Iterator[Difference]:
    """The difference of two sides that answered other calls."""
    if not len(stable) or not len(canary):
        return
    means = float(stable.mean()), float(canary.mean())
    low, high = None, None
    if min(len(stable), len(canary)) >= LEAST:
        drawn = bootstrap_means(canary, DRAWS, 0) - bootstrap_means(stable, DRAWS, 1)
        low, high = (float(v) for v in np.percentile(drawn, (2.5, 97.5)))
    yield Difference(measure, "canary", False, *means, low, high)


def _of_shadows(samples: Sequence[Sample], shadows: list[Sample]) -> Iterator[Difference]:
    originals = {s.pair: s for s in samples if s.pair is not None and s.role != "shadow"}
    both = [(originals[s.pair], s) for s in shadows if s.pair in originals]
    for measure in MEASURES:
        told = [(getattr(a, measure), getattr(b, measure)) for a, b in both]
        numbers = np.array([p for p in told if None not in p], dtype=np.float64).reshape(-1, 2)
        if not len(numbers):
            continue
        stable, candidate = (float(v) for v in numbers.mean(axis=0))
        low, high = None, None
        if len(numbers) >= LEAST:
            low, high = bootstrap_interval((numbers[:, 1] - numbers[:, 0]).tolist(), DRAWS)
        yield Difference(measure, "shadow", True, stable, candidate, low, high)
