"""Whether two questions are the same one, asked in other words."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]

LONGEST = 1000  # characters of a question that is compared: beyond, vectors miss its end
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_QUOTED = re.compile(r"[\"“„']([^\"”“']{2,})[\"”“']")
_NAME = re.compile(r"(?<![.!?:] )(?<!^)\b[A-Z][\w-]*")  # a capital letter inside of a sentence
_NOT = re.compile(r"\b(?:not|no|never|without|nor|neither|cannot|none|except|un\w+able)\b|n't\b")
_COUNT = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred"
    r"|first|second|third|fourth|fifth)\b"
)
# words of which one question has the one and the other the other are two questions
_OPPOSITES = (
    "enable disable",
    "open close",
    "start stop",
    "before after",
    "increase decrease",
    "maximum minimum",
    "add remove",
    "create delete",
    "grant revoke",
    "import export",
    "install uninstall",
    "buy sell",
    "more less",
    "above below",
    "with without",
    "early late",
    "read write",
    "upload download",
    "encrypt decrypt",
    "lock unlock",
    "on off",
    "fast slow",
    "cause symptom",
    "row column",
    "day night",
    "first last",
)
_OPPOSITE = {
    one: other
    for pair in _OPPOSITES
    for one, other in (tuple(pair.split()), tuple(reversed(pair.split())))
}


def marks_of(text: str) -> frozenset[str]:
    """What may not differ: numbers, names, quoted words and whether something is denied."""
    low = text.lower()
    found = {f"#{n}" for n in _NUMBER.findall(text)} | {f"#{n}" for n in _COUNT.findall(low)}
    found |= {name.lower() for name in _NAME.findall(text) if name != "I"}
    found |= {f"'{q.strip().lower()}" for q in _QUOTED.findall(text)}
    if len(_NOT.findall(low)) % 2:
        found.add("!not")
    return frozenset(found)


def opposed(first: str, second: str) -> bool:
    """Whether one has a word of which the other has the opposite, and neither has both."""
    one, two = _stems(first), _stems(second)
    return any(
        word in one and other in two and word not in two and other not in one
        for word, other in _OPPOSITE.items()
    )


def _stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return {s for w in words for s in (w, w.removesuffix("s"), w.removesuffix("d"), w[:-3])}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, and whether one answer serves both."""

    first: str
    second: str
    same: bool
    part: str  # fit or test


@dataclass(frozen=True, slots=True)
class Check:
    """What a threshold does on labelled pairs.

    Attributes:
        threshold: least cosine of two questions that are taken for one.
        found, same: of so many paraphrases, so many are answered from the cache.
        wrong, different: of so many near-misses, so many get the answer of another question.
    """

    threshold: float
    found: int
    same: int
    wrong: int
    different: int


def shipped_pairs(part: str | None = None) -> list[Pair]:
    """60 paraphrases and 60 near-misses, written for this; even rows to fit, odd ones to test."""
    text = files("app.llm").joinpath("data/same_questions.jsonl").read_text("utf-8")
    found = [Pair(**json.loads(line)) for line in text.splitlines()]
    return [p for p in found if part is None or p.part == part]


def agree(first: str, second: str, marks: frozenset[str] | None = None) -> bool:
    """Whether what may not differ is the same; ``marks`` are those of ``second`` if known."""
    same = marks_of(first) == (marks_of(second) if marks is None else marks)
    return same and not opposed(first, second) and not _turned(first, second)


def _turned(first: str, second: str) -> bool:
    """Whether the words are the same in another order: from euros to dollars, or back."""
    one, two = re.findall(r"\w+", first.lower()), re.findall(r"\w+", second.lower())
    return one != two and sorted(one) == sorted(two)


async def check(
    embed: Embed, thresholds: Sequence[float], pairs: Sequence[Pair], *, guarded: bool = True
) -> list[Check]:
    """Count right and wrong hits at each threshold; ``guarded`` as the cache does it."""
    one = await embed([p.first for p in pairs])
    two = await embed([p.second for p in pairs])
    near = np.einsum("ij,ij->i", one, two)
    good = np.array([not guarded or agree(p.first, p.second) for p in pairs])
    same = np.array([p.same for p in pairs])
    return [
        Check(
            threshold,
            int((same & good & (near >= threshold)).sum()),
            int(same.sum()),
            int((~same & good & (near >= threshold)).sum()),
            int((~same).sum()),
        )
        for threshold in thresholds
    ]
