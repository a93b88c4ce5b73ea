"""Where calls wait while every server of a model has as much as it takes: fair and bounded."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from app.errors import RateLimited, Unavailable

Priority = Literal["interactive", "background"]
IN_A_ROW = 8  # interactive calls that go before one of the background that waits
LONGEST_RETRY_S = 60
_PACE_WEIGHT = 0.2  # of the newest gap between two grants, in their mean

Waiter = asyncio.Future[None]


class FairQueue:
    """The calls that wait for a model.

    Interactive calls go before those of the background, but for one in nine. Among the tenants of
    a class the one goes next of whom the fewest calls are being answered, and of equals the one
    whose turn is longest ago; a tenant's own calls go in order. So a tenant that sends a thousand
    calls waits for itself, and one that sends its first does not. Where the queue is full, the
    newest call of whoever has the most waiting is refused, of the background first.

    Args:
        room: how many calls the servers could begin now.
        most: calls that wait before others are refused.
        most_s: the longest that a call waits, seconds.
    """

    def __init__(self, room: Callable[[], int], most: int, most_s: float) -> None:
        self._room, self._most, self._most_s = room, most, most_s
        self._waiting: dict[Priority, dict[str, deque[Waiter]]] = {
            "interactive": {},
            "background": {},
        }
        self._serving: Counter[str] = Counter()
        self._granted = 0  # waiters that were let go and have not begun
        self._in_a_row = 0
        self._last = time.monotonic()
        self._gap_s = 0.0

    def __len__(self) -> int:
        return sum(len(q) for tenants in self._waiting.values() for q in tenants.values())

    def began(self, tenant: str) -> None:
        """A call of the tenant is being answered."""
        self._count(tenant, 1)

    def ended(self, tenant: str) -> None:
        """It is no more; told before its server has room again, so that it does not count."""
        self._count(tenant, -1)

    async def enter(self, tenant: str, priority: Priority) -> None:
        """Return once a server has room: at once, or when it is this call's turn.

        The caller begins its call before it awaits anything else.

        Raises:
            RateLimited: the queue is full, and the tenant has the most in it.
            Unavailable: it was nobody's turn to leave for too long.
        """
        if not len(self) and self._room() > self._granted:
            return
        if len(self) >= self._most:
            self._make_place(tenant, priority)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiting[priority].setdefault(tenant, deque()).append(waiter)
        let_go = False
        try:
            async with asyncio.timeout(self._most_s):
                await waiter
            let_go = True
        except TimeoutError:
            if waiter.cancelled():
                raise Unavailable(
                    f"Every server of the model was busy for {self._most_s:g} s. Send it again "
                    "later, or ask the operator for more servers.",
                    code="model_overloaded",
                    headers=self._retry_after(),
                ) from None
            waiter.result()  # it was this call's turn at the last moment, or it was refused
            let_go = True
        finally:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._granted -= 1
                self._count(tenant, -1)
                if not let_go:  # its client went away meanwhile
                    self.look()
            self._forget(waiter, tenant, priority)
        # no await from here to the caller: the room is still there

    def look(self) -> None:
        """Let go as many as there is room for; called when room may have come up."""
        if not len(self):
            return
        while self._room() > self._granted and self._let_go():
            now = time.monotonic()
            self._gap_s += _PACE_WEIGHT * (now - self._last - self._gap_s)
            self._last = now

    def release(self) -> None:
        """Let all go: no server is up, and they are to hear of it."""
        while self._let_go():
            pass

    def _let_go(self) -> bool:
        """Let the next one go, if there is one."""
        while (found := self._next()) is not None:
            tenant, waiter = found
            if not waiter.done():  # else its client went away
                self._granted += 1
                self._count(tenant, 1)
                waiter.set_result(None)
                return True
        return False

    def _next(self) -> tuple[str, Waiter] | None:
        """Take the waiter whose turn it is."""
        for priority in self._order():
            tenants = self._waiting[priority]  # in the order of their last turns
            if not tenants:
                continue
            tenant = min(tenants, key=lambda name: self._serving[name])
            queue = tenants.pop(tenant)
            waiter = queue.popleft()
            if queue:
                tenants[tenant] = queue  # at the end
            self._in_a_row = self._in_a_row + 1 if priority == "interactive" else 0
            return tenant, waiter
        return None

    def _order(self) -> tuple[Priority, Priority]:
        if self._in_a_row >= IN_A_ROW:
            return "background", "interactive"
        return "interactive", "background"

    def _count(self, tenant: str, change: int) -> None:
        self._serving[tenant] += change
        if self._serving[tenant] <= 0:
            del self._serving[tenant]

    def _make_place(self, tenant: str, priority: Priority) -> None:
        """Refuse the newest call of whoever has the most waiting: perhaps the one that comes."""
        refused = RateLimited(
            "So many calls wait for this model that yours was refused. Send it again later, or "
            "fewer at a time.",
            code="queue_full",
            headers=self._retry_after(),
        )
        of: Priority = "background" if self._waiting["background"] else "interactive"
        tenants = self._waiting[of]
        if of == "interactive" and priority == "background":
            raise refused
        longest = max(tenants, key=lambda name: len(tenants[name]), default=tenant)
        own = len(tenants.get(tenant, ()))
        if of == priority and own + 1 >= len(tenants.get(longest, ())):
            raise refused
        tenants[longest].pop().set_exception(refused)
        if not tenants[longest]:
            del tenants[longest]

    def _forget(self, waiter: Waiter, tenant: str, priority: Priority) -> None:
        queue = self._waiting[priority].get(tenant)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[priority][tenant]

    def _retry_after(self) -> dict[str, str]:
        wait = math.ceil(self._gap_s * max(1, len(self)))
        return {"retry-after": str(min(max(wait, 1), LONGEST_RETRY_S))}
