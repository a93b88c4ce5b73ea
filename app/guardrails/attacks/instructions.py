"""Finding instructions that set a model's own aside, or ask for them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.guardrails.attacks.lexicon import (
    ABOUT,
    END,
    LEXICON,
    LONG,
    OTHER,
    REPORTED,
    WORDS,
    mask,
    part,
)
from app.guardrails.attacks.markup import unseen
from app.guardrails.attacks.phrases import IDIOMS, PHRASES
from app.guardrails.attacks.rules import INJECTION, RULES
from app.guardrails.attacks.templates import TEMPLATES
from app.guardrails.attacks.view import View, joined, letters_for_signs, spaced_runs
from app.guardrails.findings import Finding

_BLANKS = {point: " " for point in range(128) if not chr(point).isalnum()}
_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(
    r"\w+|(?<![\"'`\])}])[,:](?=\s)|[.!?]+[\"')\]]*(?=\s|\Z)|\n[^\S\n]*(?:\n|[*+\-•#|] )"
)
_QUOTED = re.compile(r"\"[^\"\n]{3,300}\"|`[^`\n]{3,300}`")
_CODE = re.compile(r"`[^`\n]{3,300}`")
_SENTENCE = re.compile(r"[.!?]+[\"')\]]*(?:\s|\Z)|\n[^\S\n]*\n")
_ALL_PHRASES = (*PHRASES, *TEMPLATES)
_IN_PHRASES = frozenset(w for p in _ALL_PHRASES for w in p.needs)
_IN_IDIOMS = frozenset(w for needs, _, _ in IDIOMS for w in needs)
NEAR = 200  # characters between cues that count as one attempt
MENTIONED = 0.35  # of its score is left to what is quoted in a text about attacks
RUN_TOGETHER = 20  # letters of a word that may be several without gaps
_LONG_WORD = re.compile(r"(?<![a-z])[a-z]{20,400}(?![a-z])")
DISGUISED = 0.65  # of the doubt is left where letters or syllables stand apart
HIDDEN_PLACE = 0.45  # of the doubt is left where the reader does not see the text
_BY_LETTER = {
    length: frozenset(w for w in LONG if len(w) == length) for length in {len(w) for w in LONG}
}


@dataclass(frozen=True, slots=True)
class _Cue:
    entity: str
    name: str
    weight: float
    start: int
    end: int


def words_of(view: View) -> frozenset[str]:
    """The different words of a view."""
    if view.text.isascii():
        return frozenset(view.text.translate(_BLANKS).split())
    return frozenset(_WORD.findall(view.text))


def find_instructions(
    view: View,
    words: frozenset[str],
    wanted: frozenset[str],
    *,
    untrusted: bool,
) -> list[Finding]:
    """Prompt injection and prompt leakage in a view whose words are ``words``."""
    found = _in(view, words, wanted, untrusted)
    if sum(len(w) == 1 for w in words) > 4:
        for run in spaced_runs(view):
            found += _in_spaced(run, wanted, untrusted)
    if any(len(w) >= RUN_TOGETHER and w.isalpha() and w.isascii() for w in words):
        base = view.places or range(len(view.text))
        for m in _LONG_WORD.finditer(view.text):
            found += _in_spaced([View(m[0], [*base[m.start() : m.end()]])], wanted, untrusted)
    if (whole := joined(view, WORDS)) is not None:
        found += _disguised(_in(whole, words_of(whole), wanted, untrusted))
    signless = letters_for_signs(view.text)
    if signless != view.text:
        plain = View(signless, view.places)
        found += _in(plain, words_of(plain), wanted, untrusted)
    return found


def _in(
    view: View,
    words: frozenset[str],
    wanted: frozenset[str],
    untrusted: bool,
) -> list[Finding]:
    text = view.text
    cues: list[_Cue] = []
    if not words.isdisjoint(_IN_IDIOMS):
        for needs, idiom, word in IDIOMS:
            if not needs.isdisjoint(words):
                text, count = idiom.subn(_Padded(word), text)
                words |= {word} if count else set()
    if not words.isdisjoint(_IN_PHRASES):
        cues += _phrases(text, words, wanted, untrusted)
    known = words & WORDS
    present = {LEXICON[w] for w in known}
    present |= {part(w) for w in words - known if len(w) > 9 or not (w.isalpha() or w.isdecimal())}
    parts = mask([*present, *(c for c in ",:" if c in text)])
    rules = [
        rule
        for rule in RULES
        if parts & rule.rarest
        and all(map(parts.__and__, rule.needs))
        and rule.entity in wanted
        and (untrusted or not rule.untrusted_only)
    ]
    about, reported = not ABOUT.isdisjoint(words), not REPORTED.isdisjoint(words)
    if rules:
        tokens = _TOKEN.findall(text)
        letter_of = {token: _letter(token) for token in set(tokens)}
        letters = "".join([letter_of[token] for token in tokens])
        spans: list[tuple[int, int]] = []
        for rule in rules:
            for m in rule.pattern.finditer(letters):
                if not spans:
                    spans = [t.span() for t in _TOKEN.finditer(text)]
                told_of = reported and _is_told_of(letters[max(0, m.start() - 5) : m.start()])
                weight = rule.weight * (MENTIONED if told_of else 1)
                start, end = spans[m.start()][0], spans[m.end() - 1][1]
                cues.append(_Cue(rule.entity, rule.name, weight, start, end))
    if not cues:
        return []
    places = unseen(text)
    return [
        Finding(entity, *view.span(start, end), score)
        for entity, start, end, score in _attempts(text, cues, about, places)
    ]


def _is_told_of(before: str) -> bool:
    """Whether the sentence tells of others up to here: it neither begins nor speaks to "you"."""
    own = before.rpartition(END)[2]
    return own[-1:] not in ("", ",", ":", "N") and "U" not in own and "Y" not in own


class _Padded:
    """Puts a word for a phrase, with blanks to its length, so that places stay right."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __call__(self, match: re.Match[str]) -> str:
        return self._word.ljust(len(match[0]))[: len(match[0])]


