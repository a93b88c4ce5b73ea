"""What calls of a model that is being rolled out measured, kept for its comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import delete, desc, insert, select

from app.llm.deployment import Role
from app.store.db import Database
from app.store.models import rollout_samples

A_SECOND, AT_ONCE = 20.0, 200.0  # samples of one side of a model that a gateway keeps
NEWEST = 20_000  # calls of a model that are kept
_PRUNE_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One call as one server answered it.

    Attributes:
        at: when it was answered, Unix seconds.
        outcome: ``answered``, ``failed``, or ``skipped`` (a copy that was not sent).
        first_ms: to the first text of a stream.
        pair: names both samples of a call that was copied; what follows tells in the shadow's
            how much its answer is like the one that was given.
    """

    model: str
    deployment: str
    role: Role
    at: float
    outcome: str
    first_ms: float | None = None
    latency_ms: float = 0.0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    pair: str | None = None
    equal: bool | None = None
    token_f1: float | None = None
    same_beginning: float | None = None
    cosine: float | None = None


class Samples:
    """Keeps a bounded number of samples, written now and then."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._new: list[Sample] = []
        self._left: dict[tuple[str, str, str], tuple[float, float]] = {}  # samples, and when
        self._written = _PRUNE_EVERY  # so that the first write prunes

    def add(self, sample: Sample) -> None:
        """Keep a sample, unless enough of its kind came of late."""
        if self._wanted(sample):
            self._new.append(sample)

    def add_pair(self, original: Sample, shadow: Sample) -> None:
        """Keep both samples of a call, or none of them."""
        if self._wanted(shadow):
            self._new += [original, shadow]

    def _wanted(self, sample: Sample) -> bool:
        kind = (sample.model, sample.role, sample.outcome)
        left, before = self._left.get(kind, (AT_ONCE, sample.at))
        left = min(AT_ONCE, left + A_SECOND * max(0.0, sample.at - before))
        wanted = left >= 1
        self._left[kind] = left - wanted, sample.at
        return wanted

    async def flush(self) -> None:
        """Write what came since the last time."""
        new, self._new = self._new, []
        if not new:
            return
        try:
            async with self._db.write() as connection:
                await connection.execute(insert(rollout_samples), [asdict(s) for s in new])
        except Exception:
            self._new = new + self._new
            raise
        self._written += len(new)
        if self._written >= _PRUNE_EVERY:
            self._written = 0
            for model in {s.model for s in new}:
                await self._prune(model)

    async def _prune(self, model: str) -> None:
        table = rollout_samples
        of_model = select(table.c.id).where(table.c.model == model)
        oldest = of_model.order_by(desc(table.c.id)).offset(NEWEST).limit(1).scalar_subquery()
        async with self._db.write() as connection:
            await connection.execute(
                delete(table).where(table.c.model == model, table.c.id <= oldest)
            )

    async def since(self, model: str, since: float) -> Sequence[Sample]:
        """The samples of a model from then on, the oldest first."""
        await self.flush()
        table = rollout_samples
        columns = [c for c in table.c if c.name != "id"]
        query = select(*columns).where(table.c.model == model, table.c.at >= since)
        return [Sample(**row) for row in await self._db.rows(query.order_by(table.c.id))]
