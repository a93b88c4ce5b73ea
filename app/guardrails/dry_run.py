"""A policy that is tried beside the one in force: what it would have done with a call's texts."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.gateway.call import Direction
from app.guardrails.documents import named
from app.guardrails.policy import Policy

log = logging.getLogger("ostiary.guardrails")
WAIT_S = 0.5  # at most, once the call is answered
MOST_CHARS = 100_000  # of a call
Tally = Counter[tuple[str, str]]  # entity and action
Look = Callable[[Sequence[str], Direction, bool], Awaitable[Tally]]  # bool: of documents


class DryRun:
    """Looks at what a call's texts were before the policy in force changed them.

    It changes and refuses nothing. What it has not looked at in time, what is too much and what
    fails is counted as ``unseen``.
    """

    def __init__(self, policy: Policy, look: Look) -> None:
        self.policy, self._look = policy, look
        self.findings: dict[tuple[Direction, str, str], int] = {}
        self.unseen = 0  # texts
        self._left = MOST_CHARS
        self._looking: dict[asyncio.Task[None], int] = {}  # and how many texts they look at
        self._growing: list[tuple[Direction, list[str]]] = []

    @property
    def would_block(self) -> bool:
        return any(action == "block" for _, _, action in self.findings)

    def see(self, texts: Sequence[str], direction: Direction, *, passages: bool = False) -> None:
        """Look at texts, beside the call; ``passages`` of documents hold other attacks."""
        length = sum(map(len, texts))
        if length > self._left:
            self.unseen += len(texts)
        elif length:
            self._left -= length
            task = asyncio.create_task(self._try(texts, direction, passages))
            self._looking[task] = len(texts)

    def also(
        self, look: Callable[[], Awaitable[Tally]], texts: Sequence[str], direction: Direction
    ) -> None:
        """Count what another look at texts of the call finds, beside it."""
        count = len(texts)
        if sum(map(len, texts)) > MOST_CHARS:
            self.unseen += count
        else:
            self._looking[asyncio.create_task(self._count(look(), count, direction))] = count

    def grow(self, direction: Direction) -> Callable[[str], None]:
        """Takes the pieces of a text, at which to look as a whole when the call ends."""
        parts: list[str] = []
        self._growing.append((direction, parts))
        room = MOST_CHARS

        def take(piece: str) -> None:
            nonlocal room
            if room >= 0:  # what passes it is kept too, so that :meth:`see` counts it as unseen
                room -= len(piece)
                parts.append(piece)

        return take

    async def _try(self, texts: Sequence[str], direction: Direction, passages: bool) -> None:
        await self._count(self._look(texts, direction, passages), len(texts), direction)

    async def _count(self, looking: Awaitable[Tally], texts: int, direction: Direction) -> None:
        try:
            tally = await looking
        except Exception as error:
            log.warning("a dry run failed: %s", type(error).__name__)
            self.unseen += texts
            return
        for (entity, action), count in tally.items():
            key = (direction, entity, action)
            self.findings[key] = self.findings.get(key, 0) + count

    async def finish(self) -> None:
        """Wait for what is still being looked at, but not for long."""
        growing, self._growing = self._growing, []
        for direction, parts in growing:
            self.see(["".join(parts)], direction)
        if not self._looking:
            return
        _, late = await asyncio.wait(self._looking, timeout=WAIT_S)
        for task in late:
            task.cancel()
            self.unseen += self._looking[task]
        self._looking.clear()

    def as_record(self) -> dict[str, Any]:
        """As the audit record tells it; never a value."""
        return {
            "policy": named(self.policy),
            "would_block": self.would_block,
            "findings": [
                {"direction": d, "entity": e, "action": a, "count": n}
                for (d, e, a), n in self.findings.items()
            ],
            "unseen": self.unseen,
        }
