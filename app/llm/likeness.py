"""How much two answers to the same request are alike."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from app.llm.same_question import Embed

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Likeness:
    """Two answers against each other.

    Attributes:
        equal: letter by letter.
        token_f1: words and signs in common, whatever their order (Rajpurkar et al. 2016), 0 to 1.
        same_beginning: the share of the longer one before the first difference, in tokens.
        cosine: of their embeddings; None where there is no embedder, or a text is empty.
    """

    equal: bool
    token_f1: float
    same_beginning: float
    cosine: float | None


async def compare(one: str, other: str, embed: Embed | None) -> Likeness:
    """Compare two answers; those that are equal need no embedder."""
    if one == other:
        return Likeness(True, 1.0, 1.0, 1.0)
    ours, theirs = _TOKEN.findall(one), _TOKEN.findall(other)
    cosine = None
    if embed is not None and ours and theirs:
        vectors = await embed([one, other])
        cosine = float(vectors[0] @ vectors[1])
    return Likeness(False, _f1(ours, theirs), _beginning(ours, theirs), cosine)


def _f1(ours: list[str], theirs: list[str]) -> float:
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))


def _beginning(ours: list[str], theirs: list[str]) -> float:
    longer = max(len(ours), len(theirs))
    if not longer:
        return 1.0
    same = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    return same / longer
