"""Rates and budgets: how many requests, tokens and USD a key and its tenant may spend."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from app.errors import BudgetExceeded, RateLimited, Unavailable
from app.gateway.call import Call, Principal

if TYPE_CHECKING:
    from limits import RateLimitItem

WINDOW_S = 60
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Window:
    """A counted minute: its limit, what is left, and when it starts anew (Unix seconds)."""

    limit: int
    remaining: int
    reset_at: float

    @property
    def spent(self) -> bool:
        return self.remaining < 0


class Counters(Protocol):
    """Counts per fixed minute; in process, or shared through Redis."""

    async def add(self, name: str, limit: int, amount: int) -> Window: ...


class MemoryCounters:
    """Counts in this process.

    A plain dictionary: one update costs about a microsecond, where the in-memory storage of
    the ``limits`` library costs about twenty and keeps a timer thread.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._minute = 0

    async def add(self, name: str, limit: int, amount: int) -> Window:
        minute = int(time.time()) // WINDOW_S
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        count = self._counts.get(name, 0) + amount
        self._counts[name] = count
        return Window(limit, limit - count, (minute + 1) * WINDOW_S)


class RedisCounters:
    """Counts shared by all gateways, by the ``limits`` library on Redis."""

    def __init__(self, url: str) -> None:
        from limits.aio.storage import RedisStorage

        self._storage = RedisStorage("async+" + url, implementation="redispy")
        self._items: dict[int, RateLimitItem] = {}

    async def add(self, name: str, limit: int, amount: int) -> Window:
        """Raises Unavailable when Redis does not answer: a limit that cannot count refuses."""
        minute = int(time.time()) // WINDOW_S
        try:
            count = await self._storage.incr(
                f"ostiary:{name}:{minute}", 2 * WINDOW_S, amount=max(amount, 0)
            )
        except Exception as error:
            raise Unavailable(
                "The shared limits cannot be reached, so the call was refused. Try again shortly.",
                code="limits_unavailable",
                headers={"retry-after": "1"},
            ) from error
        return Window(limit, limit - int(count), (minute + 1) * WINDOW_S)


SpentToday = Callable[[str], Awaitable[int]]  # tenant -> nano-USD since midnight UTC
BudgetOf = Callable[[str], Awaitable[float | None]]  # tenant -> USD per day


class Limits:
    """Checks a call on its way in and counts it on its way out.

    A key without limits of its own has the defaults. ``spent_today`` reads the audit log, so
    a budget survives a restart and holds across gateways (re-read every ``REREAD_S``).
    """

    REREAD_S = 10.0

    def __init__(
        self,
        counters: Counters,
        *,
        rpm: int,
        tpm: int,
        tenant_rpm: int,
        budget_usd_per_day: float | None,
        spent_today: SpentToday,
        budget_of: BudgetOf,
    ) -> None:
        self._counters = counters
        self._rpm, self._tpm, self._tenant_rpm = rpm, tpm, tenant_rpm
        self._default_budget = budget_usd_per_day
        self._spent_today, self._budget_of = spent_today, budget_of
        self._spent: dict[str, tuple[int, float, int, float | None]] = {}

    async def admit(self, call: Call) -> None:
        """Count the request.

        Raises:
            RateLimited: the minute of the key or the tenant is spent.
            BudgetExceeded: the tenant's day is spent.
            Unavailable: the shared counters do not answer.
        """
        who = call.principal
        name = who.key_id or who.subject
        requests = await self._counters.add(f"r:{name}", who.rate_rpm or self._rpm, 1)
        tokens = await self._counters.add(f"t:{name}", who.rate_tpm or self._tpm, 0)
        call.windows = (requests, tokens)
        if requests.spent:
            raise _too_many("requests", requests)
        tenant = await self._counters.add(f"r:{who.tenant_id}", self._tenant_rpm, 1)
        if tenant.spent:
            raise _too_many("requests of the tenant", tenant)
        if tokens.remaining <= 0:
            raise _too_many("tokens", tokens)
        await self.check_budget(who)

    async def check_budget(self, principal: Principal) -> None:
        """Raise BudgetExceeded when the tenant has spent its day."""
        tenant = principal.tenant_id
        day = int(time.time()) // DAY_S
        known = self._spent.get(tenant)
        if known is None or known[0] != day or known[1] < time.monotonic():
            budget = await self._budget_of(tenant)
            budget = self._default_budget if budget is None else budget
            spent = 0 if budget is None else await self._spent_today(tenant)
            known = (day, time.monotonic() + self.REREAD_S, spent, budget)
            self._spent[tenant] = known
        if known[3] is not None and known[2] >= known[3] * 1e9:
            raise BudgetExceeded(
                f"The budget of {known[3]:.2f} USD a day is spent. It starts anew at midnight "
                "UTC; an administrator can raise it."
            )

    async def charge(self, call: Call) -> None:
        """Count what the call really used."""
        used = call.usage.prompt_tokens + call.usage.completion_tokens + call.usage.embedding_tokens
        who = call.principal
        if used and call.windows is not None:
            name = who.key_id or who.subject
            tokens = await self._counters.add(f"t:{name}", who.rate_tpm or self._tpm, used)
            call.windows = (call.windows[0], tokens)
        known = self._spent.get(who.tenant_id)
        if known is not None and call.cost_nano_usd:
            day, until, spent, budget = known
            self._spent[who.tenant_id] = (day, until, spent + call.cost_nano_usd, budget)

    def headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        """OpenAI's ``x-ratelimit-*`` headers."""
        if call.windows is None:
            return []
        requests, tokens = call.windows
        left = b"%ds" % max(0, math.ceil(requests.reset_at - time.time()))
        return [
            (b"x-ratelimit-limit-requests", b"%d" % requests.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, requests.remaining)),
            (b"x-ratelimit-reset-requests", left),
            (b"x-ratelimit-limit-tokens", b"%d" % tokens.limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, tokens.remaining)),
            (b"x-ratelimit-reset-tokens", left),
        ]


def _too_many(what: str, window: Window) -> RateLimited:
    wait = max(1, math.ceil(window.reset_at - time.time()))
    return RateLimited(
        f"The limit of {window.limit:,} {what} per minute is reached. Wait {wait} s.",
        headers={"retry-after": str(wait)},
    )
