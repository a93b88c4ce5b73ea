"""What a call costs, from its usage and the price list."""

from __future__ import annotations

from dataclasses import dataclass

from app.gateway.call import Usage


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens; a price of 1 USD per million is 1,000 nano-USD per token."""

    prompt: float
    completion: float
    embedding: float

    def cost_nano_usd(self, model: str | None, usage: Usage) -> int:
        """Return the cost in nano-USD (integers, so that sums are exact)."""
        return round(
            1_000
            * (
                self.prompt * usage.prompt_tokens
                + self.completion * usage.completion_tokens
                + self.embedding * usage.embedding_tokens
            )
        )
