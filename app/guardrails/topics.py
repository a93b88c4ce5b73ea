"""Topics of a text: by words, and by how near its sentences are to sentences on the topic."""

from __future__ import annotations

import asyncio
import hashlib
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from app.errors import Unavailable
from app.guardrails.demands import Topic

Embed = Callable[[Sequence[str]], Awaitable[Any]]  # float32 array of shape (n, dim), length 1
REMEMBERED = 4096  # vectors of sentences, by hash: the turns of a chat come again
LONGEST = 500  # characters of a sentence that are read at once
LEAST = 12  # characters that can be on a topic by their meaning
# Chosen for the threshold of 0.72 on benchmarks/checked/topics_tuning.json and the dev half of
# topics.json.
AGAINST = 1.0  # weight of the distance to what is allowed
USUAL = 0.56  # cosine of a sentence with anything, where nothing is said to be allowed
BESIDE = 0.5  # weight of nearness to everyday sentences, above what is usual:
FAR = 0.48
EVERYDAY = (
    "What are your opening hours?",
    "How do I change my password?",
    "The server restarts at night.",
    "Please send me the invoice.",
    "Where is my parcel?",
    "The meeting starts at ten.",
    "Thank you for your help.",
    "Can I return this item?",
    "The file does not open.",
    "Who is in charge of this?",
    "Add two numbers in Python.",
    "The weather is fine today.",
    "Summarise this text in three sentences.",
    "I would like to book a room.",
    "The printer is out of paper.",
    "What does this word mean?",
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


@dataclass(frozen=True, slots=True)
class OnTopic:
    """A topic, and where in a text the surest sentence on it lies."""

    topic: Topic
    start: int
    end: int
    score: float


class Topics:
    """Finds topics; remembers the vectors of sentences that it has read.

    Args:
        embed: the gateway's first embedding model; None while there is none.
    """

    def __init__(self, embed: Callable[[], Embed | None]) -> None:
        self._embed = embed
        self._known: OrderedDict[bytes, Any] = OrderedDict()

    async def find(self, topics: Sequence[Topic], text: str) -> list[OnTopic]:
        """The topics that a text is on, each once.

        Raises:
            Unavailable: no embedder is there, or it is overloaded.
        """
        found = {t.name: hit for t in topics if (hit := _by_words(t, text)) is not None}
        rest = [t for t in topics if t.examples and t.name not in found]
        places = sentences_of(text) if rest else []
        if places:
            vectors = await self._vectors([text[a:b] for a, b in places])
            everyday = (vectors @ (await self._vectors(EVERYDAY)).T).max(axis=1)
            for topic in rest:
                scores = _scores(
                    vectors,
                    await self._vectors(topic.examples),
                    await self._vectors(topic.allowed) if topic.allowed else None,
                    everyday,
                )
                best = int(scores.argmax())
                if scores[best] >= topic.min_score:
                    found[topic.name] = OnTopic(topic, *places[best], round(float(scores[best]), 4))
        return [found[t.name] for t in topics if t.name in found]

    async def vectors(self, texts: Sequence[str]) -> Any:
        """Vectors of texts: float32 array of shape (n, dim), rows of length 1."""
        return await self._vectors(texts)

    async def _vectors(self, texts: Sequence[str]) -> Any:
        keys = [hashlib.blake2b(t.encode(errors="replace"), digest_size=16).digest() for t in texts]
        new = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
        found = {k: self._known[k] for k in keys if k in self._known}
        if new:
            embed = self._embed()
            if embed is None:
                raise Unavailable(
                    "This gateway has no embedding model, which the guardrail policy needs. Ask "
                    "the operator to set OSTIARY_EMBEDDED_RETRIEVAL.",
                    code="guardrail_unavailable",
                )
            made = await embed(list(new.values()))
            found |= dict(zip(new, made, strict=True))
        for key in keys:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return np.stack([found[k] for k in keys])


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text lie that can be on a topic; long ones in pieces."""
    found = []
    for match in _SENTENCE.finditer(text):
        for start in range(match.start(), match.end(), LONGEST):
            end = min(start + LONGEST, match.end())
            if len(text[start:end].strip()) >= LEAST:
                found.append((start, end))
    return found


def _scores(vectors: Any, examples: Any, allowed: Any | None, everyday: Any) -> Any:
    """Float32 array of shape (n,): how near each sentence is to the middle of the examples.

    Nearness to the nearest allowed sentence counts against it, and to the nearest everyday one.
    """
    centre = examples.mean(axis=0)
    near = vectors @ (centre / max(float(np.linalg.norm(centre)), 1e-9))
    other = USUAL if allowed is None else (vectors @ allowed.T).max(axis=1)
    return near + AGAINST * (near - other) - BESIDE * (everyday - FAR)


def _by_words(topic: Topic, text: str) -> OnTopic | None:
    if not topic.words:
        return None
    match = _pattern(tuple(topic.words)).search(folded(text))
    return None if match is None else OnTopic(topic, match.start(), match.end(), 1.0)


@lru_cache(maxsize=256)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    parts = (r"\s+".join(map(re.escape, folded(w).split())) for w in words)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


def folded(text: str) -> str:
    """A text in small letters of one width, character by character, so that places stay."""
    return "".join(_folded(c) for c in text) if not text.isascii() else text.lower()


def _folded(sign: str) -> str:
    plain = unicodedata.normalize("NFKC", sign).lower()
    return plain if len(plain) == 1 else sign


async def gather_topics(
    topics: Topics, wanted: Sequence[Topic], texts: Sequence[str]
) -> list[list[OnTopic]]:
    """The topics of each text."""
    return list(await asyncio.gather(*(topics.find(wanted, text) for text in texts)))
