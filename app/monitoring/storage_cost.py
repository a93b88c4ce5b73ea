"""Charges what a tenant keeps, once a day, with an audit record of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from app.gateway.call import Call, Principal
from app.ids import new_id
from app.monitoring.audit import AuditLog
from app.monitoring.cost_parts import PartPrices
from app.retrieval.stored import Stored

log = logging.getLogger("ostiary.cost")
DAY_S = 86_400
ROUTE = "job:storage/day"


class StorageCharges:
    """Writes the day's charge of each tenant at the first look of the day (UTC).

    The record and the row that says that the day is charged are one transaction, so neither a
    kill nor another gateway that looks at the same time charges a day twice.

    Args:
        stored: what each tenant keeps.
        committed: is told of each charge.
    """

    def __init__(
        self,
        audit: AuditLog,
        prices: PartPrices,
        stored: Callable[[], Awaitable[Mapping[str, Stored]]],
        committed: Callable[[Call], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._audit, self._prices, self._stored = audit, prices, stored
        self._committed, self._clock = committed, clock
        self._charged = -1  # the last day that is done

    async def look(self) -> None:
        """Charge the day, unless that is done or storage is free."""
        now = self._clock()
        day = int(now) // DAY_S
        if day == self._charged or not self._prices.storage:
            return
        for tenant_id, kept in sorted((await self._stored()).items()):
            await self._charge(tenant_id, kept, now)
        self._charged = day

    async def _charge(self, tenant_id: str, kept: Stored, now: float) -> None:
        cost = self._prices.storage_nano_usd(kept.bytes)
        if not cost:
            return
        who = Principal(tenant_id, "system:storage", None, frozenset())
        call_id = new_id("call_")
        call = Call(call_id, call_id, "job", ROUTE, who, started=now)
        call.costs, call.cost_nano_usd = {"storage": cost}, cost
        call.work = {
            "files_bytes": kept.files,
            "vectors_bytes": kept.vectors,
            "words_bytes": kept.words,
        }
        once = {"tenant_id": tenant_id, "day": int(now) // DAY_S, "call_id": call_id}
        if await self._audit.commit(call, 200, 0.0, None, once):
            self._committed(call)
            log.info("storage of tenant %s charged: %d nano-USD", tenant_id, cost)
