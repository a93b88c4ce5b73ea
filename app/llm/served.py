"""The servers of a model that do the same: one is chosen for a call, the warmest or idlest."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Set

from app.llm.affinity import Prefixes
from app.llm.deployment import Deployment, Role
from app.llm.fair_queue import FairQueue, Priority
from app.llm.upstream import ChatStream

# A warm server is preferred while it answers at most so many calls more than the idlest one.
SLACK = 4
# Retries may add a fifth to the calls, and ten at once: more would bury a fleet that is down.
RETRIES_A_CALL, RETRIES_AT_ONCE = 0.2, 10.0


class Served:
    """The servers of a model in one role, and the models that answer when none of them can.

    Args:
        most: calls that wait for one of them, and for how long, seconds.
    """

    def __init__(self, name: str, role: Role, most: int, most_s: float) -> None:
        self.name, self.role, self.fallbacks = name, role, tuple[str, ...]()
        self.deployments: dict[str, Deployment] = {}
        self.queue = FairQueue(self._room, most, most_s)
        self._prefixes = Prefixes()
        self._turn = itertools.count()
        self._retries = RETRIES_AT_ONCE
        self.hedge_s: float | None = None  # after so long without a first byte another is asked

    @property
    def up(self) -> bool:
        """Whether a server can answer now."""
        return any(d.up and not d.draining for d in self.deployments.values())

    def _room(self) -> int:
        return sum(d.room for d in self.deployments.values())

    def take_in(self, deployment: Deployment) -> None:
        """Send a server calls from now on."""
        self.deployments[deployment.id] = deployment
        deployment.on_change = self.look_again
        self.look_again()

    def look_again(self) -> None:
        """Let calls go that wait: there may be room, or no server at all."""
        if self.up:
            self.queue.look()
        else:
            self.queue.release()

    @contextlib.contextmanager
    def busy(self, deployment: Deployment, tenant: str) -> Iterator[None]:
        """One more call of a tenant at a server, until the block ends."""
        with deployment.busy():
            self.queue.began(tenant)
            try:
                yield
            finally:
                self.queue.ended(tenant)

    def carry(self, deployment: Deployment, tenant: str, stream: ChatStream) -> None:
        """One more call of a tenant at a server, until the stream ends."""
        self.queue.began(tenant)
        deployment.carry(stream)
        over = stream.on_end

        def ended() -> None:
            self.queue.ended(tenant)
            if over is not None:
                over()

        stream.on_end = ended

    async def able(self, tried: Set[str] = frozenset()) -> list[Deployment]:
        """The servers that can answer, of those not yet tried."""
        left = [d for d in self.deployments.values() if not d.draining and d.id not in tried]
        if up := [d for d in left if d.up]:
            return up
        found = await asyncio.gather(*(d.ready() for d in left))  # one that has just failed
        return [d for d, well in zip(left, found, strict=True) if well]

    async def choose(
        self, blocks: list[bytes], tried: Set[str], tenant: str, priority: Priority
    ) -> Deployment | None:
        """The server for a prompt among those not yet tried; None where none can answer.

        Waits where all have as much as they take. What failed elsewhere has waited before.

        Raises:
            RateLimited: too many calls wait.
            Unavailable: this one waited too long.
        """
        while True:
            able = await self.able(tried)
            if not able:
                return None
            if not self.deployments.keys() & tried:
                await self.queue.enter(tenant, priority)
                able = [d for d in able if d.room]
            if able:
                return self._best(able, blocks)

    def _best(self, able: list[Deployment], blocks: list[bytes]) -> Deployment:
        if len(able) < 2:
            return able[0]
        turn = next(self._turn)
        able = able[turn % len(able) :] + able[: turn % len(able)]  # equals take turns
        idlest = min(able, key=lambda d: d.load)
        known = {d.id: d for d in able}
        for name in self._prefixes.warmest(blocks):
            warm = known.get(name)
            if warm is not None and not (warm.full and not idlest.full):
                if warm.outstanding <= idlest.outstanding + SLACK * warm.weight:
                    return warm
                break
        return idlest

    def begin(self, blocks: list[bytes], deployment: Deployment) -> None:
        """A call goes to a server: its prompt will be warm there."""
        if len(self.deployments) > 1:
            self._prefixes.note(blocks, deployment.id)

    def called(self) -> None:
        """A call came in: it adds to what may be tried again."""
        self._retries = min(RETRIES_AT_ONCE, self._retries + RETRIES_A_CALL)

    def may_retry(self) -> bool:
        """Take a retry out of the budget."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True
