"""Finding surrogates in what a model writes, whole or in pieces, and giving their values back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.errors import Unavailable
from app.guardrails.findings import Finding

# While a reply is screened, one character stands for each surrogate: no recognizer takes it for
# a part of a value, and no cut of a stream can divide it. Unicode gives this plane no meaning.
_FIRST, _LAST = 0xF0000, 0xFFFFD
_STANDING = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_BETWEEN = re.compile(f"[^{chr(_FIRST)}-{chr(_LAST)}]+")
_TELLING = re.compile(r"\w{2}")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_EDGE = r"(?<![A-Za-z0-9_])"
_EDGE_IN_JSON = rf"(?:{_EDGE}|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{{4}}))"  # behind an escape
_CONTEXT = 6  # characters before a surrogate that decide about it


class Surrogates:
    """The surrogates of a call at one moment, ready to be found in a text.

    The leftmost is found, and the longest of those that begin at one place. One that begins or
    ends with a letter or digit is none inside of a longer word.
    """

    def __init__(self, values: Mapping[str, str], *, structured: bool) -> None:
        self.values = values
        edge = _EDGE_IN_JSON if structured else _EDGE
        self._edge = re.compile(edge)
        longest = sorted(values, key=len, reverse=True)
        parts = [
            (edge if s[0].isalnum() else "")
            + re.escape(s)
            + (r"(?![A-Za-z0-9_])" if s[-1].isalnum() else "")
            for s in longest
        ]
        self._pattern = re.compile("|".join(parts) or r"(?!)")
        self._longest = len(longest[0]) if longest else 0
        self._begun = {s[:n] for s in longest for n in range(1, len(s) + s[-1].isalnum())}

    def first(self, text: str, start: int) -> re.Match[str] | None:
        """The first surrogate from ``start`` on."""
        return self._pattern.search(text, start)

    def open_from(self, text: str, start: int) -> int:
        """Where what can still become a surrogate begins: the end of the text if nothing can."""
        for place in range(max(start, len(text) - self._longest), len(text)):
            if text[place:] in self._begun and (
                not text[place].isalnum() or self._edge.match(text, place)
            ):
                return place
        return len(text)


class Cover:
    """Puts one character in the place of each surrogate of one text, and values there at last.

    Args:
        structured: the text is JSON: values are escaped as its strings are, and become strings
            where none is open.
    """

    def __init__(self, surrogates: Surrogates, *, structured: bool) -> None:
        self._surrogates, self._structured = surrogates, structured
        self._held = self._before = ""
        self._in_string = self._escaped = False
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
            if found is None or found.start() >= held:
                break
            parts += [self._passed(text[at : found.start()]), self._covered(found[0])]
            at = found.end()
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
        if self._structured:
            for character in text:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = self._in_string
                elif character == '"':
                    self._in_string = not self._in_string
        return _STANDING.sub(lambda m: self._standing(m[0], m[0]), text)

    def _covered(self, surrogate: str) -> str:
        value = self._surrogates.values[surrogate]
        if self._structured:
            quoted = json.dumps(value, ensure_ascii=False)
            if self._in_string:
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
