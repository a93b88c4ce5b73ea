"""How far the cited passage bears a sentence out, as a score in 0..1."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from app.llm.gate import Scorer, relevance_of
from app.llm.sentences import codes, names, numbers, terms, windows
from app.pools import Pool
from app.retrieval.types import Passage

Vectors = Callable[[Sequence[str]], Awaitable[Any]]  # float32 array of shape (n, dim), length 1
WINDOW = 400  # characters of a passage that are held against a sentence at once
# Fitted on the dev half of benchmarks/checked/grounded.json (a logistic regression): the logit of
# the cross-encoder, the cosine, and the share of the sentence's words that are there.
WEIGHTS = (0.336, 2.93, 2.80)
BIAS = -7.61


class Groundedness:
    """Judges sentences by the models of this gateway.

    Args:
        vectors: of texts, by the embedder.
    """

    def __init__(self, scorer: Scorer, vectors: Vectors, pool: Pool) -> None:
        self._scorer, self._vectors, self._pool = scorer, vectors, pool

    async def score(self, sentence: str, passage: Passage) -> float:
        """The probability that the passage says what the sentence says.

        It is 0 where a number, identifier or name of the sentence does not stand there.
        """
        title = passage.section or ""
        if _foreign(sentence, f"{title}\n{passage.text}"):
            return 0.0
        parts = [w[:WINDOW] for w in windows(passage.text, WINDOW) if w.strip()]
        parts = [w for w in parts if not numbers(sentence) - numbers(f"{title}\n{w}")]
        if not parts:
            return 0.0
        vectors = await self._vectors([sentence, *parts])
        cosines = vectors[1:] @ vectors[0]
        logits = await self._pool.run(relevance_of, self._scorer, sentence, parts)
        wanted = terms(sentence)
        best = 0.0
        for part, logit, cosine in zip(parts, logits, cosines, strict=True):
            share = len(wanted & terms(f"{title}\n{part}")) / len(wanted) if wanted else 0.0
            total = sum(w * v for w, v in zip(WEIGHTS, (logit, float(cosine), share), strict=True))
            best = max(best, 1 / (1 + math.exp(-(total + BIAS))))
        return round(best, 4)


def _foreign(sentence: str, source: str) -> bool:
    """Whether the sentence has a number, identifier or name that the source has not."""
    held = terms(source)
    return bool(
        numbers(sentence) - numbers(source) or codes(sentence) - held or names(sentence) - held
    )
