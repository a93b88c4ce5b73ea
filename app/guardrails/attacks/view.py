"""A text as its reader sees it: lower case, one script, nothing invisible, places remembered."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_LOOKALIKES = dict(
    zip(
        "авекмнорстухіјѕԁԛԝһαειηκνορτυχıłøđßæœ",
        "abekmhopctyxijsdqwhaeihkvoptuxilodsao",
        strict=True,
    )
)
_SMALL_CAPITALS = dict(zip("ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdeghijklmnoprstuvwyz", strict=True))
_QUOTES = {**dict.fromkeys("‘’‚‛′", "'"), **dict.fromkeys("“”„‟«»″", '"')}
_SAME = {**_LOOKALIKES, **_SMALL_CAPITALS, **_QUOTES}
_LETTERS_IN_BOXES = (0x1F150, 0x1F170, 0x1F1E6)  # their first A
_GONE = "\0"


class _Folding(dict[int, str]):
    """Code point -> the one character that it is read as; filled as characters come."""

    def __missing__(self, point: int) -> str:
        self[point] = found = _folded(chr(point))
        return found


def _folded(char: str) -> str:
    for first in _LETTERS_IN_BOXES:
        if first <= ord(char) < first + 26:
            return chr(ord("a") + ord(char) - first)
    base = unicodedata.normalize("NFKD", char)[:1]
    kind = unicodedata.category(base)
    if kind in ("Cf", "Mn", "Me", "Cn", "Co", "Cs") or base in "\u115f\u1160\u3164\uffa0":
        return _GONE
    if kind in ("Zs", "Zl", "Zp"):
        return "\n" if kind != "Zs" else " "
    small = base.casefold()[:1]
    return _SAME.get(small, small)


_FOLDING = _Folding({point: chr(point).lower() for point in range(128)})


_FOREIGN = re.compile(r"[^\x00-\x7f]+")


@dataclass(frozen=True, slots=True)
class View:
    """A folded text; ``places[i]`` is where its character i stands, none when all stay put."""

    text: str
    places: list[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original span of ``text[start:end]``."""
        if self.places is None:
            return start, end
        first, last = self.places[start], self.places[end - 1]
        return min(first, last), max(first, last) + 1  # a text read backwards begins at its end

    def without(self, places: Iterator[tuple[int, int]]) -> View:
        """The same view with some stretches cut out."""
        kept: list[int] = []
        parts: list[str] = []
        last = 0
        for start, end in [*places, (len(self.text), len(self.text))]:
            parts.append(self.text[last:start])
            kept += self.places[last:start] if self.places is not None else range(last, start)
            last = end
        return View("".join(parts), kept)


def fold(text: str) -> View:
    """The view of ``text``."""
    folded = text
    if not text.isascii():
        folded = _FOREIGN.sub(lambda m: m[0].translate(_FOLDING), text)
    folded = folded.lower()
    if _GONE not in folded:
        return View(folded)
    places = [i for i, char in enumerate(folded) if char != _GONE]
    return View(folded.replace(_GONE, ""), places)


def fold_word(word: str) -> str:
    """A word as it stands in a view."""
    return word.translate(_FOLDING).replace(_GONE, "")


_SPACED = re.compile(r"(?<![^\W_])[^\W\d_](?:[ \t._*/|\-]{1,4}[^\W\d_](?![^\W_])){5,}")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_HYPHENATED = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)+")
_SIGN = re.compile(r"(?<=[^\W_])[!@$|](?=[^\W_])|(?<!\S)[!@$](?=[^\W\d_])")
_SIGNS = {"!": "i", "@": "a", "$": "s", "|": "l"}


def spaced_runs(view: View) -> Iterator[list[View]]:
    """The words of each stretch whose letters stand apart; one long word if no gap is wider."""
    for run in _SPACED.finditer(view.text):
        letters = list(re.finditer(r"[^\W\d_]", run[0]))
        gaps = [run[0][a.end() : b.start()] for a, b in pairwise(letters)]
        usual = min(gaps, key=len)
        words: list[list[int]] = [[run.start()]]
        for gap, letter in zip(gaps, letters[1:], strict=True):
            if len(gap) > len(usual) or (gap.isspace() and not usual.isspace()):
                words.append([])
            words[-1].append(run.start() + letter.start())
        places = view.places
        yield [
            View("".join(view.text[i] for i in word), [places[i] if places else i for i in word])
            for word in words
        ]


def joined(view: View, known: frozenset[str]) -> View | None:
    """The view without hyphens in words, when that makes ``known`` words of several."""
    if "-" not in view.text:
        return None
    words = [w.replace("-", "") for w in _HYPHENATED.findall(view.text)]
    if sum(len(w) > 4 and w in known for w in words) < 2:
        return None
    return view.without(m.span() for m in _HYPHEN.finditer(view.text))


def letters_for_signs(text: str) -> str:
    """``p@ss`` -> ``pass``; as long as before."""
    if not any(sign in text for sign in _SIGNS):
        return text
    return _SIGN.sub(lambda m: _SIGNS[m[0]], text)
