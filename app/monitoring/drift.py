"""Drift of what calls carry: sketches of each hour against a frozen reference."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import delete, func, select

from app.gateway.call import Call
from app.ids import new_id
from app.monitoring.drift_features import observed
from app.monitoring.drift_verdicts import (
    DEFAULT_RULES,
    Drift,
    Pair,
    Rules,
    Tested,
    compare_embeddings,
    judge,
)
from app.store.db import Database
from app.store.models_drift import drift_embeddings, drift_sketches

if TYPE_CHECKING:
    from app.monitoring.drift_references import References
    from app.monitoring.sketches import Summary

log = logging.getLogger("ostiary.drift")
WINDOW_S = 3600
LOOK_BACK_S = 24 * WINDOW_S
TEST_EMBEDDINGS_S = 300.0
MOST_FEATURES = 50_000  # held at a time; what is beyond them is not watched
WRITTEN_AT_ONCE = 500  # sketches of one statement; the loop is free between two

T = TypeVar("T")
Key = tuple[str, str, int]  # tenant, feature, window


class DriftMonitor:
    """Feeds sketches from every settled call, and judges them.

    Sketches are merged over replicas and restarts: each process writes rows of its own.

    Args:
        clock: Unix seconds.
    """

    def __init__(
        self,
        db: Database,
        rules: Rules = DEFAULT_RULES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        from app.monitoring.drift_references import References

        self._db, self.rules, self._clock = db, rules, clock
        self.references: References = References(db, rules, clock)
        self._process = new_id("p_")
        self._live: dict[Key, Summary] = {}
        self._dirty: set[Key] = set()
        self._flushing = asyncio.Lock()
        self._full = False

    def observe(self, call: Call, latency_s: float) -> None:
        """Add the features of one call; constant time and memory a feature."""
        window = int(self._clock()) // WINDOW_S * WINDOW_S
        prefix = f"{call.route}|{call.model or '-'}|"
        tenant = call.tenant_id
        for name, value in observed(call, latency_s):
            key = (tenant, prefix + name, window)
            summary: Any = self._live.get(key)
            if summary is None:
                summary = self._begin(key, value)
                if summary is None:
                    continue
            try:
                summary.add(value)
            except (TypeError, AttributeError, ValueError):  # of another kind than before
                log.warning("drift: the values of %s are of several kinds", name)
                continue
            self._dirty.add(key)

    def _begin(self, key: Key, value: Any) -> Summary | None:
        from app.monitoring.sketches import Counts, Numbers, Sample

        if len(self._live) >= MOST_FEATURES:
            if not self._full:
                log.warning("drift: %d features are watched; no more are", MOST_FEATURES)
                self._full = True
            return None
        if isinstance(value, bool | str):
            self._live[key] = Counts()
        elif isinstance(value, int | float):
            self._live[key] = Numbers()
        else:
            self._live[key] = Sample()
        return self._live[key]

    async def flush(self) -> None:
        """Write what changed since the last flush; forget windows that have ended."""
        async with self._flushing:  # an older state must not be written over a newer one
            keys, self._dirty = self._dirty, set()
            for some in _some(keys):
                try:
                    await self._write(some)
                except BaseException:
                    self._dirty |= keys
                    raise
            now = int(self._clock()) // WINDOW_S * WINDOW_S
            for key in [k for k in self._live if k[2] < now and k not in self._dirty]:
                del self._live[key]
            self._full = False

    async def _write(self, keys: list[Key]) -> None:
        rows = []
        for key in keys:
            tenant, feature, window = key
            summary = self._live[key]
            rows.append(
                {
                    "tenant_id": tenant,
                    "feature": feature,
                    "window": window,
                    "instance": self._process,
                    "count": summary.count,
                    "sketch": summary.as_bytes(),
                    "kind": summary.kind,
                }
            )
        insert = self._db.insert(drift_sketches)
        upsert = insert.on_conflict_do_update(
            index_elements=["tenant_id", "feature", "window", "instance"],
            set_={"count": insert.excluded.count, "sketch": insert.excluded.sketch},
        )
        async with self._db.write() as connection:
            await connection.execute(upsert, rows)

    async def tenants(self) -> list[str]:
        """Those of whom something was observed in the last day."""
        of = drift_sketches.c
        recent = select(of.tenant_id).where(of.window > self._clock() - LOOK_BACK_S)
        return [row["tenant_id"] for row in await self._db.rows(recent.distinct())]

    async def report(
        self, tenant_id: str, feature: str | None = None, hours: int = 1
    ) -> list[Drift]:
        """Compare each feature's newest hours with its frozen reference.

        ``hours`` are merged, and earlier ones of the last day besides until they hold the least
        count. p-values are corrected over all features of the tenant, also where one is asked for.
        """
        pairs = await self.pairs(tenant_id, hours)
        tested = await self._tested(tenant_id)
        found = await asyncio.to_thread(judge, pairs, tested, self.rules)
        return found if feature is None else [d for d in found if d.feature == feature]

    async def look(self, tenant_id: str) -> list[Drift]:
        """:meth:`report`, with embeddings tested anew whose test is older than five minutes.

        Some 0.1 s for each of these; the tests are stored for the reports of all gateways.
        """
        pairs = await self.pairs(tenant_id)
        tested = await self._tested(tenant_id)
        for pair in pairs:
            if pair.kind == "embedding" and self._is_due(pair, tested.get(pair.feature)):
                anew = await asyncio.to_thread(compare_embeddings, pair, self.rules, self._clock())
                if anew is not None:
                    tested[pair.feature] = anew
                    await self._keep(tenant_id, pair, anew)
        return await asyncio.to_thread(judge, pairs, tested, self.rules)

    def _is_due(self, pair: Pair, last: Tested | None) -> bool:
        if last is None or pair.reference is None or last.version != pair.reference.version:
            return pair.reference is not None
        return last.at <= self._clock() - TEST_EMBEDDINGS_S

    async def _tested(self, tenant_id: str) -> dict[str, Tested]:
        of = drift_embeddings.c
        recent = (of.tenant_id == tenant_id, of.until > self._clock() - LOOK_BACK_S)
        return {
            row["feature"]: Tested(row["version"], row["count"], row["value"], row["p"], row["at"])
            for row in await self._db.rows(select(drift_embeddings).where(*recent))
        }

    async def pairs(self, tenant_id: str, hours: int = 1) -> list[Pair]:
        """What :meth:`report` compares, as it is stored."""
        await self.flush()
        await self.references.freeze_oldest(tenant_id)
        held = await self.references.in_force(tenant_id)
        of, oldest = drift_sketches.c, self._clock() - LOOK_BACK_S - hours * WINDOW_S
        recent = (of.tenant_id == tenant_id, of.window > oldest)
        counted = select(of.feature, of.window, func.sum(of.count).label("count"))
        rows = await self._db.rows(
            counted.where(*recent).group_by(of.feature, of.window).order_by(of.window.desc())
        )
        windows: dict[str, dict[int, int]] = {}
        for row in rows:
            reference = held.get(row["feature"])
            inside = reference and reference.since <= row["window"] < reference.until
            per_window = windows.setdefault(row["feature"], {})
            if not inside:
                per_window[row["window"]] = int(row["count"])
        since: dict[int, list[str]] = {}
        for feature, per_window in windows.items():
            if per_window:
                since.setdefault(self._since(per_window, hours), []).append(feature)
        found = []
        for start, features in since.items():
            for some in _some(features):
                query = select(of.feature, of.window, of.kind, of.sketch)
                query = query.where(*recent, of.window >= start, of.feature.in_(some))
                parts: dict[str, list[Any]] = {}
                for row in await self._db.rows(query):
                    if row["window"] in windows[row["feature"]]:
                        parts.setdefault(row["feature"], []).append(row)
                for feature, of_feature in parts.items():
                    until = max(row["window"] for row in of_feature) + WINDOW_S
                    first = min(row["window"] for row in of_feature)
                    kind = of_feature[-1]["kind"]
                    sketches = [row["sketch"] for row in of_feature if row["kind"] == kind]
                    reference = held.get(feature)
                    if reference is not None and reference.kind != kind:
                        reference = None
                    found.append(Pair(feature, kind, first, until, sketches, reference))
        return sorted(found, key=lambda pair: pair.feature)

    def _since(self, per_window: dict[int, int], hours: int) -> int:
        """Where the compared windows begin: the newest ``hours``, and enough of those before."""
        newest, count, since = max(per_window), 0, 0
        for window in sorted(per_window, reverse=True):
            if window <= newest - hours * WINDOW_S and count >= self.rules.min_count:
                break
            count, since = count + per_window[window], window
        return since

    async def forget_old(self) -> None:
        """Delete windows that are too old; every gateway on a database may do it."""
        too_old = drift_sketches.c.window < self._clock() - self.rules.keep_days * 86_400
        async with self._db.write() as connection:
            await connection.execute(delete(drift_sketches).where(too_old))

    async def _keep(self, tenant_id: str, pair: Pair, tested: Tested) -> None:
        insert = self._db.insert(drift_embeddings).values(
            tenant_id=tenant_id,
            feature=pair.feature,
            version=tested.version,
            until=pair.until,
            count=tested.count,
            value=tested.value,
            p=tested.p,
            at=tested.at,
        )
        given = insert.excluded
        upsert = insert.on_conflict_do_update(
            index_elements=["tenant_id", "feature"],
            set_={name: given[name] for name in ("version", "until", "count", "value", "p", "at")},
        )
        async with self._db.write() as connection:
            await connection.execute(upsert)


def _some(items: Iterable[T]) -> Iterator[list[T]]:
    """A few hundred at a time."""
    waiting = list(items)
    for start in range(0, len(waiting), WRITTEN_AT_ONCE):
        yield waiting[start : start + WRITTEN_AT_ONCE]
