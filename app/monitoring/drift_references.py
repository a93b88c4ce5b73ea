"""The references of drift: frozen windows in versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.exc import IntegrityError

from app.errors import Conflict, NotFound, Unprocessable
from app.store.db import Database
from app.store.models_drift import (
    drift_embeddings,
    drift_frozen,
    drift_references,
    drift_sketches,
)

if TYPE_CHECKING:
    from app.monitoring.drift_verdicts import Rules

WINDOW_S = 3600
SETTLED_S = 60  # after its end every gateway has written a window
READ_AT_ONCE = 200  # features


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a feature is compared with."""

    version: int  # 0: its oldest windows
    kind: str
    since: int  # Unix seconds
    until: int
    count: int
    sketch: bytes


@dataclass(frozen=True, slots=True)
class Reference:
    """A version that a tenant froze."""

    version: int
    since: int
    until: int
    note: str
    made_by: str
    created_at: float
    features: int


class References:
    """Keeps the references of all tenants.

    A feature is compared with the newest version that holds it. Where none does, its oldest
    windows become version 0 as soon as they hold enough, and stay it.
    """

    def __init__(self, db: Database, rules: Rules, clock: Callable[[], float]) -> None:
        self._db, self._rules, self._clock = db, rules, clock

    async def in_force(self, tenant_id: str) -> dict[str, Frozen]:
        """The reference of each feature that has one."""
        of = drift_frozen.c
        query = select(drift_frozen).where(of.tenant_id == tenant_id).order_by(of.version)
        names = ("version", "kind", "since", "until", "count", "sketch")
        return {
            row["feature"]: Frozen(*(row[name] for name in names))
            for row in await self._db.rows(query)
        }

    async def freeze_oldest(self, tenant_id: str) -> None:
        """Freeze the oldest windows of features that have no reference and enough of them."""
        of, has = drift_sketches.c, drift_frozen.c
        known = select(has.feature).where(has.tenant_id == tenant_id)
        ended = of.window + WINDOW_S + SETTLED_S <= int(self._clock())
        counted = select(of.feature, of.window, of.kind, func.sum(of.count).label("count"))
        rows = await self._db.rows(
            counted.where(of.tenant_id == tenant_id, ended, of.feature.not_in(known))
            .group_by(of.feature, of.window, of.kind)
            .order_by(of.window)
        )
        counts: dict[str, int] = {}
        until: dict[str, int] = {}
        for row in rows:
            feature, before = row["feature"], counts.get(row["feature"], 0)
            if before < self._rules.reference_count:
                counts[feature] = before + int(row["count"])
                until[feature] = row["window"] + WINDOW_S
        enough = [f for f, count in counts.items() if count >= self._rules.reference_count]
        if not enough:
            return
        frozen = await self._frozen(tenant_id, enough, 0, until)
        insert = self._db.insert(drift_frozen).on_conflict_do_nothing()  # another gateway was first
        async with self._db.write() as connection:
            await connection.execute(insert, [{**row, "version": 0} for row in frozen])

    async def _frozen(
        self, tenant_id: str, features: Iterable[str], since: int, until: dict[str, int]
    ) -> list[dict[str, Any]]:
        from app.monitoring.sketches import merged

        of, found = drift_sketches.c, []
        waiting = list(features)
        for start in range(0, len(waiting), READ_AT_ONCE):
            some = waiting[start : start + READ_AT_ONCE]
            query = select(of.feature, of.window, of.kind, of.sketch).where(
                of.tenant_id == tenant_id, of.feature.in_(some), of.window >= since
            )
            parts: dict[str, list[Any]] = {}
            for row in await self._db.rows(query.order_by(of.window)):
                if row["window"] + WINDOW_S <= until[row["feature"]]:
                    parts.setdefault(row["feature"], []).append(row)
            for feature, rows in parts.items():
                kind = rows[-1]["kind"]
                rows = [row for row in rows if row["kind"] == kind]
                whole = merged(kind, [row["sketch"] for row in rows])
                found.append(
                    {
                        "tenant_id": tenant_id,
                        "feature": feature,
                        "kind": kind,
                        "since": rows[0]["window"],
                        "until": rows[-1]["window"] + WINDOW_S,
                        "count": whole.count,
                        "sketch": whole.as_bytes(),
                    }
                )
        return found

    async def freeze(
        self, tenant_id: str, since: float, until: float, note: str, made_by: str
    ) -> Reference:
        """Freeze the whole hours between two times as the newest version.

        Raises:
            Unprocessable: nothing was observed in them.
            Conflict: another version was frozen at the same moment.
        """
        of = drift_sketches.c
        first = -(-int(since) // WINDOW_S) * WINDOW_S
        last = int(until) // WINDOW_S * WINDOW_S
        inside = (of.tenant_id == tenant_id, of.window >= first, of.window + WINDOW_S <= last)
        rows = await self._db.rows(select(of.feature).where(*inside).distinct())
        features = [row["feature"] for row in rows]
        if not features:
            raise Unprocessable(
                "Nothing was observed in the whole hours between `since` and `until`. Choose "
                "a time with calls that sketches are still kept of.",
                param="since",
                code="empty_reference",
            )
        frozen = await self._frozen(tenant_id, features, first, dict.fromkeys(features, last))
        at = self._clock()
        has = drift_references.c
        newest = select(func.coalesce(func.max(has.version), 0)).where(has.tenant_id == tenant_id)
        head = {
            "since": first,
            "until": last,
            "note": note,
            "made_by": made_by,
            "created_at": at,
        }
        try:
            async with self._db.write() as connection:
                version = int((await connection.scalar(newest)) or 0) + 1
                await connection.execute(
                    drift_references.insert().values(tenant_id=tenant_id, version=version, **head)
                )
                await connection.execute(
                    drift_frozen.insert(), [{**row, "version": version} for row in frozen]
                )
        except IntegrityError as error:
            raise Conflict(
                "Another reference was frozen at the same moment. Look at "
                "GET /v1/drift/references and send it again if it is still wanted."
            ) from error
        return Reference(version, first, last, note, made_by, at, len(frozen))

    async def all(self, tenant_id: str) -> list[Reference]:
        """The versions of a tenant, newest first."""
        return await self._read(tenant_id)

    async def _read(self, tenant_id: str, *which: ColumnElement[bool]) -> list[Reference]:
        of, has = drift_references.c, drift_frozen.c
        held = select(has.version, func.count().label("features"))
        held = held.where(has.tenant_id == tenant_id).group_by(has.version)
        features = {row["version"]: row["features"] for row in await self._db.rows(held)}
        query = select(drift_references).where(of.tenant_id == tenant_id, *which)
        return [
            Reference(
                row["version"],
                row["since"],
                row["until"],
                row["note"],
                row["made_by"],
                row["created_at"],
                features.get(row["version"], 0),
            )
            for row in await self._db.rows(query.order_by(of.version.desc()).limit(1000))
        ]

    async def get(self, tenant_id: str, version: int) -> Reference:
        """Raises NotFound when the tenant has no such version."""
        found = await self._read(tenant_id, drift_references.c.version == version)
        if not found:
            raise _unknown(version)
        return found[0]

    async def drop(self, tenant_id: str, version: int) -> None:
        """Forget a version; features go back to the newest that still holds them.

        Raises:
            NotFound: the tenant has no such version.
        """
        async with self._db.write() as connection:
            of = drift_references.c
            gone = await connection.execute(
                delete(drift_references).where(of.tenant_id == tenant_id, of.version == version)
            )
            if gone.rowcount == 0:
                raise _unknown(version)
            has = drift_frozen.c
            await connection.execute(
                delete(drift_frozen).where(has.tenant_id == tenant_id, has.version == version)
            )
            tested = drift_embeddings.c  # its number may be given again
            await connection.execute(
                delete(drift_embeddings).where(
                    tested.tenant_id == tenant_id, tested.version == version
                )
            )


def _unknown(version: int) -> NotFound:
    return NotFound(
        "drift reference", str(version), remedy="GET /v1/drift/references lists the known ones."
    )
