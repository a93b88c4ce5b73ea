"""Whether the passages found can answer the question: our decision, not the model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.llm.sentences import is_prose, names, spans, terms, windows
from app.retrieval.types import Hit, Passage, embedded_text

JUDGED = 10  # passages scored by the cross-encoder
KEPT = 4  # passages given to the model
BEST_SENTENCES = 24  # parts of passages scored for quoting
NOT_PROSE = 1.0  # logits that a part in code or a fragment must be better to be quoted
# The cross-encoder knows an answer when it sees one, but also doubts what is asked in other words
# or in keywords: below the least its logit says nothing, and beyond the most it is sure.
LEAST_LOGIT, MOST_LOGIT = 1.0, 6.0
RARE = 1500  # a collection hardly knows a word that one passage of so many holds

# Fitted by benchmarks/calibrate_gate.py on app/samples/calibration.jsonl, never on the
# evaluation questions: a logistic regression that counts an answer beside the question as bad
# as a needless refusal, so that the default threshold of 0.5 is where it should be.
WEIGHTS = (0.49, 8.026, -3.429, -5.438)  # of the four features, in the order of `measure`
BIAS = -5.712


Features = tuple[float, float, float, float]


class Scorer(Protocol):
    """A cross-encoder; ``score`` gives relevance in 0..1, float32 array of shape (n,)."""

    def score(self, query: str, texts: list[str]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Grounds:
    """The passages an answer may rest on, best first, and how sure we are that they do."""

    passages: list[Passage]
    relevance: float
    answerable: bool


def rare_words(held: int, frequencies: dict[str, int]) -> set[str]:
    """The words of a question that a collection hardly knows.

    What a manual cannot answer is often asked in words that it never uses. Of fewer than
    ``RARE / 2`` passages this says nothing, and no word is rare.

    Args:
        held: how many passages the collection has.
        frequencies: how many of them hold each telling word of the question.
    """
    return {word for word, passages in frequencies.items() if (passages + 0.5) * RARE <= held}


def judge(
    scorer: Scorer, question: str, hits: Sequence[Hit], rare: set[str], threshold: float
) -> Grounds:
    """Order the hits by cross-encoder and first-stage score and decide; blocking.

    ``rare`` are the :func:`rare_words` of the question. ``relevance`` is the probability, in
    0..1, that the passages answer the question; under ``threshold`` they count as not
    answering. The first stage keeps a say (one quarter) in the order, because the
    cross-encoder alone lowered nDCG@10 on Cranfield from 0.417 to 0.387.
    """
    top = list(hits[:JUDGED])
    if not top:
        return Grounds([], 0.0, False)
    values, scores = measure(scorer, question, top, rare)
    ranked = sorted(range(len(top)), key=lambda i: -(0.75 * float(scores[i]) + 0.25 * top[i].score))
    relevance = estimate(values)
    return Grounds([top[i].passage for i in ranked[:KEPT]], relevance, relevance >= threshold)


def measure(
    scorer: Scorer, question: str, hits: Sequence[Hit], rare: set[str]
) -> tuple[Features, NDArray[np.float32]]:
    """What the decision rests on, for at least one hit; blocking.

    Returns:
        The features, and how relevant each hit is, float32 array of shape (n,) in 0..1. The
        features are: the logit of the best relevance, within 1 to 6; the cosine of the nearest
        hit; 1 when a name in the question stands in no passage, else 0; the share (0..1) of
        the question's words that are rare and that the most relevant passage lacks. Each is
        of one passage, not a mean over several: in a store of three documents the second
        best is about something else, and a mean refused 56 of 63 answerable questions there.
    """
    texts = [shown(h.passage) for h in hits]
    scores = np.max([scorer.score(part, texts) for part in _readings(question)], axis=0)
    best = float(np.clip(scores.max(), 1e-6, 1 - 1e-6))
    logit = float(np.clip(np.log(best / (1 - best)), LEAST_LOGIT, MOST_LOGIT))
    nearest = max((h.dense for h in hits if h.dense is not None), default=0.0)
    found = [terms(t) for t in texts]
    missing = names(question) - set[str]().union(*found)
    strange = terms(" ".join(rare)) - found[int(scores.argmax())]
    share = len(strange) / max(1, len(terms(question)))
    return (logit, nearest, float(bool(missing)), share), scores


def _readings(question: str) -> list[str]:
    """The question, and the last of its sentences: people tell a story and then ask."""
    parts = [question[a:b] for a, b in spans(question)]
    return [question, *parts[-2:]] if len(parts) > 1 else [question]


def estimate(values: Features) -> float:
    """Probability, in 0..1, that passages with these features answer the question."""
    total = BIAS + sum(w * v for w, v in zip(WEIGHTS, values, strict=True))
    return float(1 / (1 + np.exp(-total)))


def best_sentences(
    scorer: Scorer, question: str, passages: Sequence[Passage]
) -> list[tuple[float, str, Passage]]:
    """Parts of one or two sentences, scored against the question, best first; blocking.

    Each part is an exact substring of its passage's text; the scores are logits.
    """
    wanted = terms(question)
    parts = [(w, p) for p in passages[:3] for w in windows(p.text, 400, across=True)]
    found = [(w, p) for w, p in parts if 25 <= len(w) <= 500]
    # the cross-encoder reads only those of the best passage, or that share words with the question
    found.sort(key=lambda pair: -len(wanted & terms(pair[0])) - 2 * (pair[1] is passages[0]))
    found = found[:BEST_SENTENCES] or [(p.text[:400].strip(), p) for p in passages[:1]]
    logits = relevance_of(scorer, question, [_titled(s, p) for s, p in found])
    scored = [
        (logit if is_prose(part) else logit - NOT_PROSE, part, passage)
        for logit, (part, passage) in zip(logits, found, strict=True)
    ]
    return sorted(scored, key=lambda item: -item[0])


def relevance_of(scorer: Scorer, question: str, texts: list[str]) -> list[float]:
    """How well each text answers the question, as the cross-encoder's logit; blocking."""
    scores = np.clip(scorer.score(question, texts).astype(np.float64), 1e-7, 1 - 1e-7)
    return [float(v) for v in np.log(scores / (1 - scores))]


def _titled(part: str, passage: Passage) -> str:
    """The part under the title of its own section: "Default: 0" alone says nothing."""
    title = (passage.section or "").rpartition(" > ")[2]
    return f"{title}: {part}" if title else part


def shown(passage: Passage) -> str:
    """A passage as the cross-encoder and the embedder read it: under its section's title."""
    return embedded_text(passage.section, passage.text)
