"""Looking for attacks in one text: as it stands, as it is read, and as it decodes."""

from __future__ import annotations

import re

from app.guardrails.attacks.credentials import SECRET, find_secrets
from app.guardrails.attacks.encodings import deciphered, decoded
from app.guardrails.attacks.exfiltration import EXFILTRATION, find_exfiltration
from app.guardrails.attacks.hidden import HIDDEN, find_hidden, smuggled_texts
from app.guardrails.attacks.instructions import find_instructions, words_of
from app.guardrails.attacks.rules import INJECTION, LEAK
from app.guardrails.attacks.view import View, fold
from app.guardrails.entities import ATTACK_ENTITIES
from app.guardrails.findings import Finding, without_overlaps

ENCODED = "ENCODED_PAYLOAD"
_TOLD = frozenset({INJECTION, LEAK})
_PAYLOADS = frozenset({INJECTION, LEAK, EXFILTRATION})
DEEPEST = 2  # encodings within each other
SURE = 0.5  # a decoded text counts from this score on
_CARRY_OUT = re.compile(
    r"\b(?:decode|decrypt|decipher|unscramble|base64|rot13|hex)\b[^\n]{0,80}"
    r"\b(?:carry out|execute|follow|obey|do what|act on|act upon|comply|run it)\b"
)


def find_attacks(text: str, wanted: frozenset[str], *, untrusted: bool) -> list[Finding]:
    """Return the attacks of the wanted types in order, without overlaps within a type.

    Spans are those of ``text``, also of what was found in its folded or decoded form. A passage
    of a document or the result of a tool is ``untrusted``: no instruction to a model belongs in
    it. Scores lie in 0..1; from 0.5 on a finding is worth acting on.
    """
    found = _examine(text, wanted & ATTACK_ENTITIES, untrusted, 0)
    kept: list[Finding] = []
    for entity in {f.entity for f in found}:
        kept += without_overlaps([f for f in found if f.entity == entity])
    return sorted(kept, key=lambda f: (f.start, f.end, f.entity))


def _examine(text: str, wanted: frozenset[str], untrusted: bool, depth: int) -> list[Finding]:
    found: list[Finding] = []
    longest = max(map(len, text.split()), default=0)
    if SECRET in wanted:
        found += find_secrets(text, longest)
    if EXFILTRATION in wanted:
        found += find_exfiltration(text)
    if HIDDEN in wanted and not text.isascii():
        found += find_hidden(text)
    view = fold(text)
    words = words_of(view)
    told = wanted & _TOLD
    if told:
        found += find_instructions(view, words, told, untrusted=untrusted)
    if told or ENCODED in wanted:
        found += _in_cipher(view, words, wanted)
    if depth < DEEPEST and not wanted <= {HIDDEN}:
        found += _within(text, longest, view, wanted, depth)
    return found


def _in_cipher(view: View, words: frozenset[str], wanted: frozenset[str]) -> list[Finding]:
    found: list[Finding] = []
    for plain in deciphered(view, words):
        for f in find_instructions(plain, words_of(plain), _TOLD, untrusted=True):
            found += _as_wanted(f.start, f.end, [f], wanted)
    return found


def _within(
    text: str, longest: int, view: View, wanted: frozenset[str], depth: int
) -> list[Finding]:
    """What stands in the encoded stretches of a text, each at the span of its stretch."""
    found: list[Finding] = []
    inner = _PAYLOADS | (wanted & {SECRET})
    stretches = list(decoded(text, longest))
    for start, end, said in stretches:
        found += _as_wanted(start, end, _examine(said, inner, True, depth + 1), wanted)
    if not text.isascii():
        for start, end, said in smuggled_texts(text):
            inside = _examine(said, inner, True, depth + 1)
            found += [f for f in _as_wanted(start, end, inside, wanted) if f.entity != ENCODED]
    if stretches and ENCODED in wanted and _CARRY_OUT.search(view.text):
        start, end, _ = max(stretches, key=lambda s: s[1] - s[0])
        found.append(Finding(ENCODED, start, end, 0.6))
    return found


def _as_wanted(
    start: int, end: int, inside: list[Finding], wanted: frozenset[str]
) -> list[Finding]:
    """Findings at the place of what they were read from: their own types, and the encoding."""
    sure = [f for f in inside if f.score >= SURE]
    found = [Finding(f.entity, start, end, f.score) for f in sure if f.entity in wanted]
    payloads = [f.score for f in sure if f.entity in _PAYLOADS]
    if payloads and ENCODED in wanted:
        found.append(Finding(ENCODED, start, end, max(payloads)))
    return found
