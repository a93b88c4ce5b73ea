"""Which model servers there are: changed while the gateway runs, kept in the database."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from app.errors import BadRequest, Conflict, NotFound
from app.ids import new_id
from app.llm.cache import CachePolicy, ReplyCache
from app.llm.deployment import Deployment, Role
from app.llm.rollout import Rollout
from app.llm.router import Router
from app.llm.same_question import Check, check, shipped_pairs
from app.llm.upstream import Upstream
from app.monitoring.cost import HourPrice, Price, Prices, TokenPrice
from app.store.db import Database
from app.store.models import (
    deployments,
    model_caches,
    model_fallbacks,
    model_prices,
    model_rollouts,
)

log = logging.getLogger(__name__)
KEY_NAME = re.compile(r"OSTIARY_MODEL_KEY_[A-Z0-9_]{1,100}")


@dataclass(frozen=True, slots=True)
class Row:
    """A server as it is kept. ``url`` is None where the settings name it."""

    id: str
    model: str
    url: str | None
    served: str | None
    api_key_env: str | None
    weight: float
    draining: bool
    created_at: float
    max_concurrent: int | None
    role: Role


class Fleet:
    """Keeps the router in step with the database, from which other gateways read too.

    Args:
        taken: names of models that are none of the router's.
        timeout_s: the longest silence of a server.
        max_concurrent: calls that a server is sent at a time, where none of its own is set.
    """

    def __init__(
        self,
        db: Database,
        router: Router,
        prices: Prices,
        cache: ReplyCache,
        taken: Callable[[], Sequence[str]],
        timeout_s: float,
        max_concurrent: int,
    ) -> None:
        self._db, self._router, self._prices, self._taken = db, router, prices, taken
        self._cache = cache
        self._timeout_s, self._max_concurrent = timeout_s, max_concurrent
        self._known: dict[str, Row] = {}  # those in the router that the settings do not name
        self._changing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def add(
        self,
        model: str,
        url: str,
        *,
        served: str | None = None,
        api_key_env: str | None = None,
        weight: float = 1.0,
        max_concurrent: int | None = None,
        role: Role = "stable",
    ) -> Deployment:
        """Take a server in; durable and used on return, once it is well.

        Raises:
            BadRequest: the address is none, the key's variable is not set, or there is no stable
                server to which it could be a candidate.
            Conflict: the name is that of an embedding model or a ranker.
        """
        if model in self._taken():
            raise Conflict(
                f"'{model}' is served already, and not by a model server. Choose another name.",
                param="model",
            )
        if role != "stable" and model not in self._router.names:
            raise BadRequest(
                f"'{model}' has no stable server, so nothing can be its {role}. Add one with the "
                "role 'stable' first.",
                param="role",
            )
        _require_address(url)
        _key(api_key_env)
        row = Row(
            new_id("dep_"),
            model,
            url,
            served,
            api_key_env,
            weight,
            False,
            time.time(),
            max_concurrent,
            role,
        )
        async with self._db.write() as connection:
            await connection.execute(insert(deployments).values(asdict(row)))
        await self.sync()
        return self._find(row.id)

    async def change(
        self,
        deployment_id: str,
        weight: float | None = None,
        draining: bool | None = None,
        max_concurrent: int | None = None,
        role: Role | None = None,
    ) -> Deployment:
        """Give a server another role or share of the calls, more or fewer at a time, or no more.

        Raises:
            NotFound: there is no such server.
            Conflict: candidates of its model would have no stable server.
        """
        found = self._find(deployment_id)
        if role not in (None, "stable"):
            self._require_stable(found)
        wanted = {
            "weight": weight,
            "draining": draining,
            "max_concurrent": max_concurrent,
            "role": role,
        }
        values = {name: value for name, value in wanted.items() if value is not None}
        async with self._db.write() as connection:
            await self.note(connection, found, values)
        await self.sync()
        return self._find(deployment_id)

    async def note(
        self, connection: AsyncConnection, found: Deployment, values: dict[str, Any]
    ) -> None:
        """Write what changes of a server; in force after the next :meth:`sync`."""
        values = {"weight": found.weight, "draining": found.draining, "role": found.role} | values
        row = {"id": found.id, "model": found.model, "created_at": time.time(), **values}
        await connection.execute(
            self._db.insert(deployments)
            .values(**row)
            .on_conflict_do_update(index_elements=["id"], set_=values)
        )

    def _require_stable(self, leaving: Deployment) -> None:
        """A model keeps a stable server while it has candidates; raises Conflict."""
        others = [d for d in self._router.deployments(leaving.model) if d is not leaving]
        if all(d.role != "stable" for d in others):
            raise Conflict(
                f"'{leaving.model}' would have no stable server. Promote a candidate, or add a "
                "server, first."
            )

    async def remove(self, deployment_id: str) -> None:
        """Forget a server; the streams that it is in go on to their end.

        Raises:
            NotFound: there is no such server.
            Conflict: the settings name it, or candidates would have no stable server.
        """
        found = self._find(deployment_id)
        if deployment_id not in self._known:
            raise Conflict(
                "This server is named by the settings. Drain it, or change the settings and "
                "start again."
            )
        if any(d is not found for d in self._router.deployments(found.model)):
            self._require_stable(found)
        async with self._db.write() as connection:
            await connection.execute(delete(deployments).where(deployments.c.id == deployment_id))
        await self.sync()

    async def set_fallbacks(self, model: str, fallbacks: list[str]) -> None:
        """Name the models that answer, in this order, when no server of the model can.

        Raises:
            NotFound: one of the names is no model of the router.
            BadRequest: a model stands in for itself.
        """
        for name in (model, *fallbacks):
            self._router.available(name)
        if model in fallbacks:
            raise BadRequest("A model cannot answer for itself.", param="fallbacks")
        await self._keep(model_fallbacks, model, {"fallbacks": fallbacks})

    async def set_hedge(self, model: str, hedge_ms: int | None) -> None:
        """Ask a second server too when the first has not begun to answer after so long.

        Raises:
            NotFound: it is no model of the router.
        """
        fallbacks = list(self._router.fallbacks(model))
        await self._keep(model_fallbacks, model, {"fallbacks": fallbacks, "hedge_ms": hedge_ms})

    async def set_price(self, model: str, price: Price | None) -> None:
        """Charge a model's calls by this price from now on; None for the default.

        Raises:
            NotFound: it is no model of the router.
        """
        self._router.available(model)
        kept = None if price is None else {"price": asdict(price)}
        await self._keep(model_prices, model, kept)

    def price(self, model: str) -> Price | None:
        """What a model's calls cost now; None: as the settings say."""
        return self._prices.of(model)

    async def set_cache(
        self, model: str, ttl_s: float | None, threshold: float | None
    ) -> Check | None:
        """Give a model's replies again for so long; None: not at all. Empties its cache.

        Args:
            threshold: least cosine of two questions that are taken for one; None: exact only.

        Returns:
            What the threshold does on the labelled questions.

        Raises:
            NotFound: it is no model of the router.
            BadRequest: the gateway has no embedder to compare questions with.
        """
        self._router.available(model)
        embed = self._cache.embedder()
        if threshold is not None and embed is None:
            raise BadRequest(
                "This gateway runs without an embedding model, so questions cannot be compared. "
                "Leave semantic_threshold out.",
                param="cache.semantic_threshold",
            )
        kept = {"ttl_s": ttl_s, "threshold": threshold, "since": time.time()}
        await self._keep(model_caches, model, None if ttl_s is None else kept)
        if threshold is None or embed is None:
            return None
        return (await check(embed, [threshold], shipped_pairs()))[0]

    async def _keep(self, table: Table, model: str, values: dict[str, Any] | None) -> None:
        """Keep what was set for a model, or forget it for None; in force on return."""
        async with self._db.write() as connection:
            if values is None:
                await connection.execute(delete(table).where(table.c.model == model))
            else:
                await connection.execute(
                    self._db.insert(table)
                    .values(model=model, **values)
                    .on_conflict_do_update(index_elements=["model"], set_=values)
                )
        await self.sync()

    def cache(self, model: str) -> CachePolicy | None:
        """How a model's replies are given again."""
        return self._cache.policy(model)

    def _find(self, deployment_id: str) -> Deployment:
        for found in self._router.deployments():
            if found.id == deployment_id:
                return found
        raise NotFound("deployment", deployment_id, remedy="GET /v1/admin/models lists them.")

    def of_settings(self, deployment_id: str) -> bool:
        """Whether the settings name the server."""
        return deployment_id not in self._known

    async def sync(self) -> None:
        """Bring the router in step with what is kept; called again and again."""
        async with self._changing:
            rows = {r["id"]: Row(**r) for r in await self._db.rows(select(deployments))}
            for gone in self._known.keys() - rows.keys():
                del self._known[gone]
                leaving = asyncio.create_task(self._router.remove(gone))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
            for row in rows.values():
                if row.url is not None and row.id not in self._known:
                    await self._take(row, row.url)
            for found in self._router.deployments():
                kept = rows.get(found.id)
                if kept is not None:
                    found.weight, found.draining = kept.weight, kept.draining
                    found.most = kept.max_concurrent or self._max_concurrent
                    self._router.set_role(found, kept.role)
                    found.changed()
            for entry in await self._db.rows(select(model_fallbacks)):
                self._router.set_fallbacks(entry["model"], entry["fallbacks"])
                hedge_ms = entry["hedge_ms"]
                self._router.set_hedge(entry["model"], hedge_ms and hedge_ms / 1e3)
            prices = {
                r["model"]: _price(r["price"]) for r in await self._db.rows(select(model_prices))
            }
            caches = {
                r["model"]: CachePolicy(r["ttl_s"], r["threshold"], r["since"])
                for r in await self._db.rows(select(model_caches))
            }
            rollouts = {
                r["model"]: rollout
                for r in await self._db.rows(select(model_rollouts))
                if (rollout := Rollout.from_row(r)).under_way
            }
            for model in self._router.names:
                self._router.set_rollout(model, rollouts.get(model))
                self._prices.set(model, prices.get(model))
                self._cache.set(model, caches.get(model))

    async def _take(self, row: Row, url: str) -> None:
        try:
            key = _key(row.api_key_env)
        except BadRequest:  # set where it was added, but not for this gateway
            log.error("model server %s is left out: %s is not set", row.id, row.api_key_env)
            return
        self._known[row.id] = row
        made = Deployment(
            row.id,
            row.model,
            Upstream(url, key, timeout_s=self._timeout_s),
            served=row.served,
            weight=row.weight,
            draining=row.draining,
            most=row.max_concurrent or self._max_concurrent,
            role=row.role,
        )
        await self._router.add(made)

    async def close(self) -> None:
        """Wait for no stream any more."""
        for leaving in self._leaving:
            leaving.cancel()


def _price(kept: dict[str, float]) -> Price:
    return HourPrice(**kept) if "hour_usd" in kept else TokenPrice(**kept)


def _key(name: str | None) -> str | None:
    """The bearer key in an environment variable; keys are not kept in the database.

    Raises:
        BadRequest: the variable may not be used, or is not set.
    """
    if name is None:
        return None
    if not KEY_NAME.fullmatch(name):
        raise BadRequest(
            "The key's variable is called OSTIARY_MODEL_KEY_…, so that no other secret of the "
            "gateway can be sent to a server.",
            param="api_key_env",
        )
    found = os.environ.get(name)
    if not found:
        raise BadRequest(
            f"The gateway has no environment variable {name}. Set it and start again.",
            param="api_key_env",
        )
    return found


def _require_address(url: str) -> None:
    try:
        found = URL(url)
        good = found.scheme in ("http", "https") and bool(found.host)
    except ValueError:
        good = False
    if not good or found.user or found.password or found.query_string or found.fragment:
        raise BadRequest(
            "url is the address of a server, as http://10.0.0.5:8000/v1, without user, password "
            "and parameters.",
            param="url",
        )
