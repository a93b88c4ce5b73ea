"""The real ``ostiary serve`` with a clock around each part of the corridor, for one client.

    python -m benchmarks.timed_gateway FILE

Settings are the environment's, as for ``ostiary serve``. When it is stopped it writes to FILE a
JSON list with one object for each chat call: milliseconds by part. Parts are timed by the wall, so
with more than one client at a time they would count each other's work.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.gateway.corridor import Corridor
from app.gateway.identity import Identity
from app.gateway.limits import Limits
from app.gateway.passage import Passage
from app.guardrails.service import Guardrails
from app.monitoring.audit import AuditLog
from app.monitoring.cost import Prices
from app.monitoring.drift import DriftMonitor
from app.monitoring.metrics import Metrics

WHOLE = "corridor and room"
ROUTE = "/v1/chat/completions"
PARTS: tuple[tuple[type, str, str], ...] = (
    (Identity, "authenticate", "key"),
    (Corridor, "decide", "policy chosen"),
    (Limits, "admit", "limits and budget"),
    (Limits, "begin_stream", "limits and budget"),
    (Limits, "check_budgets", "limits and budget"),
    (Limits, "charge", "limits and budget"),
    (Limits, "committed", "limits and budget"),
    (Guardrails, "screen", "screens"),
    (Guardrails, "feed", "screens"),
    (Guardrails, "finish", "screens"),
    (Prices, "costs", "cost"),
    (Prices, "served", "cost"),
    (DriftMonitor, "observe", "drift"),
    (Metrics, "observe", "metrics"),
    (AuditLog, "commit", "audit record, durable"),
)


class Clock:
    """Milliseconds of the call under way, by part, and those of the calls before it."""

    def __init__(self) -> None:
        self.calls: list[dict[str, float]] = []
        self._now: dict[str, float] = {}

    def add(self, part: str, began: float) -> None:
        """Count the time since ``began`` for a part."""
        self._now[part] = self._now.get(part, 0.0) + (time.perf_counter() - began) * 1e3

    def around(self, owner: type, name: str, part: str) -> None:
        """Time every call of a method, awaited or plain."""
        plain: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            found = plain(*args, **kwargs)
            if hasattr(found, "__await__"):
                return self._awaited(found, part, began)
            self.add(part, began)
            return found

        setattr(owner, name, timed)

    async def _awaited(self, work: Any, part: str, began: float) -> Any:
        try:
            return await work
        finally:
            self.add(part, began)

    def around_calls(self) -> None:
        """Time each chat call as a whole, and begin anew with the next."""
        walk = Passage.walk

        async def timed(passage: Passage, inner: Any) -> None:
            self._now = {}
            began = time.perf_counter()
            await walk(passage, inner)
            self.add(WHOLE, began)
            if passage.call.route.endswith(ROUTE):
                self.calls.append(self._now)

        setattr(Passage, "walk", timed)  # noqa: B010 - no type that mypy would take


def main() -> None:
    """Serve until stopped; then write what was measured."""
    from app.cli import serve

    clock = Clock()
    for owner, name, part in PARTS:
        clock.around(owner, name, part)
    clock.around_calls()
    # uvicorn raises the signal again once it has stopped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve()
    finally:
        Path(sys.argv[1]).write_text(json.dumps(clock.calls))


if __name__ == "__main__":
    main()
