"""Characters that nobody sees or takes for others, where no writing system needs them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

from app.guardrails.attacks.lexicon import WORDS
from app.guardrails.attacks.view import fold_word
from app.guardrails.findings import Finding

HIDDEN = "HIDDEN_TEXT"
_INVISIBLE = "\u200b\u200c\u200d\u2060-\u2064\ufeff\u00ad\u180e\u034f\u115f\u1160\u3164\uffa0"
_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_FLAG = re.compile("[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}|[\U000e0100-\U000e01ef]")
_RUN = re.compile(f"[{_INVISIBLE}]{{4,}}")
_IN_WORD = re.compile(f"[a-z\u00c0-\u024f]+(?:[{_INVISIBLE}]+[a-z\u00c0-\u024f]+)+", re.IGNORECASE)
_FORCED = re.compile("[\u202d\u202e][^\u202c\n]{0,500}\u202c?")
_BIDI = re.compile("[\u202a\u202b\u202d\u202e\u2066-\u2069]")
_ANY = re.compile(f"[{_INVISIBLE}\u202a-\u202e\u2066-\u2069\ufe00-\ufe0f\U000e0000-\U000e01ef]")
_WORD = re.compile(r"[^\W\d_]{4,}")
_FOREIGN = re.compile("[\u0370-\u03ff\u0400-\u04ff\u0500-\u052f]")
# letters of other scripts that a reader takes for Latin ones
_TWINS = frozenset("аеорсухіјѕԁԛԝһАВЕКМНОРСТУХІЈЅοαυνρΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")
_ENOUGH = 3  # words cut by invisible characters; honest soft hyphens stand in longer ones


def find_hidden(text: str) -> list[Finding]:
    """Hidden text in a text that is not ASCII alone."""
    found = []
    if _ANY.search(text):
        found += [*_smuggled(text), *_cut_words(text), *_turned(text)]
    if _FOREIGN.search(text):
        found += _mixed(text)
    return found


def smuggled_texts(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, text) of what tag characters and variation selectors spell."""
    for m in _TAGS.finditer(text):
        if not _is_flag(text, m.start(), m[0]):
            yield (
                m.start(),
                m.end(),
                "".join(chr(ord(c) - 0xE0000) for c in m[0] if ord(c) > 0xE001F),
            )
    for m in _SELECTORS.finditer(text):
        if len(m[0]) > 3:
            data = bytes(ord(c) - (0xFE00 if ord(c) < 0x10000 else 0xE0100 - 16) for c in m[0])
            yield m.start(), m.end(), data.decode(errors="replace")
    for m in _RUN.finditer(text):
        yield from _binary(m)


def _binary(run: re.Match[str]) -> Iterator[tuple[int, int, str]]:
    signs = sorted(set(run[0]))
    if len(signs) != 2 or len(run[0]) < 24:
        return
    for zero in signs:
        ones = "".join("0" if c == zero else "1" for c in run[0])
        octets = [ones[i : i + 8] for i in range(0, len(ones) - 7, 8)]
        decoded = bytes(int(o, 2) for o in octets)
        if decoded.isascii():
            yield run.start(), run.end(), decoded.decode()


def _is_flag(text: str, start: int, tags: str) -> bool:
    return start > 0 and text[start - 1] == "\U0001f3f4" and _FLAG.fullmatch(tags) is not None


def _smuggled(text: str) -> Iterator[Finding]:
    for m in _TAGS.finditer(text):
        if not _is_flag(text, m.start(), m[0]):
            yield Finding(HIDDEN, m.start(), m.end(), 0.95)
    for m in _SELECTORS.finditer(text):
        before = text[m.start() - 1] if m.start() else ""
        if len(m[0]) == 1 and before and unicodedata.name(before, "").startswith("CJK"):
            continue  # a variant of a Han character
        yield Finding(HIDDEN, m.start(), m.end(), 0.9 if len(m[0]) > 2 else 0.6)
    for m in _RUN.finditer(text):
        yield Finding(HIDDEN, m.start(), m.end(), 0.85)


def _cut_words(text: str) -> Iterator[Finding]:
    """Latin words with invisible characters in them: several, or one that a command needs."""
    words = list(_IN_WORD.finditer(text))
    telling = [m for m in words if fold_word(m[0]) in WORDS]
    soft = all("\u00ad" in m[0] and len(m[0]) > 10 for m in words)
    if not words or (soft and not telling):
        return
    if len(words) >= _ENOUGH or telling:
        score = 0.8 if len(words) >= _ENOUGH else 0.6
        yield Finding(HIDDEN, words[0].start(), words[-1].end(), score)


def _turned(text: str) -> Iterator[Finding]:
    """Directions forced where no text runs from right to left, and marks left open in a line."""
    right_to_left = any(unicodedata.bidirectional(c) in ("R", "AL") for c in text[:20_000])
    for m in _FORCED.finditer(text):
        yield Finding(HIDDEN, m.start(), m.end(), 0.4 if right_to_left else 0.8)
    for line in re.finditer(r"[^\n]+", text):
        marks = _BIDI.findall(line[0])
        if len(marks) > 1 and not right_to_left:
            opened = sum(c in "\u2066\u2067\u2068" for c in marks)
            if opened != marks.count("\u2069"):
                yield Finding(HIDDEN, *line.span(), 0.6)


def _mixed(text: str) -> Iterator[Finding]:
    """Words of Latin letters some of which are twins of another script."""
    for m in _WORD.finditer(text):
        word = m[0]
        if word.isascii():
            continue
        twins = [c in _TWINS for c in word]
        latin = [c < "\u0250" for c in word]
        if not any(twins) or not any(latin) or not all(map(max, twins, latin)):
            continue
        turns = sum(a != b for a, b in pairwise(latin))
        if turns > 1 or not latin[0] or fold_word(word) in WORDS:
            yield Finding(HIDDEN, m.start(), m.end(), 0.7)
