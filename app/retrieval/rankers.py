"""The models that can read what a search found, by the names that requests give them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from app.errors import Unavailable
from app.retrieval.rerank import Reranker, Score

Load = Callable[[], Score]


class Rankers:
    """Rerankers that are made when they are first asked for, and then kept.

    Args:
        loads: how each model is loaded, by its name; called in a thread.
    """

    def __init__(self, loads: Mapping[str, Load]) -> None:
        self._loads = dict(loads)
        self._made: dict[str, Reranker] = {}
        self._making = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return list(self._loads)

    async def get(self, name: str) -> Reranker:
        """The reranker of a name; its model is loaded before any budget begins to run.

        Raises:
            Unavailable: this gateway has no such model (``reranker_missing``).
            MissingExtra: its weights are not installed.
        """
        if (made := self._made.get(name)) is not None:
            return made
        if (load := self._loads.get(name)) is None:
            raise Unavailable(
                f"This gateway has no ranker '{name}'. Leave `ranker` out.",
                code="reranker_missing",
            )
        async with self._making:
            if name not in self._made:
                self._made[name] = Reranker(await asyncio.to_thread(load))
        return self._made[name]

    @property
    def queued(self) -> int:
        """Pairs of query and passage that wait, of all models."""
        return sum(reranker.queued for reranker in self._made.values())

    def close(self) -> None:
        """End the threads of those that were made."""
        for reranker in self._made.values():
            reranker.close()
