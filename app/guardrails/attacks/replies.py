"""Looking for attacks in what a model says: what it must not tell, and ways to carry it out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from app.guardrails.attacks.credentials import SECRET, find_secrets
from app.guardrails.attacks.detect import DEEPEST, ENCODED, SURE
from app.guardrails.attacks.encodings import decoded
from app.guardrails.attacks.exfiltration import EXFILTRATION, find_leaving
from app.guardrails.attacks.hidden import HIDDEN, find_hidden, smuggled_texts
from app.guardrails.attacks.instructions import find_instructions, words_of
from app.guardrails.attacks.own_prompt import CERTAIN, OwnPrompt
from app.guardrails.attacks.rules import INJECTION, LEAK
from app.guardrails.attacks.stretches import Stretch, Stretches
from app.guardrails.attacks.view import fold
from app.guardrails.entities import ATTACK_ENTITIES
from app.guardrails.findings import Finding, without_overlaps

IN_REPLIES = ATTACK_ENTITIES - {INJECTION}  # an answer may instruct
_UNESCAPED = {"n": "\n", "r": "\r", "t": "\t", "/": "/", '"': '"', "\\": "\\"}
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|([nrt/\"\\]))")
# how instructions to a model begin, once it said that they follow
_INSTRUCTS = re.compile(
    r"\A[\s\"'“”`*_>#\-–—:,(\[1.]{0,12}(?:that )?"
    r"(?:(?:i|you) (?:am|are|must|should|will|may|can|have to)\b|you're\b|never\b|always\b"
    r"|do not\b|don't\b|act as\b|your (?:task|role|job|name|goal)\b|respond\b|answer\b|only\b"
    r"|keep\b|as an? (?:ai|assistant)\b|if (?:asked|the user)\b)"
)
_PLAINLY = re.compile(r"\A[\s,]{0,3}(?:that )?(?:i|you) (?:am|can|should|will)\b")
SAID = 0.7  # what follows such an announcement


def find_in_reply(
    stretch: Stretch, wanted: frozenset[str], prompt: OwnPrompt | None
) -> list[Finding]:
    """The attacks of the wanted types in a stretch, in order, without overlaps within a type.

    Spans are those of ``stretch.text``; scores lie in 0..1, and from 0.5 on a finding counts.
    """
    found: list[Finding] = []
    for leak in stretch.leaks:
        span = leak.start - stretch.start, leak.end - stretch.start
        found.append(Finding(LEAK, *span, leak.score))
        if leak.encoded and leak.score >= SURE:
            found.append(Finding(ENCODED, *span, leak.score))
    if stretch.suspect:
        offset = len(stretch.before)
        found += [
            replace(f, start=max(0, f.start - offset), end=f.end - offset)
            for f in _examine(stretch.before + stretch.text, wanted, prompt, 0)
            if f.end > offset
        ]
    if stretch.announced and _tells(stretch.text):
        told = stretch.text.strip()
        start = stretch.text.index(told)
        found.append(Finding(LEAK, start, start + len(told), SAID))
    kept: list[Finding] = []
    for entity in {f.entity for f in found} & wanted:
        kept += without_overlaps([f for f in found if f.entity == entity])
    return sorted(kept, key=lambda f: (f.start, f.end, f.entity))


def find_in_whole_reply(
    text: str, wanted: frozenset[str], prompt: OwnPrompt | None = None
) -> list[Finding]:
    """The same of a reply that is there as a whole."""
    return [
        replace(f, start=f.start + stretch.start, end=f.end + stretch.start)
        for stretch in Stretches(prompt if LEAK in wanted else None).feed(text, final=True)
        for f in find_in_reply(stretch, wanted, prompt)
    ]


def _tells(text: str) -> bool:
    low = text.lower()
    return _INSTRUCTS.match(low) is not None and not _PLAINLY.match(low)


def _examine(
    text: str, wanted: frozenset[str], prompt: OwnPrompt | None, depth: int
) -> list[Finding]:
    found = _in_form(text, wanted, prompt, depth)
    if "\\" in text and _ESCAPE.search(text):
        plain, places = _unescaped(text)
        found += [
            replace(f, start=places[f.start], end=places[f.end - 1] + 1)
            for f in _in_form(plain, wanted, prompt, depth)
        ]
    return found


def _in_form(
    text: str, wanted: frozenset[str], prompt: OwnPrompt | None, depth: int
) -> list[Finding]:
    found: list[Finding] = []
    longest = max(map(len, text.split()), default=0)
    if SECRET in wanted:
        found += find_secrets(text, longest)
    if EXFILTRATION in wanted:
        found += find_leaving(text)
    if HIDDEN in wanted and not text.isascii():
        found += find_hidden(text)
    if LEAK in wanted and prompt:
        view = fold(text)
        spans = [view.span(*span) for span in prompt.canaries_in(view.text)]
        found += [Finding(LEAK, *span, CERTAIN) for span in spans]
    if depth < DEEPEST and not wanted <= {HIDDEN}:
        stretches = [*decoded(text, longest)]
        if not text.isascii():
            stretches += smuggled_texts(text)
        for start, end, said in stretches:
            found += _carried(start, end, said, wanted, prompt, depth + 1)
    return found


def _carried(
    start: int, end: int, said: str, wanted: frozenset[str], prompt: OwnPrompt | None, depth: int
) -> list[Finding]:
    """What an encoded stretch says that a reply must not, at the place of the stretch."""
    inside = _examine(said, IN_REPLIES - {HIDDEN}, prompt, depth)
    if prompt:
        inside += [Finding(LEAK, 0, 1, leak.score) for leak in prompt.runs().leaks_in(said)]
    view = fold(said)
    orders = find_instructions(view, words_of(view), frozenset({INJECTION, LEAK}), untrusted=True)
    sure = [f for f in inside if f.score >= SURE]
    scores = [f.score for f in [*sure, *orders] if f.score >= SURE]
    if not scores:
        return []
    found = [Finding(f.entity, start, end, f.score) for f in sure]
    return [f for f in [*found, Finding(ENCODED, start, end, max(scores))] if f.entity in wanted]


def _unescaped(text: str) -> tuple[str, list[int]]:
    """A text without the escapes of JSON, and where each of its characters stands."""
    parts: list[str] = []
    places: list[int] = []
    last = 0
    for m in _ESCAPE.finditer(text):
        parts.append(text[last : m.start()])
        places += range(last, m.start())
        char = _UNESCAPED[m[2]] if m[2] else chr(int(m[1], 16))
        parts.append("?" if "\ud800" <= char <= "\udfff" else char)
        places.append(m.end() - 1)
        last = m.end()
    parts.append(text[last:])
    places += range(last, len(text))
    return "".join(parts), places


def apart_from_quotes(
    text: str, findings: Sequence[Finding], quotes: Sequence[int]
) -> list[Finding]:
    """Findings in JSON, divided at the quotes of its strings, so that it stays JSON."""
    left: list[Finding] = []
    for f in findings:
        start = f.start
        for at in [*(q for q in quotes if f.start <= q < f.end), f.end]:
            if any(c.isalnum() for c in text[start:at]):
                left.append(replace(f, start=start, end=at))
            start = at + 1
    return left
