"""What the gateway sees of drift by itself: one look at a tenant for metrics and for alerts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from app.monitoring.drift import DriftMonitor

STATES = ("stable", "drifted", "unjudged")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a tenant found; of its features no more than is needed, as many wait."""

    at: float  # when it began, in seconds of the looks' clock
    counts: Counter[str]  # features by state
    drifted: tuple[tuple[str, int], ...]  # features, and where their windows begin (Unix seconds)


class DriftLooks:
    """Looks at each tenant once for all who may share what was seen.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, monitor: DriftMonitor, clock: Callable[[], float] = time.monotonic) -> None:
        self._monitor, self._clock = monitor, clock
        self._newest: dict[str, Look] = {}
        self._looking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, tenant_id: str, max_age_s: float) -> Look:
        """The newest look at a tenant if it is at most so old now, else another one."""
        oldest = self._clock() - max_age_s
        async with self._looking[tenant_id]:  # who waited for a look shares it
            newest = self._newest.get(tenant_id)
            if newest is None or newest.at < oldest:
                newest = self._newest[tenant_id] = await self._look(tenant_id)
            return newest

    async def _look(self, tenant_id: str) -> Look:
        at = self._clock()
        found = await self._monitor.look(tenant_id)
        counts = Counter(
            "unjudged" if d.value is None else "drifted" if d.drifted else "stable" for d in found
        )
        drifted = tuple((d.feature, d.window) for d in found if d.drifted)
        return Look(at, counts, drifted)

    async def of_all(self, max_age_s: float) -> dict[str, int]:
        """How many features of all tenants are in each state; forgets what is too old."""
        await self._monitor.forget_old()
        tenants = await self._monitor.tenants()
        for gone in set(self._newest).difference(tenants):
            del self._newest[gone]
        counts: Counter[str] = Counter(dict.fromkeys(STATES, 0))
        for tenant_id in tenants:
            counts.update((await self.of(tenant_id, max_age_s)).counts)
        return dict(counts)
