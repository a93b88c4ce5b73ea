"""What a call costs beside its model: searches, reranking, guardrails, and what a tenant keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from app.gateway.call import Usage

# what a cost is made of; the names stand in audit records, so none is ever renamed
COMPONENTS = ("model", "gpu", "embedding", "retrieval", "reranking", "guardrails", "storage")
UNSPLIT = "unsplit"  # of records from before there were components
NANO_PER_HOUR = 1e9 / 3600  # nano-USD a second of what costs a USD an hour


@dataclass(frozen=True)
class PartPrices:
    """Prices of parts that are free unless the settings say otherwise.

    Attributes:
        search: USD per thousand searches.
        retrieval_hour: USD an hour of CPU that searches take.
        reranking: USD per thousand passages judged.
        guardrails_hour: USD an hour of CPU that screening takes.
        storage: USD per gigabyte (10⁹ bytes) and day.
    """

    search: float = 0.0
    retrieval_hour: float = 0.0
    reranking: float = 0.0
    guardrails_hour: float = 0.0
    storage: float = 0.0

    @cached_property
    def timed(self) -> frozenset[str]:
        """The parts whose time on the CPU is charged, and so is to be measured."""
        hours = {"retrieval": self.retrieval_hour, "guardrails": self.guardrails_hour}
        return frozenset(part for part, hour in hours.items() if hour)

    def add(
        self,
        usage: Usage,
        cpu_s: Iterable[tuple[str, float]],
        costs: dict[str, int],
        work: dict[str, float],
    ) -> None:
        """Add what each part costs, in whole nano-USD, and what for.

        Args:
            cpu_s: measured parts, and their seconds of CPU.
        """
        spent = {"retrieval": 0.0, "guardrails": 0.0}
        for part, seconds in cpu_s:
            spent[part] += seconds
        searched = self.retrieval_hour * NANO_PER_HOUR * spent["retrieval"]
        found = {
            "retrieval": round(1e6 * self.search * usage.searches + searched),
            "reranking": round(1e6 * self.reranking * usage.reranked),
            "guardrails": round(self.guardrails_hour * NANO_PER_HOUR * spent["guardrails"]),
        }
        costs.update({part: cost for part, cost in found.items() if cost})
        work.update({f"{part}_cpu_s": round(s, 6) for part, s in spent.items() if s})
        if usage.searches:
            work["searches"] = usage.searches
        if usage.reranked:
            work["reranked"] = usage.reranked

    def storage_nano_usd(self, kept: int) -> int:
        """What keeping so many bytes costs a day: a USD per gigabyte is a nano-USD per byte."""
        return round(self.storage * kept)
