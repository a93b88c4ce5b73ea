"""Where a text can be cut so that no entity is cut: the same places whole and streamed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# What phonenumbers takes between the digits of a number, white space apart.
PUNCT = (
    r"\-x\u2010-\u2015\u2212\u30FC\uFF0D-\uFF0F\u00AD\u200B\u2060"
    r"()\uFF08\uFF09\uFF3B\uFF3D.\[\]/~\u2053\u223C\uFF5E"
)
_LEAD = r"(\[\uFF08\uFF3B+\uFF0B"
BLANK = r" \t\u00A0\u3000"  # the only white space inside an entity
_LABEL = (
    r"(?:e?xt(?:ensi(?:o\u0301?|\u00F3))?n?|\uFF45?\uFF58\uFF54\uFF4E?|\u0434\u043E\u0431|anexo"
    r"|int|\uFF49\uFF4E\uFF54|[x\uFF58#\uFF03~\uFF5E])"
)
# Before the gap: a digit or opening sign, then punctuation; or the word before an extension.
_LEFT = re.compile(
    rf"(?:[\d{_LEAD}][{PUNCT}{_LEAD},#{BLANK}]{{0,12}}"
    rf"|(?<![^\W\d_]){_LABEL}[:.\uFF0E]?[,\-]{{0,4}})\Z",
    re.IGNORECASE,
)
_RIGHT = re.compile(
    rf"[\d{PUNCT}{_LEAD}#,]|{_LABEL}[:.\uFF0E]?[,\-]*(?:\d|\s|\Z)",
    re.IGNORECASE,
)
_RIGHT_OPEN = "0123456789eEaAiIxX"  # ASCII letters and digits that _RIGHT can begin with
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}[0-9]{2}[A-Z0-9\- ]{0,44}\Z")
_IBAN_RIGHT = re.compile(r"[A-Z0-9]")

_GAP = re.compile(r"\s+")
_HARD = re.compile(rf"[^\S{BLANK}]")  # white space that no entity holds
# Necessary for every pattern entity: e-mail has an @, IPv6 two colons; all others have a digit
# that stands in a run of seven, beside a letter, or at most four characters before another one.
# So "14 pumps" and "in 1998" are no reason to look closer.
_SUSPECT = re.compile(r"@|\d(?:\d{6}|(?=[^\W\d]|\D{1,4}\d)|(?<=[^\W\d]\d))|:[0-9A-Fa-f]{0,4}:")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[^\W\d_]|[\"'(\d])|\s*\n\s*")
# a point after a title or an initial ends no sentence, and the name behind it belongs to it
_SHORT = re.compile(
    r"\b(?:dr|mr|mrs|ms|prof|st|sr|sra|srta|dra|dña|jr|no|nr|hr|fr|mme|mlle|sig|dott|ing|gen|col|lt|capt|rev|hon|e\.g|i\.e"
    r"|[^\W\d_])\.\Z",
    re.IGNORECASE,
)
LONGEST_SHORT = 8  # characters, with the point and what tells the word's beginning

CONTEXT = 64  # characters before a gap that decide about it
MOST_GAP = 64  # characters of white space that an entity can hold
MOST_SEGMENT = 2048  # characters without a cut; longer segments are cut between entities
MOST_ENTITY = 384  # characters; an e-mail address has at most 320
MOST_WINDOW = 1200  # characters in which names are looked for at once

Find = Callable[[str], list[tuple[int, int]]]  # spans of the entities in a piece


@dataclass(frozen=True, slots=True)
class Span:
    start: int
    end: int


def suspicion(text: str) -> int:
    """How many signs ``text`` holds that pattern entities are made of."""
    return len(_SUSPECT.findall(text))


def glued(text: str, start: int, end: int) -> bool:
    """Whether an entity can reach over the white space ``text[start:end]``."""
    if start == 0 or end == len(text) or end - start > MOST_GAP:
        return False
    last = text[start - 1]
    if "a" <= last <= "z" and last not in "xtno":  # nearly every word
        return False
    if "a" <= text[end] <= "z" and text[end] not in _RIGHT_OPEN:  # and what nearly each begins with
        return False
    if _HARD.search(text, start, end):
        return False
    before = text[max(0, start - CONTEXT) : start]
    if _LEFT.search(before) and _RIGHT.match(text, end):
        return True
    return bool(_IBAN_RIGHT.match(text, end) and _IBAN.search(before))


def _undecided(text: str, start: int, end: int) -> bool:
    """Whether more text can still change what ``glued`` says about the gap."""
    if start == 0 or end - start > MOST_GAP or _HARD.search(text, start, end):
        return False
    before = text[max(0, start - CONTEXT) : start]
    left, iban = _LEFT.search(before), _IBAN.search(before)
    if not left and not iban:
        return False
    if end == len(text):
        return True
    if _GAP.search(text, end):
        return False
    first = text[end]
    return bool(left) and (first in _RIGHT_OPEN or not first.isascii())


def safe_cut(piece: str, find: Find) -> int:
    """Where to cut a piece of ``MOST_SEGMENT`` characters that goes on: not in an entity.

    An entity over the cut begins less than ``MOST_ENTITY`` before the end of the piece, or
    it is whole in the piece, and then it is found there and the cut moves away from it.
    """
    last = len(piece) - MOST_ENTITY
    cut = piece.rfind(" ", last - MOST_ENTITY, last) + 1 or last
    for start, end in sorted(find(piece)):
        if start < cut < end:
            cut = start or end
            break
    return cut


def cuts(text: str, start: int, find: Find, *, final: bool) -> Iterator[int]:
    """Yield the places after ``start`` where ``text`` may be cut, in order.

    ``text`` before ``start`` is context. Unless ``final``, text may follow, and the places
    that it can still move are left out.
    """
    begin = start
    pos = start
    while True:
        gap = _GAP.search(text, pos)
        token_end = gap.start() if gap else len(text)
        while token_end - begin > MOST_SEGMENT:
            begin += safe_cut(text[begin : begin + MOST_SEGMENT], find)
            yield begin
        if gap is None:
            break
        if not final and _undecided(text, gap.start(), gap.end()):
            return
        pos = gap.end()
        if not glued(text, gap.start(), pos):
            begin = pos
            yield begin
        elif pos == len(text):
            return
    if final and begin < len(text):
        yield len(text)


def segments(text: str, find: Find, start: int = 0) -> Iterator[Span]:
    """The stretches after ``start`` in which a pattern entity can lie; the rest holds none."""
    done = start
    for match in _SUSPECT.finditer(text, start):
        at = match.start()
        if at < done:
            continue
        begin, end = _around(text, at)
        begin = max(begin, done)
        while end - begin > MOST_SEGMENT:
            cut = begin + safe_cut(text[begin : begin + MOST_SEGMENT], find)
            yield Span(begin, cut)
            begin = cut
        yield Span(begin, end)
        done = end


def _around(text: str, at: int) -> tuple[int, int]:
    start = end = at
    while True:
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        gap = start
        while gap > 0 and text[gap - 1].isspace():
            gap -= 1
        if gap == start or not glued(text, gap, start):
            break
        start = gap
    while True:
        match = _GAP.search(text, end)
        if match is None:
            return start, len(text)
        if not glued(text, match.start(), match.end()):
            return start, match.start()
        end = match.end()


def _is_short(text: str, point: int) -> bool:
    """Whether the point at ``text[point]`` belongs to a word that is written short."""
    return _SHORT.search(text[max(0, point + 1 - LONGEST_SHORT) : point + 1]) is not None


def windows(text: str, start: int, find: Find, *, final: bool) -> Iterator[int]:
    """Yield the ends of sentence-like windows after ``start``, each of them a cut."""
    begin = last = start
    ends = {m.end() for m in _SENTENCE_END.finditer(text, start) if not _is_short(text, m.start())}
    for cut in cuts(text, start, find, final=final):
        if cut - begin > MOST_WINDOW and last > begin:
            yield last
            begin = last
        last = cut
        if cut in ends and (final or cut < len(text)):
            yield cut
            begin = cut
    if final and begin < len(text):
        yield len(text)
