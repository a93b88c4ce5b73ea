"""Finding personal data: Presidio's recognizers where an entity can be, spaCy for names."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from app.guardrails.catalogue import CATALOGUE, recognizer
from app.guardrails.context import in_context
from app.guardrails.entities import NER_ENTITIES, NER_SCORE, PATTERN_ENTITIES
from app.guardrails.findings import Finding, beside, without_overlaps
from app.guardrails.languages import ENGLISH, EVERY, Languages, called, regions, spoken
from app.guardrails.names import NER_MODEL, NameFinder, digest
from app.guardrails.patterns import Recognizer
from app.guardrails.phones import phone_cores
from app.guardrails.recognizers import counts, pattern_recognizers
from app.guardrails.segments import segments, windows
from app.guardrails.tokens import TOKEN

REMEMBERED = 4096  # texts whose findings are remembered, by hash
LEAST = 64  # characters; a shorter text is looked through as fast
# A model needs words around a name: "Ada Reyes says so." alone tells it too little. So a short
# window is looked at with some of what is before it, which a stream still holds.
SHORT, BEFORE = 48, 32  # characters
_BLANK = re.compile(r"\s+")
_DIGIT = re.compile(r"\d")
Known = tuple[  # text, start, types, own recognizers, languages
    bytes, int, frozenset[str], tuple[Recognizer, ...], Languages
]


class PiiDetector:
    """Runs Presidio's pattern recognizers on the stretches that can hold an entity.

    Presidio's own engine tokenizes each text with spaCy, also when only patterns are asked
    for; its recognizers alone give the same findings without that. The types of the catalogue
    and those of a policy's own recognizers are looked for sentence by sentence.

    Args:
        ner_models: the spaCy models that find names, by language; English has one anyway.
    """

    def __init__(self, ner_models: Mapping[str, str] | None = None) -> None:
        self.names = NameFinder({"en": NER_MODEL} | dict(ner_models or {}))
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
        languages: Languages = ENGLISH,
    ) -> list[Finding]:
        """Return the findings in order, without overlaps; blocking when names are wanted.

        Args:
            start: where to begin; what is before it has been looked at, and is context.
            custom: a policy's own recognizers.
            apart: types whose findings may lie over others, and take no other's place.
            languages: those that the text may be in, in alphabetical order.

        Raises:
            MissingExtra: names are wanted, and spaCy or the English model is not installed.
            Unavailable: a pattern took too long or names of a language cannot be found, so
                nothing may pass.
        """
        wanted = frozenset(entities)
        found = self._remembered(text, start, wanted - NER_ENTITIES, custom, languages)
        found = [f for f in found if f.score >= threshold(f.entity)]
        if names := wanted & NER_ENTITIES:
            told = self._find_names(text, start, names, languages)
            told = [f for f in told if f.score >= threshold(f.entity)]
            # a model's guess takes no value that has a form of its own
            formed = [f for f in found if f.entity not in apart]
            guessed = [f for f in told if f.entity not in apart]
            found = found + [f for f in told if f.entity in apart] + beside(guessed, formed, text)
        if found and (tokens := [m.span() for m in TOKEN.finditer(text, start)]):
            found = [f for f in found if not any(a <= f.start and f.end <= b for a, b in tokens)]
        if not apart:
            return without_overlaps(found)
        told = without_overlaps([f for f in found if f.entity in apart])
        return without_overlaps([f for f in found if f.entity not in apart]) + told

    def spans(self, piece: str) -> list[tuple[int, int]]:
        """Where the pattern entities of one piece lie, to cut between them."""
        all_of_it = self._find_patterns(piece, 0, len(piece), PATTERN_ENTITIES, EVERY)
        found = without_overlaps(all_of_it)
        return [(f.start, f.end) for f in found]

    def _remembered(
        self,
        text: str,
        start: int,
        wanted: frozenset[str],
        custom: Sequence[Recognizer],
        languages: Languages,
    ) -> list[Finding]:
        """What patterns find; remembered, as passages and turns come again."""
        own = tuple(r for r in custom if r.entity in wanted)
        key = None
        if len(text) - start >= LEAST:
            key = (digest(text), start, wanted, own, languages)
            with self._patterns_lock:
                if (known := self._patterns.get(key)) is not None:
                    self._patterns.move_to_end(key)
                    return known
        found: list[Finding] = []
        if patterns := wanted & PATTERN_ENTITIES:
            for span in segments(text, self.spans, start):
                found += self._find_patterns(text, span.start, span.end, patterns, languages)
        by_sentence: list[tuple[Recognizer, tuple[str, ...]]] = [
            (recognizer(entity), called(entity, languages)) for entity in sorted(wanted & CATALOGUE)
        ]
        by_sentence += [(each, ()) for each in own]
        if by_sentence:
            by_language = any(each.language is not None for each in own)
            begin = start
            for end in windows(text, start, self.spans, final=True):
                digits = _DIGIT.search(text, begin, end) is not None
                of = spoken(text[begin:end], languages) if by_language else languages
                for each, more in by_sentence:
                    if (each.digits and not digits) or each.language not in (None, *of):
                        continue
                    if each.needs is None or each.needs.search(text, begin, end):
                        found += each.find(text, begin, end, languages, more)
                begin = end
        if key is not None:
            with self._patterns_lock:
                self._patterns[key] = found
                if len(self._patterns) > REMEMBERED:
                    self._patterns.popitem(last=False)
        return found

    def _find_patterns(
        self, text: str, start: int, end: int, wanted: frozenset[str], languages: Languages
    ) -> list[Finding]:
        piece = text[start:end]
        found: list[Finding] = []
        for entity, (needs, theirs) in self._recognizers.items():
            if entity not in wanted or not needs(piece):
                continue
            if entity == "PHONE_NUMBER":
                cores = _open(phone_cores(piece), start, found)
                if not cores:
                    continue
                results = theirs.analyze(piece, [entity], regions(languages), cores)
            else:
                results = theirs.analyze(piece, [entity])
            for result in results:
                if counts(entity, piece[result.start : result.end]):
                    place = start + result.start
                    context = (*theirs.context, *called(entity, languages))
                    score = in_context(result.score, text, place, context, languages)
                    found.append(Finding(entity, place, start + result.end, score))
        return found

    def warm(self, languages: Iterable[str] = ENGLISH, names: Set[str] = frozenset()) -> None:
        """Load the language models of these languages now rather than at the first call.

        Args:
            names: the types that each of them must find.

        Raises:
            MissingExtra: spaCy or the English model is not installed.
            Unavailable: a language has no model, or none that finds these types.
        """
        self.names.require(languages, names)

    def _find_names(
        self, text: str, start: int, wanted: frozenset[str], languages: Languages
    ) -> list[Finding]:
        self.names.require(languages, wanted)
        places, pieces = [], []
        for end in windows(text, start, self.spans, final=True):
            piece = text[start:end]
            if not piece.isspace():
                begin = start if len(piece) > SHORT else _word_after(text, start - BEFORE, start)
                places.append((begin, start))
                pieces.append((text[begin:end], spoken(piece, languages)))
            start = end
        return [
            Finding(entity, max(begin + first, start), begin + last, NER_SCORE)
            for (begin, start), names in zip(places, self.names.find(pieces), strict=True)
            for entity, first, last in names
            if entity in wanted and begin + last > start
        ]


def _word_after(text: str, place: int, end: int) -> int:
    """Where in ``text[place:end]`` the first whole word begins; ``end`` if there is none."""
    if place <= 0:
        return 0
    gap = _BLANK.search(text, place, end)
    return gap.end() if gap else end


def _open(cores: list[tuple[int, int]], offset: int, found: list[Finding]) -> list[tuple[int, int]]:
    """The spans that no surer finding holds; a phone number in the others would lose to it."""
    return [
        (a, b)
        for a, b in cores
        if not any(f.score == 1.0 and f.start <= offset + a and offset + b <= f.end for f in found)
    ]
