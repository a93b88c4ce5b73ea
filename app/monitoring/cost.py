"""What a call costs, from its usage and the price list."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.gateway.call import Usage

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
    """

    def __init__(
        self,
        prompt: float,
        completion: float,
        embedding: float,
        busy_s: Callable[[str], float] = lambda model: 0.0,
    ) -> None:
        self._default = TokenPrice(prompt, completion)
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
        """Return the cost in nano-USD (integers, so that sums are exact).

        Args:
            price: of the tokens; None: as the model's.
        """
        by: Price = price or self._of.get(model or "", self._default)
        if isinstance(by, HourPrice):
            each = by.hour_usd / 3600 / self._throughput[model or ""].tokens_s * 1e9
            model_cost = each * (usage.prompt_tokens + usage.completion_tokens)
        else:
            model_cost = 1_000 * (
                by.prompt * usage.prompt_tokens + by.completion * usage.completion_tokens
            )
        return round(model_cost + 1_000 * self._embedding * usage.embedding_tokens)