def _letter(token: str) -> str:
    if token[0].isalnum() or token[0] == "_":
        return part(token)
    if token[0] in ",:":
        return token
    return OTHER if token.startswith("..") else END  # dots that trail off end no sentence


def _phrases(
    text: str, words: frozenset[str], wanted: frozenset[str], untrusted: bool
) -> Iterator[_Cue]:
    for phrase in _ALL_PHRASES:
        if phrase.entity not in wanted or phrase.needs.isdisjoint(words):
            continue
        if untrusted or not phrase.untrusted_only:
            for m in phrase.pattern.finditer(text):
                yield _Cue(phrase.entity, phrase.name, phrase.weight, m.start(), m.end())


def _attempts(
    text: str, cues: list[_Cue], about: bool, places: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, int, int, float]]:
    """(entity, start, end, score) of the stretches in which cues lie close together."""
    quoted = [m.span() for m in (_QUOTED if about else _CODE).finditer(text)]
    for entity in {cue.entity for cue in cues}:
        own = sorted((c for c in cues if c.entity == entity), key=lambda c: c.start)
        group: list[_Cue] = []
        end = 0
        for cue in own:
            if group and cue.start - end > NEAR:
                yield _attempt(text, group, quoted, places)
                group = []
            group.append(cue)
            end = max(end, cue.end) if len(group) > 1 else cue.end
        yield _attempt(text, group, quoted, places)


def _attempt(
    text: str,
    group: list[_Cue],
    quoted: Sequence[tuple[int, int]],
    places: Sequence[tuple[int, int]],
) -> tuple[str, int, int, float]:
    start, end = min(c.start for c in group), max(c.end for c in group)
    weights: dict[str, float] = {}
    for cue in group:
        quote = quoted[max(0, bisect_left(quoted, (cue.start, 0)) - 1)] if quoted else (0, 0)
        mentioned = quote[0] < cue.start and cue.end < quote[1]
        weight = cue.weight * (MENTIONED if mentioned else 1)
        weights[cue.name] = max(weights.get(cue.name, 0.0), weight)
    doubt = 1.0
    for weight in weights.values():
        doubt *= 1 - weight
    if group[0].entity == INJECTION and any(a < end and start < b for a, b in places):
        doubt *= HIDDEN_PLACE
    before = [m.end() for m in _SENTENCE.finditer(text, max(0, start - NEAR), start)]
    start = before[-1] if before else start
    after = _SENTENCE.search(text, max(start, end - 1), end + NEAR)
    if after is not None:
        end = max(end, after.start() + len(after[0].rstrip()))
    return group[0].entity, start, end, round(1 - doubt, 3)


def _in_spaced(run: list[View], wanted: frozenset[str], untrusted: bool) -> list[Finding]:
    text, places = "", []
    for word in run:
        known = [word] if part(word.text) != "." or len(word.text) < 8 else _split(word)
        for piece in known:
            assert piece.places is not None
            text += piece.text + " "
            places += [*piece.places, piece.places[-1]]
    if not text:
        return []
    view = View(text, places)
    found = _in(view, words_of(view), wanted, untrusted)
    first, last = run[0].span(0, len(run[0].text)), run[-1].span(0, len(run[-1].text))
    return _disguised([Finding(f.entity, first[0], last[1], f.score) for f in found])


def _disguised(found: list[Finding]) -> list[Finding]:
    return [replace(f, score=round(1 - (1 - f.score) * DISGUISED, 3)) for f in found]


def _split(word: View) -> list[View]:
    """The long words of the lexicon in letters without gaps; those between are left out."""
    found, at = [], 0
    text, places = word.text, word.places
    assert places is not None
    lengths = sorted(_BY_LETTER, reverse=True)
    while at < len(text):
        for length in lengths:
            if text[at : at + length] in _BY_LETTER[length]:
                found.append(View(text[at : at + length], places[at : at + length]))
                at += length
                break
        else:
            at += 1
    return found
