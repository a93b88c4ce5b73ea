"""Whether the words before a value say what it is: a number after "passport" is one."""

from __future__ import annotations

import re
from collections.abc import Sequence

REACH = 96  # characters before a value that are looked at
WORDS = 5  # telling ones among them; Presidio's count, without the words that tell nothing
SUPPORT = 0.35  # what support adds to a score, and
SUPPORTED = 0.4  # the least that it makes of one: Presidio's figures
_WORD = re.compile(r"[^\W_]+")
_IDLE_WORDS = (
    "a an and are as at be been by for from had has have her his i in is it its my no of on or our "
    "please that the their there this to was we were will with you your"
)
_IDLE = frozenset(_IDLE_WORDS.split())


def words_before(text: str, place: int) -> str:
    """The last telling words before ``text[place]``, in lower case, one blank between them."""
    found = _WORD.findall(text[max(0, place - REACH) : place].lower())
    return " ".join([word for word in found if word not in _IDLE][-WORDS:])


def supports(before: str, context: Sequence[str]) -> bool:
    """Whether one of the context words, or a phrase of them, is in or part of these words."""
    return any(word in before for word in context)


def supported(score: float) -> float:
    """The score of a value whose context supports it."""
    return min(1.0, max(score + SUPPORT, SUPPORTED))


def in_context(score: float, text: str, place: int, context: Sequence[str]) -> float:
    """The score of a value at ``text[place]`` by the words before it."""
    if score < 1.0 and context and supports(words_before(text, place), context):
        return supported(score)
    return score
