"""The values that retrieval hands to the other rooms."""

from __future__ import annotations

from dataclasses import dataclass

AttributeValue = str | float | bool


@dataclass(frozen=True, slots=True)
class Passage:
    """One searchable piece of a document, with where it came from."""

    id: str
    file_id: str
    filename: str
    ordinal: int
    text: str
    page: int | None
    section: str | None
    attributes: dict[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that search found; ``score`` lies in 0..1, higher is better."""

    passage: Passage
    score: float
    dense: float | None
    lexical: float | None
