"""Where a text can be cut so that no entity is cut: the same places whole and streamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(r"\S+")
# Entities that hold spaces (cards, phones, SSN, IBAN) are made of tokens with a digit, of
# IBAN groups, of punctuation between groups, and of the words before an extension.
_JOINS = re.compile(r".*\d.*|[A-Z0-9]{1,4}|[^\w\s]+|(?i:x|ext|extn|extension)[.:]?", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[^\W\d_]|[\"'(])|\n\s*")
MOST_SENTENCE = 1200  # characters
MOST_TOKEN = 65_536  # characters without a space; longer ones are cut


@dataclass(frozen=True, slots=True)
class Span:
    start: int
    end: int


def joins(token: str) -> bool:
    """Whether a token can be one part of an entity that holds spaces."""
    return _JOINS.fullmatch(token) is not None


def suspicious(token: str) -> bool:
    """Whether a token can be, or hold, a pattern entity.

    Necessary for each of them: an e-mail holds ``@``, an IPv6 address ``:``, a wallet at
    least 26 characters, and all others a digit.
    """
    return (
        "@" in token or "::" in token or len(token) >= 26 or any(c.isdigit() for c in token)
    )


def runs(text: str) -> Iterator[Span]:
    """The stretches of ``text`` in which a pattern entity can lie; the rest holds none.

    A run is a maximal series of joining tokens on one line, or one suspicious token.
    """
    start = end = -1
    found = False
    for match in TOKEN.finditer(text):
        token = match[0]
        if start >= 0 and (not joins(token) or "\n" in text[end : match.start()]):
            if found:
                yield Span(start, end)
            start, found = -1, False
        if joins(token):
            if start < 0:
                start = match.start()
            end = match.end()
            found = found or suspicious(token)
        elif suspicious(token):
            yield Span(match.start(), match.end())
    if start >= 0 and found:
        yield Span(start, end)


def closed_prefix(text: str) -> int:
    """How many leading characters of a stream are complete: no later text joins them.

    The last token may still grow, so it is open; so is a series of joining tokens before it.
    """
    last = len(text)
    while last > 0 and not text[last - 1].isspace():
        last -= 1
    if len(text) - last > MOST_TOKEN:
        return last + MOST_TOKEN
    closed = last
    # walk back over joining tokens on this line: the open token may continue them
    for match in reversed(list(TOKEN.finditer(text[max(0, last - 400) : last]))):
        begin = match.start() + max(0, last - 400)
        if not joins(match[0]) or "\n" in text[begin:last]:
            break
        closed = begin
    return closed


def sentences(text: str) -> Iterator[Span]:
    """Sentence-like windows, in which names are looked for."""
    start = 0
    for match in _SENTENCE_END.finditer(text):
        yield from _bounded(text, start, match.end())
        start = match.end()
    yield from _bounded(text, start, len(text))


def _bounded(text: str, start: int, end: int) -> Iterator[Span]:
    while end - start > MOST_SENTENCE:
        cut = text.rfind(" ", start, start + MOST_SENTENCE) + 1
        cut = cut if cut > start else start + MOST_SENTENCE
        yield Span(start, cut)
        start = cut
    if end > start:
        yield Span(start, end)


def closed_sentences(text: str) -> int:
    """How many leading characters of a stream are whole sentences."""
    closed = 0
    for match in _SENTENCE_END.finditer(text):
        if match.end() < len(text):  # white space at the end may still grow
            closed = match.end()
    return closed
