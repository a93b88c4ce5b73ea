"""Where in a passage a query's words stand, and which part of the passage shows them best."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from app.retrieval.analysis import (
    Analysis,
    Word,
    analysis,
    humps,
    identifiers,
    is_unspaced,
    name_terms,
)
from app.retrieval.query_syntax import parse
from app.retrieval.typos import most_typos, typos_between

Span = tuple[int, int]

_SENTENCE = re.compile(r"(?:[.!?:]\s+|[。！？]\s*|\n\s*)(?=\S)")
_LONGEST_CUT = 30  # how far to look for a space to cut at, characters


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a text.

    Attributes:
        text: ``whole[start:end]``.
        start, end: its place in the whole text, in characters.
        spans: what matches, in characters of the snippet.
    """

    text: str
    start: int
    end: int
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class _Match:
    start: int
    end: int
    term: str


def highlight(
    text: str,
    query: str,
    language: str = "en",
    *,
    unknown: Collection[str] = (),
    operators: bool = True,
) -> list[Span]:
    """Return what of ``text`` matches, as sorted spans that do not overlap.

    A word matches in each of its forms, a quoted phrase only as a whole, an identifier as a whole
    and as a part of a longer one. Excluded and common words are not shown.

    Args:
        text: a passage.
        query: what the user wrote.
        language: that of the collection.
        unknown: words of the query to be matched by near ones: ``LexicalIndex.unknown_words``.
        operators: whether quotes and signs in the query mean something.

    Returns:
        (start, end) in characters of ``text``, so that ``text[start:end]`` is what matched.

    Raises:
        BadRequest: an unknown language.
    """
    return _merged(_matches(text, query, analysis(language), unknown, operators))


def best_snippet(
    text: str,
    query: str,
    most: int = 240,
    language: str = "en",
    *,
    unknown: Collection[str] = (),
    operators: bool = True,
) -> Snippet:
    """Return the part of ``text`` that shows the most different words of the query.

    It starts with a sentence where one fits, and else between two words.

    Args:
        text: a passage.
        query: what the user wrote.
        most: the greatest length, in characters, at least 1.
        language, unknown, operators: as for ``highlight``.

    Raises:
        BadRequest: an unknown language.
        ValueError: ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"a snippet needs at least 1 character, got {most}")
    matches = _matches(text, query, analysis(language), unknown, operators)
    start, end = _cut(text, *_densest(matches, most), most)
    spans = [
        (max(first, start) - start, min(last, end) - start)
        for first, last in _merged(matches)
        if first < end and last > start
    ]
    return Snippet(text[start:end], start, end, spans)


def _matches(
    text: str, query: str, terms: Analysis, unknown: Collection[str], operators: bool
) -> list[_Match]:
    asked = parse(query, operators)
    wanted = terms.content(asked.plain)
    for each in asked.required:
        wanted.update({word.stem: word.surface for word in terms.words(each)})
    words = terms.words(text)
    singles = {stem for stem in wanted if len(stem) == 1 and is_unspaced(stem)}
    near = {word: most_typos(word) for word in unknown}
    found: list[_Match] = []
    for word in words:
        if word.stem in wanted:
            found.append(_Match(word.start, word.end, word.stem))
        elif near and not word.common:
            for typo, errors in near.items():
                if typos_between(typo, word.surface, errors) is not None:
                    found.append(_Match(word.start, word.end, typo))
        if singles and is_unspaced(word.surface):
            found += [
                _Match(word.start + i, word.start + i + 1, letter)
                for i, letter in enumerate(text[word.start : word.end])
                if letter in singles
            ]
    for phrase in asked.phrases:
        found += _phrase(words, [word.surface for word in terms.words(phrase)])
    named = " ".join((asked.plain, *asked.phrases, *asked.required))
    return found + _names(text, named, set(wanted), terms)


def _phrase(words: list[Word], phrase: list[str]) -> list[_Match]:
    size = len(phrase)
    if not size:
        return []
    term = " ".join(phrase)
    return [
        _Match(words[i].start, words[i + size - 1].end, term)
        for i in range(len(words) - size + 1)
        if words[i].surface == phrase[0] and [w.surface for w in words[i : i + size]] == phrase
    ]


def _names(text: str, query: str, wanted: set[str], terms: Analysis) -> list[_Match]:
    asked = {name.lower() for name, _, _ in identifiers(query)}
    found = []
    for name, start, end in identifiers(text):
        for term in name_terms(name):
            if term in asked:
                at = start + name.lower().find(term)
                found.append(_Match(at, min(end, at + len(term)), term))
        at = start
        for hump in humps(name):
            at = text.find(hump, at, end)
            stems = terms.stems.analyze(terms.prepare(hump))
            found += [_Match(at, at + len(hump), stem) for stem in stems if stem in wanted]
            at += len(hump)
    return found


def _merged(matches: list[_Match]) -> list[Span]:
    spans: list[Span] = []
    for start, end in sorted((match.start, match.end) for match in matches):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _densest(matches: list[_Match], most: int) -> Span:
    """The smallest stretch of at most ``most`` characters with the most different terms."""
    ordered = sorted(matches, key=lambda match: (match.start, match.end))
    inside: Counter[str] = Counter()
    best, best_score, first = (0, 0), (0, 0), 0
    for last, match in enumerate(ordered):
        inside[match.term] += 1
        while first < last and match.end - ordered[first].start > most:
            inside[ordered[first].term] -= 1
            first += 1
        score = (sum(count > 0 for count in inside.values()), last - first + 1)
        if score > best_score:
            best, best_score = (ordered[first].start, match.end), score
    return best


def _cut(text: str, first: int, last: int, most: int) -> Span:
    """Widen (first, last) to ``most`` characters, from a sentence's start and between words."""
    if len(text) <= most:
        return 0, len(text)
    last = min(last, first + most)
    earliest = max(0, last - most)
    starts = [at.end() for at in _SENTENCE.finditer(text, earliest, first + 1)]
    starts = [at for at in starts if at <= first]
    if earliest == 0 and not starts:
        start = 0
    elif starts:
        start = starts[-1]
    else:
        start = max(earliest, first - (most - (last - first)) // 2)
        if start and not text[start - 1].isspace():
            space = re.compile(r"\s+").search(text, start, min(first, start + _LONGEST_CUT))
            start = space.end() if space else start
    end = min(len(text), start + most)
    if end < len(text) and not text[end].isspace():
        spaces = [i for i in range(max(last, end - _LONGEST_CUT), end) if text[i].isspace()]
        end = spaces[-1] if spaces else end
    return start, end
