"""An answer from documents: what was found for its question, and the pieces that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.llm.citations import Citation
from app.llm.gate import Grounds
from app.retrieval.types import Hit


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the answer: its text and the citations behind it."""

    text: str
    citations: Sequence[Citation]
    score: float | None = None  # how far its passage bears it out, where that is judged


@dataclass(slots=True)
class Search:
    """What was looked for and found for one question."""

    question: str
    hits: list[Hit]
    grounds: Grounds
    decided: list[Piece] | None = None  # the answer, where it was checked before it begins
    mend: str = ""  # why the model is asked once more
    unborne: int = 0  # sentences of the model that no passage bears out
