"""Which of the passages that a search returned are the ones that were judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.retrieval.quality.judged import JudgedQuery, Judgement

_WORD = re.compile(r"\w+")
_CUT_SHARE = 0.5  # of a quote's words that a passage must hold where it was cut in two


@dataclass(frozen=True, slots=True)
class Returned:
    """One search result: the file's name and the passage's text."""

    filename: str
    text: str


@dataclass(frozen=True, slots=True)
class Matched:
    """A ranking as the measures read it.

    ``ranking`` names one id a place; ``grades`` holds the grade of every judged id, found or
    not; ``first`` is the rank of the first relevant result, None where there is none.
    """

    ranking: tuple[str, ...]
    grades: dict[str, int]
    first: int | None


def words(text: str) -> str:
    """The words of a text, one space between, without case, marks and mark-up signs."""
    return " ".join(_WORD.findall(text.casefold()))


def match(query: JudgedQuery, results: Sequence[Returned]) -> Matched:
    """Tell which results are judged.

    If a judgement of the query has no quote, files are what is ranked: only the first passage
    of each file keeps a place. Otherwise passages are. A judgement is found once: a later
    passage that matches it too is a repeat and not relevant. One passage that holds several
    judged quotes counts as the best of them, and the others are no longer looked for.
    """
    if any(j.quote is None for j in query.judged):
        kept: dict[str, Returned] = {}
        for result in results:
            kept.setdefault(result.filename, result)
        results = list(kept.values())
    grades = {f"j{n}": j.grade for n, j in enumerate(query.judged)}
    open_ = {f"j{n}": j for n, j in enumerate(query.judged)}
    ranking: list[str] = []
    for place, result in enumerate(results):
        held = words(result.text)
        hits = [name for name, j in open_.items() if _is(j, result.filename, held)]
        best = max(hits, key=lambda name: grades[name], default=None)
        for name in hits:
            del open_[name]
            if name != best:
                del grades[name]
        ranking.append(best or f"r{place}")
    first = next((r for r, i in enumerate(ranking, start=1) if grades.get(i, 0) > 0), None)
    return Matched(tuple(ranking), grades, first)


def same_file(judged: str, filename: str) -> bool:
    """Whether a judged document is the file: by its whole name, its last part or its stem."""
    if judged == filename:
        return True
    name = PurePosixPath(filename)
    return judged in (name.name, name.stem, str(name.with_suffix("")))


def _is(judgement: Judgement, filename: str, held: str) -> bool:
    if not same_file(judgement.file, filename):
        return False
    return judgement.quote is None or holds(held, words(judgement.quote))


def holds(text: str, quote: str) -> bool:
    """Whether a passage holds a quote, or half of it where the passage was cut in the quote.

    Both as `words` gives them.
    """
    if not quote:
        return False
    if f" {quote} " in f" {text} ":
        return True
    parts, have = quote.split(), text.split()
    least = max(1, round(_CUT_SHARE * len(parts)))
    for n in range(len(parts) - 1, least - 1, -1):
        if have[-n:] == parts[:n] or have[:n] == parts[-n:]:
            return True
    return False
