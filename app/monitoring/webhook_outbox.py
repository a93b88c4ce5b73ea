"""The outbox of webhooks: each message is sent until its receiver has taken it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import RowMapping, delete, select, update

from app.errors import NotFound
from app.monitoring.webhook_post import Undelivered, WebhookPost
from app.monitoring.webhooks import Webhooks
from app.store.db import Database
from app.store.models_incidents import webhook_deliveries

log = logging.getLogger("ostiary.incidents")
AT_ONCE = 32  # messages of one look
LEASE_S = 30.0  # longer than an attempt; after it, one that a kill cut is made again
FIRST_S, LONGEST_S = 2.0, 3600.0  # pauses between attempts double
GIVE_UP_S = 3 * 86_400.0
KEPT_S = 30 * 86_400.0  # of those that are over
_D = webhook_deliveries.c


class WebhookOutbox:
    """Sends at least once, under one id, what was committed with the change that it tells of.

    An attempt is claimed by one conditional UPDATE that moves its time on, so that gateways do
    not send side by side, and a kill in the middle makes it due again.
    """

    def __init__(
        self,
        db: Database,
        webhooks: Webhooks,
        post: WebhookPost,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._webhooks, self._post, self._clock = db, webhooks, post, clock

    async def deliver(self) -> int:
        """Make the attempts that are due; returns how many were made."""
        query = (
            select(webhook_deliveries)
            .where(_D.status == "pending", _D.next_at <= self._clock())
            .order_by(_D.next_at)
            .limit(AT_ONCE)
        )
        rows = await self._db.rows(query)
        made = await asyncio.gather(*map(self._attempt, rows), return_exceptions=True)
        for failure in made:
            if isinstance(failure, BaseException):
                log.error("a webhook could not be attempted", exc_info=failure)
        return sum(one is True for one in made)

    async def _attempt(self, row: RowMapping) -> bool:
        now = self._clock()
        claim = {"next_at": now + LEASE_S, "attempts": row["attempts"] + 1}
        if not await self._set(row, _D.attempts == row["attempts"], **claim):
            return False  # another gateway's
        mine = _D.attempts == row["attempts"] + 1
        try:
            url, headers = await self._webhooks.headers(row, row["body"], now)
            await self._post.send(url, row["body"].encode(), headers)
        except (Undelivered, NotFound) as error:
            over = error.over if isinstance(error, Undelivered) else True
            over = over or now - row["created_at"] >= GIVE_UP_S
            values: dict[str, Any] = {"error": str(error)[:300]}
            if over:
                values |= {"status": "failed", "ended_at": self._clock()}
            else:
                values["next_at"] = self._clock() + pause_s(row["attempts"] + 1)
            await self._set(row, mine, **values)
        else:
            await self._set(row, status="delivered", ended_at=self._clock(), error=None)
        return True

    async def _set(self, row: RowMapping, *conditions: Any, **values: Any) -> bool:
        async with self._db.write() as connection:
            done = await connection.execute(
                update(webhook_deliveries)
                .where(_D.id == row["id"], _D.status == "pending", *conditions)
                .values(**values)
            )
        return bool(done.rowcount)

    async def sweep(self) -> None:
        """Forget what was over a month ago."""
        async with self._db.write() as connection:
            await connection.execute(
                delete(webhook_deliveries).where(_D.ended_at < self._clock() - KEPT_S)
            )


def pause_s(attempts: int) -> float:
    """Seconds until the next attempt: doubled each time, and spread, so that not all come at
    once to a receiver that is back."""
    longest = min(LONGEST_S, FIRST_S * 2.0 ** min(attempts - 1, 20))
    return longest * random.uniform(0.75, 1.0)  # noqa: S311
