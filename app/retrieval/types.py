"""The values that retrieval hands to the other rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

AttributeValue = str | float | bool
# of a file, as in OpenAI's API; lengths in characters
MOST_ATTRIBUTES, LONGEST_ATTRIBUTE_NAME, LONGEST_ATTRIBUTE = 16, 64, 512
DENSE_WEIGHT = 0.6  # measured on Cranfield: nDCG@10 0.437, dense alone 0.417, BM25 0.372


def embedded_text(section: str | None, text: str) -> str:
    """A passage as models read it: under its heading path, which holds words of questions."""
    return f"{section}\n{text}" if section else text


class Candidate(NamedTuple):
    """A passage's text and its first-stage score in 0..1."""

    text: str
    score: float


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


Ranker = Literal["cross-encoder", "late-interaction"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How the passages of a search are found and ordered.

    Attributes:
        dense: weight of the vectors, at least 0; 0 leaves them out.
        lexical: weight of the words, at least 0; 0 leaves them out.
        fusion: ``weighted`` sums scaled scores, ``rrf`` sums reciprocal ranks.
        operators: whether quotes, plus and minus in the query mean something.
        ranker: the model that reads the best of what was found; None for none.
        rerank_budget_ms: how long it may; what it does not reach keeps its order.
        near_duplicates: whether passages that are the same but for a few words all stay.
        diversity: in 0..1, how much being unlike what stands before counts.
    """

    dense: float = DENSE_WEIGHT
    lexical: float = 1 - DENSE_WEIGHT
    fusion: Literal["weighted", "rrf"] = "weighted"
    operators: bool = False
    ranker: Ranker | None = None
    rerank_budget_ms: int = 500
    near_duplicates: bool = True
    diversity: float = 0.0


DEFAULT_RANKING = Ranking()


@dataclass(frozen=True, slots=True)
class NewPassage:
    """A passage on its way into the index."""

    number: int
    id: str
    ordinal: int
    text: str
    page: int | None
    section: str | None
    tokens: int
