"""Orders the shards of a run: one that copies from another waits for it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from pipelines.embeddings.chunking import Chunked
from pipelines.embeddings.job import EmbedJob
from pipelines.embeddings.layout import Unit
from pipelines.embeddings.matching import Matched
from pipelines.embeddings.model import ModelInfo
from pipelines.embeddings.shards import EmbedTask


class EmbedStage:
    """The embed tasks of a run, each given out once those that it copies from are done.

    Owners always have a lower ``seq``, and tasks are given out by ``seq``, so the lowest one
    that is left never waits for one that was not given out.
    """

    def __init__(
        self,
        job: EmbedJob,
        model: ModelInfo,
        run: int,
        todo: list[Unit],
        chunked: dict[str, Chunked],
        matched: list[Matched],
    ) -> None:
        self._job, self._model, self._run = job, model, run
        self._refs: dict[int, list[str]] = {}
        self._copied: dict[int, int] = {}
        self._units = {unit.seq: unit for unit in todo}
        self._passages = {u.seq: chunked[u.id].passages for u in todo}
        self._waits: dict[int, set[int]] = {seq: set() for seq in self._units}
        for found in sorted(matched, key=lambda m: m.refs):
            for seq, count in found.copied.items():
                self._refs.setdefault(seq, []).append(found.refs)
                self._copied[seq] = self._copied.get(seq, 0) + count
            for seq, owners in found.owners.items():
                if seq in self._waits:
                    self._waits[seq].update(o for o in owners if o in self._units)
        self._followers: dict[int, list[int]] = {}
        for seq, waits in self._waits.items():
            for owner in waits:
                self._followers.setdefault(owner, []).append(seq)
        self._ready = [seq for seq, waits in self._waits.items() if not waits]
        heapq.heapify(self._ready)
        self._left = len(self._units)

    @property
    def work(self) -> int:
        """Passages that the model will embed."""
        return sum(self.work_of(unit) for unit in self._units.values())

    def work_of(self, unit: Unit) -> int:
        """Passages of one unit that the model will embed."""
        return self._passages[unit.seq] - self._copied.get(unit.seq, 0)

    def tasks(self) -> Iterator[EmbedTask | None]:
        """Yield tasks by ``seq``, and None while all that are left wait."""
        while self._left:
            if not self._ready:
                yield None
                continue
            seq = heapq.heappop(self._ready)
            self._left -= 1
            unit = self._units[seq]
            refs = tuple(self._refs.get(seq, ()))
            yield EmbedTask(self._job, self._model, self._run, unit, refs)

    def done(self, unit: Unit) -> None:
        """Let those go on that waited for this unit's shard."""
        for seq in self._followers.pop(unit.seq, []):
            self._waits[seq].discard(unit.seq)
            if not self._waits[seq]:
                heapq.heappush(self._ready, seq)

    def failed(self, unit: Unit) -> list[Unit]:
        """Return the units that can no longer be made because this one was not."""
        lost: list[Unit] = []
        for seq in self._followers.pop(unit.seq, []):
            if seq in self._waits:
                del self._waits[seq]
                self._left -= 1
                lost.append(self._units[seq])
                lost += self.failed(self._units[seq])
        return lost
