"""Fills a real vector store, through the product's own services, with passages made at once.

The passages are windows of the Django manual's words with a few words of another place in it,
their vectors those of the manual's passages moved a little: no model could embed a million texts
here, and both words and vectors stay as crowded and as uneven as in real collections.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.ingestion import _new_passage
from benchmarks.collections import CACHE, Cache, collection
from tests.retrieval.stores import House, made_call

WORDS, FOREIGN = 50, 6  # of a made passage: in a row, and from elsewhere
MOVED = 0.6  # length of what is added to a vector of length 1
QUESTIONS = 150


@dataclass(frozen=True, slots=True)
class Source:
    """Real passages that others are made from, and real questions about them."""

    words: list[list[str]]
    vectors: Any  # float32 array of shape (n, dim), rows of length 1
    questions: list[str]

    def draw(self, rng: np.random.Generator, count: int) -> tuple[list[str], Any]:
        """So many made passages: texts, and a float32 array of shape (count, dim)."""
        chosen = rng.integers(len(self.words), size=(count, 2))
        texts = []
        for (place, other), start in zip(chosen.tolist(), rng.random(count), strict=True):
            mine, theirs = self.words[place], self.words[other]
            at = int(start * max(1, len(mine) - WORDS))
            texts.append(" ".join([*mine[at : at + WORDS], *theirs[:FOREIGN]]))
        made = self.vectors[chosen[:, 0]]
        noise = rng.standard_normal(made.shape, np.float32)
        made = made + noise * np.float32(MOVED / np.sqrt(made.shape[1]))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return texts, made


def source(scratch: Path) -> Source:
    """The Django manual's passages and questions; embedded once and kept in the cache.

    Raises:
        SamplesUnavailable: the manual cannot be had here.
    """
    cache = Cache(CACHE / "cache.sqlite")
    embedder = OnnxEmbedder(packaged_bge_dir(), 2)
    with collection("django", embedder, cache, scratch) as held:
        words = [piece.text.split() for piece in held.pieces]
        kept = [n for n, found in enumerate(words) if len(found) >= 2 * FOREIGN]
        found = Source(
            [words[n] for n in kept],
            held.vectors[kept],
            [query.text for query in held.queries[:QUESTIONS]],
        )
    cache.close()
    return found


class Filled:
    """One store of one tenant, filled in this process."""

    def __init__(self, house: House, tenant: str, store_id: str) -> None:
        self.house, self.tenant, self.store_id = house, tenant, store_id

    @classmethod
    async def made(cls, house: House, tenant: str) -> Filled:
        """A new, empty store."""
        store = await house.stores.create(
            made_call(tenant),
            name=None,
            description=None,
            metadata={},
            chunking={},
            expires_after_days=None,
        )
        return cls(house, tenant, store.id)

    async def attach(self, name: str) -> tuple[str, str]:
        """Upload and attach a file; its id, and that of the job that would read it."""
        call, data = made_call(self.tenant), io.BytesIO(name.encode())
        file = await self.house.files.upload(call, name, "assistants", data)
        _, fresh = await self.house.attached.attach(call, self.store_id, [file.id], {}, {})
        return file.id, fresh[file.id]

    async def add(self, file_id: str, job_id: str, texts: list[str], vectors: Any) -> None:
        """Do what the job's last step does: words, vectors, SQL, memory."""
        pieces = [
            {"ordinal": n, "text": text, "page": None, "section": None}
            for n, text in enumerate(texts)
        ]
        new = [_new_passage(self.store_id, job_id, piece, 80) for piece in pieces]
        store = await self.house.stores.get(self.tenant, self.store_id)
        async with self.house.stores.using(store) as index:
            done = await index.add(file_id, job_id, new, vectors, sum(map(len, texts)), store.build)
        assert done

    async def grow(self, rng: np.random.Generator, held: Source, count: int) -> None:
        """Add ``count`` passages as eight files, which are then merged into one segment."""
        for part in np.array_split(np.arange(count), 8):
            if len(part):
                texts, vectors = held.draw(rng, len(part))
                await self.add(*await self.attach("part.md"), texts, vectors)
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until nothing is merged any more."""
        store = await self.house.stores.get(self.tenant, self.store_id)
        async with self.house.stores.using(store) as index:
            if index._compacting is not None:
                await index._compacting
