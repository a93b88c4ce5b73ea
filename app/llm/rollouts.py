"""Candidates of a model: who is sent to them, what they did, promoted or taken back by one call."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import BadRequest, Conflict
from app.llm.comparison import Comparison, compare
from app.llm.deployment import Deployment, Role
from app.llm.fleet import Fleet
from app.llm.rollout import Rollout
from app.llm.router import Router
from app.llm.samples import Samples
from app.monitoring.cost import TokenPrice
from app.store.db import Database
from app.store.models import model_rollouts


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a model's rollout, also after its end.

    ``previous`` are ``id``, ``role`` and ``draining`` of each server before the last promotion.
    """

    rollout: Rollout
    previous: list[dict[str, Any]] | None


class Rollouts:
    """Changes what the router follows; durable, and in force on return."""

    def __init__(self, db: Database, router: Router, fleet: Fleet, samples: Samples) -> None:
        self._db, self._router, self._fleet, self._samples = db, router, fleet, samples
        self._changing = asyncio.Lock()

    async def kept(self, model: str) -> Kept | None:
        """What is kept of a model's rollout; raises NotFound."""
        self._router.available(model)
        query = select(model_rollouts).where(model_rollouts.c.model == model)
        found = await self._db.one_or_none(query)
        return None if found is None else Kept(Rollout.from_row(found), found["previous"])

    async def set(
        self, model: str, canary_share: float, shadow_share: float, price: TokenPrice | None
    ) -> None:
        """Send this share of the callers to canaries, and copies of this share to shadows.

        Raises:
            NotFound: it is no model of the router.
        """
        self._router.available(model)
        values = {
            "canary_share": canary_share,
            "shadow_share": shadow_share,
            "price": None if price is None else asdict(price),
            "since": time.time(),
        }
        async with self._changing, self._db.write() as connection:
            await self._note(connection, model, values)
        await self._fleet.sync()

    async def promote(self, model: str, role: Role | None = None) -> None:
        """Make the candidates the model's stable servers, and drain those that were.

        Raises:
            NotFound: it is no model of the router.
            BadRequest: there are both canaries and shadows, and ``role`` does not say which.
            Conflict: there is no candidate, or none that can answer.
        """
        self._router.available(model)
        async with self._changing:
            servers = self._router.deployments(model)
            candidates = _candidates(servers, role)
            if not any(d.up for d in candidates):
                raise Conflict(
                    "No candidate is ready, so nothing was promoted. GET /v1/admin/models tells "
                    "how they are."
                )
            stable = [d for d in servers if d.role == "stable"]
            previous = [
                {"id": d.id, "role": d.role, "draining": d.draining} for d in stable + candidates
            ]
            async with self._db.write() as connection:
                for found in stable:
                    await self._fleet.note(connection, found, {"draining": True})
                for found in candidates:
                    await self._fleet.note(connection, found, {"role": "stable", "draining": False})
                await self._note(connection, model, {**_ENDED, "previous": previous})
            await self._fleet.sync()

    async def rollback(self, model: str) -> None:
        """End a rollout that is under way; else undo the last promotion.

        Raises:
            NotFound: it is no model of the router.
            Conflict: nothing is under way and nothing was promoted, or the servers of before
                are gone.
        """
        async with self._changing:
            kept = await self.kept(model)
            if kept is None or not (kept.rollout.under_way or kept.previous):
                raise Conflict(
                    f"Nothing of '{model}' is being rolled out, and nothing was promoted."
                )
            async with self._db.write() as connection:
                if kept.rollout.under_way:
                    await self._note(connection, model, _ENDED)
                else:
                    await self._restore(connection, model, kept.previous or [])
            await self._fleet.sync()

    async def _restore(
        self, connection: AsyncConnection, model: str, previous: list[dict[str, Any]]
    ) -> None:
        servers = {d.id: d for d in self._router.deployments(model)}
        left = [was for was in previous if was["id"] in servers]
        if not any(was["role"] == "stable" and not was["draining"] for was in left):
            raise Conflict(
                f"The servers that '{model}' had before were removed. Add one with the role "
                "'stable', and drain those of now."
            )
        for was in left:
            values = {"role": was["role"], "draining": was["draining"]}
            await self._fleet.note(connection, servers[was["id"]], values)
        await self._note(connection, model, {**_ENDED, "previous": None})

    async def comparison(self, model: str, since: float | None = None) -> tuple[float, Comparison]:
        """From when on, and what is known of the candidates since; raises NotFound.

        Args:
            since: Unix seconds; None: since the shares were last set.
        """
        kept = await self.kept(model)
        start = since if since is not None else 0.0 if kept is None else kept.rollout.since
        samples = await self._samples.since(model, start)
        return start, await asyncio.to_thread(compare, samples)

    async def _note(self, connection: AsyncConnection, model: str, values: dict[str, Any]) -> None:
        new = {"model": model, "canary_share": 0.0, "shadow_share": 0.0, "since": time.time()}
        await connection.execute(
            self._db.insert(model_rollouts)
            .values(**{**new, **values})
            .on_conflict_do_update(index_elements=["model"], set_=values)
        )


_ENDED: dict[str, Any] = {"canary_share": 0.0, "shadow_share": 0.0}


def _candidates(servers: list[Deployment], role: Role | None) -> list[Deployment]:
    found = [
        d
        for d in servers
        if d.role != "stable" and not d.draining and (role is None or d.role == role)
    ]
    if not found:
        raise Conflict(
            f"There is no {role or 'candidate'} to promote. Add a server with the role 'canary' "
            "or 'shadow' first."
        )
    if len({d.role for d in found}) > 1:
        raise BadRequest(
            "The model has canaries and shadows. Say which: role is 'canary' or 'shadow'.",
            param="role",
        )
    return found
