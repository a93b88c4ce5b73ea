"""Keeps search results from saying the same thing several times."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Scripts written without spaces count by character; elsewhere a word is a run of letters,
# digits and underscores, so that an identifier stays whole.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_DIGIT = re.compile(r"\d")
SHINGLE_WORDS = 3


@dataclass(frozen=True, slots=True)
class Distinct:
    """What is left of a ranking without its near-duplicates.

    ``kept`` holds positions in the order of the ranking; ``twin_of`` maps the position of
    each passage that was left out to the kept one that it nearly equals.
    """

    kept: list[int]
    twin_of: dict[int, int]


def words(text: str) -> list[str]:
    """Return the words of a text, lower case, in order."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return every run of three words of a text (Broder, SEQUENCES 1997).

    A text of fewer words is one run; a text without words is one empty run.
    """
    found = words(text)
    last = max(1, len(found) - SHINGLE_WORDS + 1)
    return frozenset(tuple(found[i : i + SHINGLE_WORDS]) for i in range(last))


def drop_near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, numbers_matter: bool = True
) -> Distinct:
    """Keep the first of each group of texts that are the same but for a few words.

    Two texts are near-duplicates when the Jaccard index of their shingles (what they share
    over what either has) reaches ``threshold``. It is computed exactly, through an inverted
    index of what was kept: a search ranks tens of passages, where the estimates of MinHash
    and SimHash save nothing and would let a few pairs over the threshold through.

    Args:
        texts: best first.
        threshold: in 0..1, above 0; 1 drops only texts with the same shingles.
        numbers_matter: texts that differ in a word with a digit (a version, a price, a
            date, an error code) are different, however alike the rest is.

    Returns:
        No two kept texts reach the threshold, and each one left out reaches it with the
        text that stands for it. The first text is always kept.

    Raises:
        ValueError: the threshold is not in 0..1, or is 0.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    kept: list[int] = []
    twin_of: dict[int, int] = {}
    sizes: list[int] = []
    holders: dict[Hashable, list[int]] = defaultdict(list)  # shingle -> kept texts with it
    for position, text in enumerate(texts):
        runs: list[Hashable] = list(shingles(text))
        if numbers_matter:
            numbers = frozenset(word for word in words(text) if _DIGIT.search(word))
            runs = [(numbers, run) for run in runs]
        shared = Counter(holder for run in runs for holder in holders.get(run, ()))
        best, twin = 0.0, -1
        for holder, common in shared.items():
            likeness = common / (len(runs) + sizes[holder] - common)
            if likeness > best or (likeness == best and holder < twin):
                best, twin = likeness, holder
        if best >= threshold:
            twin_of[position] = twin
        else:
            kept.append(position)
            for run in runs:
                holders[run].append(position)
        sizes.append(len(runs))
    return Distinct(kept, twin_of)


def cosine_likeness(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """How alike texts are by their vectors.

    Args:
        vectors: float32 array of shape (n, dim), unit norm.

    Returns:
        float32 array of shape (n, n), symmetric, in 0..1; opposite vectors count as 0.
    """
    unit = np.asarray(vectors, dtype=np.float32)
    likeness: NDArray[np.float32] = np.clip(unit @ unit.T, 0.0, 1.0)
    return likeness


def word_likeness(texts: Sequence[str]) -> NDArray[np.float32]:
    """How alike texts are by their sets of words (the Jaccard index).

    Returns:
        float32 array of shape (n, n), symmetric, in 0..1; two texts without words are alike.
    """
    sets = [frozenset(words(text)) for text in texts]
    likeness = np.ones((len(sets), len(sets)), dtype=np.float32)
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[:i]):
            common = len(one & other)
            either = len(one) + len(other) - common
            likeness[i, j] = likeness[j, i] = common / either if either else 1.0
    return likeness


def diversify(
    scores: Sequence[float], likeness: NDArray[np.float32], k: int, balance: float = 0.7
) -> list[int]:
    """Choose passages that are relevant and unlike those chosen before them.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): each step takes the
    passage with the greatest ``balance * relevance - (1 - balance) * likeness``, the likeness
    being that to the most similar passage already chosen. Relevance is ``scores`` scaled to
    0..1, so that ``balance`` means the same for every ranking.

    Args:
        scores: relevance of n passages, any finite scale, higher is better.
        likeness: float32 array of shape (n, n), symmetric, in 0..1.
        k: how many to choose.
        balance: in 0..1; 1 is the order of the scores, 0 only seeks what is different.

    Returns:
        min(k, n) positions, the most relevant first. Ties go to the earlier position.

    Raises:
        ValueError: the shapes do not fit, a score is not finite, or ``balance`` is outside.
    """
    relevance = np.asarray(scores, dtype=np.float64)
    n = len(relevance)
    if likeness.shape != (n, n):
        raise ValueError(f"likeness must have shape ({n}, {n}), got {likeness.shape}")
    if not np.isfinite(relevance).all():
        raise ValueError("every score must be a finite number")
    if not 0 <= balance <= 1:
        raise ValueError(f"balance must be in 0..1, got {balance}")
    if n == 0 or k < 1:
        return []
    span = np.ptp(relevance)
    relevance = (relevance - relevance.min()) / span if span > 0 else np.ones(n)
    chosen = [int(np.argmax(relevance))]
    nearest = likeness[chosen[0]].astype(np.float64)
    left = np.ones(n, dtype=bool)
    left[chosen[0]] = False
    while len(chosen) < min(k, n):
        gain = np.where(left, balance * relevance - (1 - balance) * nearest, -np.inf)
        pick = int(np.argmax(gain))
        chosen.append(pick)
        left[pick] = False
        nearest = np.maximum(nearest, likeness[pick])
    return chosen
