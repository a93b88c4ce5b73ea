"""Drift of what calls carry: constant-size sketches per window against a frozen reference."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from app.gateway.call import Call
from app.ids import new_id
from app.store.db import Database
from app.store.models import drift_sketches

if TYPE_CHECKING:
    from datasketches import kll_floats_sketch

WINDOW_S = 3600
SKETCH_K = 200  # KLL: rank error 1.33 % single-sided, about 2 KB a sketch
MIN_COUNT = 100
KS_THRESHOLD = 0.2


@dataclass(frozen=True, slots=True)
class Drift:
    """One feature's newest window against its reference.

    ``ks`` is the Kolmogorov-Smirnov distance (0..1) between the two sketches; None while
    either holds fewer than ``MIN_COUNT`` observations.
    """

    feature: str
    window: int  # start of the newest window, Unix seconds
    count: int
    reference_count: int
    ks: float | None
    threshold: float
    drifted: bool
    quantiles: list[float]
    reference_quantiles: list[float]


class DriftMonitor:
    """Feeds KLL sketches (Karnin, Lang, Liberty 2016) from every settled call.

    Sketches are merged over replicas and restarts: each process writes rows of its own.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._process = new_id("p_")
        self._live: dict[tuple[str, str, int], kll_floats_sketch] = {}
        self._dirty: set[tuple[str, str, int]] = set()

    def observe(self, call: Call, latency_s: float) -> None:
        """Add the features of one call; constant time and memory a feature."""
        window = int(time.time()) // WINDOW_S * WINDOW_S
        prefix = f"{call.route}|{call.model or '-'}|"
        tenant = call.tenant_id
        self._update(tenant, prefix + "latency_s", window, latency_s)
        for name, value in call.features.items():
            self._update(tenant, prefix + name, window, value)

    def _update(self, tenant: str, feature: str, window: int, value: float) -> None:
        key = (tenant, feature, window)
        sketch = self._live.get(key)
        if sketch is None:
            from datasketches import kll_floats_sketch

            sketch = self._live[key] = kll_floats_sketch(SKETCH_K)
        sketch.update(value)
        self._dirty.add(key)

    async def flush(self) -> None:
        """Write what changed since the last flush; forget windows that have ended."""
        keys, self._dirty = self._dirty, set()
        rows = [
            {
                "tenant_id": tenant,
                "feature": feature,
                "window": window,
                "instance": self._process,
                "count": self._live[tenant, feature, window].n,
                "sketch": self._live[tenant, feature, window].serialize(),
            }
            for tenant, feature, window in keys
        ]
        if rows:
            insert = self._db.insert(drift_sketches)
            upsert = insert.on_conflict_do_update(
                index_elements=["tenant_id", "feature", "window", "instance"],
                set_={"count": insert.excluded.count, "sketch": insert.excluded.sketch},
            )
            try:
                async with self._db.write() as connection:
                    await connection.execute(upsert, rows)
            except Exception:
                self._dirty |= keys
                raise
        now = int(time.time()) // WINDOW_S * WINDOW_S
        for key in [k for k in self._live if k[2] < now and k not in self._dirty]:
            del self._live[key]

    async def states(self) -> dict[str, int]:
        """How many features of all tenants drift, do not, or cannot be judged yet."""
        counts = dict.fromkeys(("stable", "drifted", "unjudged"), 0)
        async with self._db.read() as connection:
            tenants = list(await connection.scalars(select(drift_sketches.c.tenant_id).distinct()))
        for tenant_id in tenants:
            for found in await self.report(tenant_id):
                state = "drifted" if found.drifted else "stable"
                counts["unjudged" if found.ks is None else state] += 1
        return counts

    async def report(self, tenant_id: str, feature: str | None = None) -> list[Drift]:
        """Compare each feature's newest window with its reference.

        The reference is the feature's oldest windows, taken until they hold ``MIN_COUNT``
        observations; it never includes the newest window.
        """
        await self.flush()
        query = select(drift_sketches).where(drift_sketches.c.tenant_id == tenant_id)
        if feature is not None:
            query = query.where(drift_sketches.c.feature == feature)
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        windows: dict[str, dict[int, Any]] = {}
        from datasketches import kll_floats_sketch

        for row in rows:
            per_window = windows.setdefault(row["feature"], {})
            merged = per_window.setdefault(row["window"], kll_floats_sketch(SKETCH_K))
            merged.merge(kll_floats_sketch.deserialize(row["sketch"]))
        return [_compare(name, per_window) for name, per_window in sorted(windows.items())]


def _compare(feature: str, per_window: dict[int, Any]) -> Drift:
    from datasketches import kll_floats_sketch

    starts = sorted(per_window)
    newest, current = starts[-1], per_window[starts[-1]]
    reference = kll_floats_sketch(SKETCH_K)
    for start in starts[:-1]:
        reference.merge(per_window[start])
        if reference.n >= MIN_COUNT:
            break
    enough = current.n >= MIN_COUNT and reference.n >= MIN_COUNT
    ks = ks_distance(reference, current) if enough else None
    return Drift(
        feature=feature,
        window=newest,
        count=current.n,
        reference_count=reference.n,
        ks=ks,
        threshold=KS_THRESHOLD,
        drifted=ks is not None and ks > KS_THRESHOLD,
        quantiles=_quantiles(current),
        reference_quantiles=_quantiles(reference),
    )


def ks_distance(a: Any, b: Any) -> float:
    """Largest gap between the two sketches' CDFs, at the quantiles of both."""
    import numpy as np

    ranks = np.linspace(0.0, 1.0, 101)
    points = np.unique(np.concatenate([a.get_quantiles(ranks), b.get_quantiles(ranks)]))
    gaps = np.abs(
        np.array([a.get_rank(float(p)) for p in points])
        - np.array([b.get_rank(float(p)) for p in points])
    )
    return float(gaps.max())


def _quantiles(sketch: Any) -> list[float]:
    if sketch.is_empty():
        return []
    return [float(q) for q in sketch.get_quantiles([0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])]
