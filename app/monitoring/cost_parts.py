"""What a call costs beside its model: searches, reranking, guardrails, and what a tenant keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.gateway.call import Usage

# what a cost is made of; the names stand in audit records, so none is ever renamed
COMPONENTS = ("model", "gpu", "embedding", "retrieval", "reranking", "guardrails", "storage")
UNSPLIT = "unsplit"  # of records from before there were components
NANO_PER_HOUR = 1e9 / 3600  # nano-USD a second of what costs a USD an hour


@dataclass(frozen=True, slots=True)
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

    def costs(self, usage: Usage, cpu_s: Mapping[str, float]) -> dict[str, int]:
        """What each part costs, in whole nano-USD, those alone that cost something.

        Args:
            cpu_s: seconds of CPU by part.
        """
        found = {}
        if usage.searches and (self.search or self.retrieval_hour):
            by_time = self.retrieval_hour * NANO_PER_HOUR * cpu_s.get("retrieval", 0.0)
            found["retrieval"] = round(1e6 * self.search * usage.searches + by_time)
        if usage.reranked and self.reranking:
            found["reranking"] = round(1e6 * self.reranking * usage.reranked)
        if self.guardrails_hour:
            screened = cpu_s.get("guardrails", 0.0)
            found["guardrails"] = round(self.guardrails_hour * NANO_PER_HOUR * screened)
        return found

    def storage_nano_usd(self, kept: int) -> int:
        """What keeping so many bytes costs a day: a USD per gigabyte is a nano-USD per byte."""
        return round(self.storage * kept)
