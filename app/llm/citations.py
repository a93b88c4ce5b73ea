"""Citations that are ours: which words of which passage bear out a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.llm.sentences import codes, contradicts, names, support, terms, windows
from app.retrieval.types import Passage

SUPPORTED = 0.65  # share of a sentence's content words that the quoted words must have
FEW_WORDS = 3  # so short a sentence says something else if one of its words is missing
QUOTE_CHARS = 400


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that bears out a sentence; ``quote`` is an exact part of its text."""

    passage: Passage
    quote: str


def cite(sentence: str, passages: Sequence[Passage]) -> Citation | None:
    """Return the words that best bear out ``sentence``, or None when none do.

    One or two neighbouring sentences of one passage, read under its section's title, must
    hold ``SUPPORTED`` of the sentence's content words (all, of a sentence of ``FEW_WORDS``) and
    every number and identifier in it, and must not deny it; and the passage must hold every
    name: words picked from all over a page bear out anything.
    """
    least = 1.0 if len(terms(sentence)) <= FEW_WORDS else SUPPORTED
    best: Citation | None = None
    best_rank = 0.0
    for passage in passages:
        title = passage.section or ""
        if names(sentence) - terms(f"{title}\n{passage.text}"):
            continue
        for window in windows(passage.text, QUOTE_CHARS):
            if codes(sentence) - terms(f"{title}\n{window}"):
                continue
            share = support(sentence, f"{title}\n{window}")
            # of two that bear it out alike, the one that says less beside
            rank = share + 0.2 * support(sentence, window) - len(window) / 20_000
            if share >= least and rank > best_rank and not contradicts(sentence, window):
                best, best_rank = Citation(passage, exact(window[:QUOTE_CHARS], passage.text)), rank
    return best


def exact(chosen: str, text: str) -> str:
    """Guarantee that what is quoted stands in the text."""
    if chosen not in text:
        raise AssertionError("a quote must be part of its passage")
    return chosen
