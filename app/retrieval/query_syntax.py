"""What the marks in a query ask for: quotes, a leading plus, a leading minus."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A sign counts only before a word or a quote, and at the start of a word: ``-5``, ``--no-deps``,
# ``-m``, ``well-known`` and a list's ``- item`` are plain text.
_PART = re.compile(
    r"""
    (?:(?<!\S)(?P<sign>[+-])(?=["“„«]|[^\W\d_][\w+\#]))?
    (?:
        (?<!\w)["“„«] (?P<phrase>[^"“”„«»]*) ["”“»](?!\w)
      | (?P<word>[^\s"“”„«»]+ | ["“”„«»])
    )
    """,
    re.X,
)


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """A query by what its parts ask for.

    Attributes:
        plain: words that may be there, as one text.
        phrases: what must be there, word for word (``"like this"`` and ``+"like this"``).
        required: words that must be there (``+this``).
        excluded: words that must not be there (``-this``).
        excluded_phrases: what must not be there, word for word (``-"like this"``).
    """

    plain: str
    phrases: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    excluded_phrases: tuple[str, ...] = ()

    @property
    def strict(self) -> bool:
        """Whether anything must or must not be there."""
        return bool(self.phrases or self.required or self.excluded or self.excluded_phrases)


def parse(query: str, operators: bool = True) -> ParsedQuery:
    """Take a query apart; any text is a query.

    A query that only excludes is taken as plain text: there would be nothing to look for.

    Args:
        query: what the user wrote.
        operators: whether quotes and signs mean something; without, all is plain.
    """
    if not operators:
        return ParsedQuery(query)
    plain: list[str] = []
    phrases: list[str] = []
    required: list[str] = []
    excluded: list[str] = []
    excluded_phrases: list[str] = []
    for part in _PART.finditer(query):
        sign, phrase, word = part["sign"], part["phrase"], part["word"]
        if phrase is not None:
            if re.search(r"[^\W_]", phrase):
                (excluded_phrases if sign == "-" else phrases).append(phrase)
        elif sign == "+":
            required.append(word)
        elif sign == "-":
            excluded.append(word)
        else:
            plain.append(word)
    if not (plain or phrases or required):
        return ParsedQuery(query)
    return ParsedQuery(
        " ".join(plain),
        tuple(phrases),
        tuple(required),
        tuple(excluded),
        tuple(excluded_phrases),
    )
