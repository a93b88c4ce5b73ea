"""Finding surrogates in what a model writes, whole or in pieces, and giving their values back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.errors import Unavailable
from app.guardrails.findings import Finding
from app.guardrails.json_strings import JsonStrings

# While a reply is screened, one character stands for each surrogate: no recognizer takes it for
# a part of a value, and no cut of a stream can divide it. Unicode gives this plane no meaning.
_FIRST, _LAST = 0xF0000, 0xFFFFD
_STANDING = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_BETWEEN = re.compile(f"[^{chr(_FIRST)}-{chr(_LAST)}]+")
_TELLING = re.compile(r"\w{2}")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
START = 2  # characters by which phrases are looked up
_EDGE, _END = re.compile(r"(?<![A-Za-z0-9_])"), re.compile(r"(?![A-Za-z0-9_])")
_EDGE_IN_JSON = re.compile(  # also behind an escape
    rf"(?:{_EDGE.pattern}|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{{4}}))"
)
_CONTEXT = 6  # characters before a surrogate that decide about it


class Phrases:
    """Many words and phrases, found in a text at once.

    The leftmost is found, and the longest of those that begin at one place. One that begins or
    ends with a letter or digit is none where ``before`` or ``after`` do not match: inside of a
    longer word. A pattern of all of them would take longer to compile than a text to search.
    """

    def __init__(
        self, phrases: Iterable[str], before: re.Pattern[str], after: re.Pattern[str]
    ) -> None:
        self._before, self._after = before, after
        self._by_start: dict[str, list[str]] = {}
        self._longest = 0
        for phrase in sorted(phrases, key=len, reverse=True):
            self._longest = max(self._longest, len(phrase))
            self._by_start.setdefault(phrase[:START], []).append(phrase)
        first = "".join({start[0] for start in self._by_start})
        self._first = re.compile(f"[{re.escape(first)}]" if first else r"(?!)")

    def first(self, text: str, start: int) -> tuple[int, int] | None:
        """Where the first of them lies, from ``start`` on."""
        for match in self._first.finditer(text, start):
            place = match.start()
            for phrase in self._by_start.get(text[place : place + START], ()):
                end = place + len(phrase)
                if (
                    text.startswith(phrase, place)
                    and (not _is_word(phrase[0]) or self._before.match(text, place))
                    and (not _is_word(phrase[-1]) or self._after.match(text, end))
                ):
                    return place, end
        return None

    def open_from(self, text: str, start: int) -> int:
        """Where what can still become one begins: the end of the text if nothing can."""
        for match in self._first.finditer(text, max(start, len(text) - self._longest)):
            place = match.start()
            if self._can_become(text[place:]) and (
                not _is_word(text[place]) or self._before.match(text, place)
            ):
                return place
        return len(text)

    def _can_become(self, begun: str) -> bool:
        if len(begun) < START:
            return any(s.startswith(begun) for s in self._by_start)
        return any(
            phrase.startswith(begun) and (phrase != begun or _is_word(phrase[-1]))
            for phrase in self._by_start.get(begun[:START], ())
        )


class Surrogates(Phrases):
    """The surrogates of a call at one moment, with their values."""

    def __init__(self, values: Mapping[str, str], *, structured: bool) -> None:
        super().__init__(values, _EDGE_IN_JSON if structured else _EDGE, _END)
        self.values = values


class Cover:
    """Puts one character in the place of each surrogate of one text, and values there at last.

    Args:
        structured: the text is JSON: values are escaped as its strings are, and become strings
            where none is open.
    """

    def __init__(self, surrogates: Surrogates, *, structured: bool) -> None:
        self._surrogates = surrogates
        self._strings = JsonStrings() if structured else None
        self._held = self._before = ""
        self._places: dict[tuple[str, str], str] = {}
        self._shown: dict[str, str] = {}
        self._named: dict[str, str] = {}

    def feed(self, chunk: str, *, final: bool = False) -> str:
        """Take a piece and return what cannot become a surrogate any more, covered."""
        text = self._before + self._held + chunk
        at, parts = len(self._before), list[str]()
        while True:
            held = len(text) if final else self._surrogates.open_from(text, at)
            found = self._surrogates.first(text, at)
            if found is None or found[0] >= held:
                break
            start, end = found
            parts += [self._passed(text[at:start]), self._covered(text[start:end])]
            at = end
        parts.append(self._passed(text[at:held]))
        self._before, self._held = text[max(0, held - _CONTEXT) : held], text[held:]
        return "".join(parts)

    def finish(self) -> str:
        """The rest, covered; the text has ended."""
        return self.feed("", final=True)

    def reveal(self, text: str) -> str:
        """A covered text with the values of its surrogates."""
        return _STANDING.sub(lambda m: self._shown[m[0]], text) if self._shown else text

    def names(self, text: str) -> str:
        """A covered text with its surrogates, as the model wrote it."""
        return _STANDING.sub(lambda m: self._named[m[0]], text) if self._named else text

    def _passed(self, text: str) -> str:
        if self._strings is not None:
            self._strings.follow(text)
        return _STANDING.sub(lambda m: self._standing(m[0], m[0]), text)

    def _covered(self, surrogate: str) -> str:
        value = self._surrogates.values[surrogate]
        if self._strings is not None:
            quoted = json.dumps(value, ensure_ascii=False)
            if self._strings.inside:
                value = quoted[1:-1]
            elif not _NUMBER.fullmatch(value):
                value = quoted
        return self._standing(surrogate, value)

    def _standing(self, named: str, shown: str) -> str:
        known = self._places.get((named, shown))
        if known is None:
            if len(self._places) > _LAST - _FIRST:
                raise Unavailable(
                    "The reply holds more surrogates than can be told apart, so it was refused. "
                    "Ask for less at a time.",
                    code="guardrail_unavailable",
                )
            known = self._places[named, shown] = chr(_FIRST + len(self._places))
            self._named[known], self._shown[known] = named, shown
        return known


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def restored(surrogates: Surrogates, text: str, *, structured: bool) -> str:
    """A whole text with the values of its surrogates."""
    cover = Cover(surrogates, structured=structured)
    return cover.reveal(cover.feed(text, final=True))


def apart_from_covered(text: str, findings: Sequence[Finding]) -> list[Finding]:
    """What findings hold besides covered surrogates, which are the caller's own values."""
    left: list[Finding] = []
    for found in findings:
        if not _STANDING.search(text, found.start, found.end):
            left.append(found)
            continue
        for match in _BETWEEN.finditer(text, found.start, found.end):
            if _TELLING.search(match[0]):
                start = match.start() + len(match[0]) - len(match[0].lstrip())
                end = match.start() + len(match[0].rstrip())
                left.append(replace(found, start=start, end=end))
    return left


def changed_strings(value: Any, change: Any, name: str = "") -> Any:
    """A JSON value with its strings changed, by ``change(text, name of its field)``."""
    if isinstance(value, str):
        return change(value, name)
    if isinstance(value, list):
        return [changed_strings(v, change, name) for v in value]
    if isinstance(value, dict):
        return {n: changed_strings(v, change, n) for n, v in value.items()}
    return value
