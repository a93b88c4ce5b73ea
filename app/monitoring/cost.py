"""What a call costs, from its usage and the price list."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.gateway.call import Call, Usage
from app.monitoring.cost_parts import NANO_PER_HOUR, PartPrices

FORGET_S = 3600.0  # what was measured counts half after so long
BEGIN_S = 600.0  # of a server's time, that the throughput given at first counts for


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD per million tokens; a price of 1 USD per million is 1,000 nano-USD per token."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class HourPrice:
    """What a server costs while it answers, shared among the tokens that it handles.

    Attributes:
        hour_usd: USD an hour of one server: of all its cards together.
        tokens_s: tokens a second, prompt and completion, of one server; what is measured takes
            its place by and by.
    """

    hour_usd: float
    tokens_s: float


Price = TokenPrice | HourPrice


class Throughput:
    """The tokens a second of one server of a model while it has calls to answer.

    Args:
        begin: the throughput that is taken until enough was measured.
        busy_s: how long the servers have been busy, all together, seconds.
        clock: seconds.
    """

    def __init__(
        self,
        begin: float,
        busy_s: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens, self._busy = begin * BEGIN_S, BEGIN_S
        self._busy_s, self._clock = busy_s, clock
        self._seen_s, self._at = busy_s(), clock()

    def add(self, tokens: int) -> None:
        """Count the tokens of a call that was answered."""
        self._look()
        self._tokens += tokens

    @property
    def tokens_s(self) -> float:
        """Tokens a second, above 0."""
        self._look()
        return max(self._tokens / self._busy, 1e-3)

    def _look(self) -> None:
        now, busy = self._clock(), self._busy_s()
        fade = 0.5 ** ((now - self._at) / FORGET_S)
        self._tokens *= fade
        # servers that are gone took their seconds along
        self._busy = max(self._busy * fade + max(0.0, busy - self._seen_s), 1e-3)
        self._seen_s, self._at = busy, now


class Prices:
    """The price list: a default, and prices of models.

    Args:
        embedding: USD per million embedded tokens.
        busy_s: how long the servers of a model have been busy, all together, seconds.
        parts: what is charged beside tokens.
    """

    def __init__(
        self,
        prompt: float,
        completion: float,
        embedding: float,
        busy_s: Callable[[str], float] = lambda model: 0.0,
        parts: PartPrices | None = None,
    ) -> None:
        self._default = TokenPrice(prompt, completion)
        self.parts = parts or PartPrices()
        self._embedding, self._busy_s = embedding, busy_s
        self._of: dict[str, Price] = {}
        self._throughput: dict[str, Throughput] = {}

    def of(self, model: str) -> Price | None:
        """The price of a model as it is charged now; None where the default holds."""
        price = self._of.get(model)
        if isinstance(price, HourPrice):
            return replace(price, tokens_s=self._throughput[model].tokens_s)
        return price

    def set(self, model: str, price: Price | None) -> None:
        """Charge a model's calls by ``price`` from now on; None for the default."""
        if price == self._of.get(model):
            return
        self._throughput.pop(model, None)
        if price is None:
            self._of.pop(model, None)
            return
        self._of[model] = price
        if isinstance(price, HourPrice):
            self._throughput[model] = Throughput(price.tokens_s, lambda: self._busy_s(model))

    def served(self, model: str | None, usage: Usage) -> None:
        """Note what a model server did, for prices by the hour; once a call."""
        found = self._throughput.get(model or "")
        if found is not None:
            found.add(usage.prompt_tokens + usage.completion_tokens)

    def cost_nano_usd(
        self, model: str | None, usage: Usage, price: TokenPrice | None = None
    ) -> int:
        """Return what tokens cost in nano-USD (integers, so that sums are exact).

        Args:
            price: of the tokens; None: as the model's.
        """
        _, cost, _ = self._of_tokens(model, usage, price)
        return cost + self._of_embedding(usage)

    def _of_tokens(
        self, model: str | None, usage: Usage, price: TokenPrice | None = None
    ) -> tuple[str, int, float]:
        """The component, its cost in nano-USD, and for a price by the hour the server's seconds."""
        by: Price = price or self._of.get(model or "", self._default)
        if isinstance(by, HourPrice):
            tokens = usage.prompt_tokens + usage.completion_tokens
            seconds = tokens / self._throughput[model or ""].tokens_s
            return "gpu", round(by.hour_usd * NANO_PER_HOUR * seconds), seconds
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        return "model", round(1_000 * (by.prompt * prompt + by.completion * completion)), 0.0

    def _of_embedding(self, usage: Usage) -> int:
        return round(1_000 * self._embedding * usage.embedding_tokens)

    def costs(self, call: Call) -> tuple[dict[str, int], dict[str, float]]:
        """Return what a call has cost so far and what for.

        Costs are by component, in whole nano-USD, so that sums are exact, without those that
        are nothing. What for: seconds on the GPU and the CPU, searches, passages judged.
        """
        usage, work = call.usage, dict[str, float]()
        component, cost, seconds = self._of_tokens(call.model, usage)
        found = {component: cost} if cost else {}
        if seconds:
            work["gpu_s"] = round(seconds, 6)
        if usage.embedding_tokens and (cost := self._of_embedding(usage)):
            found["embedding"] = cost
        if usage.searches or usage.reranked or call.cpu_s:  # most calls have none
            self.parts.add(usage, call.cpu_s, found, work)
        return found, work

    def cost_usd(self, call: Call) -> float:
        """Return what a call has cost so far, in USD."""
        return sum(self.costs(call)[0].values()) / 1e9
