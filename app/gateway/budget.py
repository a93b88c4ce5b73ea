"""A budget: which calls it is for, how much they may cost, and from when to when."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

Period = Literal["day", "week", "month"]
LEVELS = (50, 80, 100)  # percent, of which is told


@dataclass(frozen=True, slots=True)
class Budget:
    """What is None, or of no tags, does not matter; times in Unix seconds."""

    id: str
    tenant_id: str
    name: str
    amount_nano_usd: int
    period: Period
    stop: bool
    key_id: str | None
    model: str | None
    route: str | None
    tags: dict[str, str]
    by_platform: bool
    created_at: float
    updated_at: float

    @property
    def amount_usd(self) -> float:
        return self.amount_nano_usd / 1e9


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget has come to a level, in percent, for the first time in its period."""

    budget: Budget
    level: int
    spent_nano_usd: int
    period_start: int
    at: float


@dataclass(frozen=True, slots=True)
class State:
    """A budget as it stands: what was spent of it, and what was told."""

    budget: Budget
    spent_nano_usd: int
    began_at: float
    begins_anew_at: float
    alerts: list[dict[str, Any]]


@dataclass(slots=True)
class Counted:
    """A budget in force, and what the calls of its period have cost.

    Attributes:
        keys: ids of its key and of those that came of it by rotation.
        read: in records of the log, nano-USD.
        charged: since these were read.
        told: levels.
    """

    budget: Budget
    keys: frozenset[str]
    start: int
    until: int
    read: int = 0
    charged: int = 0
    told: set[int] = field(default_factory=set)

    @property
    def spent(self) -> int:
        return self.read + self.charged

    def holds(
        self, key_id: str | None, model: str | None, route: str, tags: dict[str, str]
    ) -> bool:
        """Whether a call falls under the budget."""
        of = self.budget
        return (
            (of.key_id is None or key_id in self.keys)
            and (of.model is None or of.model == model)
            and (of.route is None or of.route == route)
            and of.tags.items() <= tags.items()
        )


def period_of(period: Period, at: float) -> tuple[int, int]:
    """When the period around ``at`` began and when the next one does (UTC, Unix seconds)."""
    day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        start, end = day, day + timedelta(days=1)
    elif period == "week":
        start = day - timedelta(days=day.weekday())  # Monday
        end = start + timedelta(days=7)
    else:
        start = day.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()), int(end.timestamp())


def usd(amount: float) -> str:
    """An amount as errors tell it."""
    return f"{amount:,.2f} USD" if amount >= 0.01 else f"{amount:g} USD"
