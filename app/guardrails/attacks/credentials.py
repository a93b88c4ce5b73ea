"""Keys, tokens and passwords in a text: known forms by their form, others by name and entropy."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from app.guardrails.findings import Finding

SECRET = "SECRET"  # noqa: S105
_EDGE = r"(?<![A-Za-z0-9_\-])"
_END = r"(?![A-Za-z0-9_\-])"


@dataclass(frozen=True, slots=True)
class _Form:
    """``signs``: strings of which one is in every match; the last group is the secret."""

    signs: tuple[str, ...]
    pattern: re.Pattern[str]
    score: float = 0.95


def _token(signs: str, pattern: str, score: float = 0.95) -> _Form:
    return _Form(tuple(signs.split()), re.compile(f"{_EDGE}({pattern}){_END}"), score)


_FORMS: tuple[_Form, ...] = (
    _token("AKIA ASIA", r"(?:AKIA|ASIA)[A-Z2-7]{16}"),
    _token("ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,251}"),
    _token("github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _token("glpat-", r"glpat-[A-Za-z0-9_\-]{20,64}"),
    _token("xox", r"xox[abeoprs]-[A-Za-z0-9\-]{20,200}"),
    _token("xapp-", r"xapp-\d-[A-Za-z0-9\-]{20,200}"),
    _token("_live_", r"[srp]k_live_[A-Za-z0-9]{16,120}"),
    _token("whsec_", r"whsec_[A-Za-z0-9+/]{24,80}"),
    _token("sk-", r"sk-(?:[a-z]{2,12}-)?(?:[a-z]{2,8}\d{0,2}-)?[A-Za-z0-9_\-]{20,220}"),
    _token("osk-", r"osk-[A-Za-z0-9_\-]{28,196}"),
    _token("AIza", r"AIza[A-Za-z0-9_\-]{35}"),
    _token("ya29.", r"ya29\.[A-Za-z0-9_\-]{20,400}"),
    _token("hf_", r"hf_[A-Za-z0-9]{30,60}"),
    _token("npm_", r"npm_[A-Za-z0-9]{36}"),
    _token("pypi-", r"pypi-[A-Za-z0-9_\-]{40,300}"),
    _token("dop_v1_", r"dop_v1_[a-f0-9]{64}"),
    _token("shpat_", r"shpat_[a-fA-F0-9]{32}"),
    _token("SG.", r"SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{32,64}"),
    _Form(("AccountKey", "SharedAccessKey"), re.compile(
        r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{30,120}={0,2})")),
    _Form(("hooks.slack.com",), re.compile(r"(hooks\.slack\.com/services/[A-Za-z0-9/]{30,80})")),
    _token(":AA", r"\d{8,10}:AA[A-Za-z0-9_\-]{33}"),
    _Form(("curl ",), re.compile(
        r"\bcurl [^\n]{0,120}?(?:-u|--user)[ =][^\s:]{1,60}:([^\s\"']{6,80})"), 0.8),
    _Form(("PRIVATE KEY",), re.compile(
        r"(-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
        r"[A-Za-z0-9+/=\s\\:,\-]{40,20000}?(?:-----END [A-Z ]{0,30}-----|\Z))")),
    _Form(("://",), re.compile(
        r"\b[a-z][a-z0-9+.\-]{1,30}://[^\s:/@\"'<>]{0,80}:([^\s@\"'<>]{3,120})@[A-Za-z0-9\[]"),
        0.85),
)  # fmt: skip
_JWT = re.compile(
    rf"{_EDGE}(eyJ[A-Za-z0-9_\-]{{8,2000}})\.(eyJ[A-Za-z0-9_\-]{{2,8000}})\.[A-Za-z0-9_\-]{{16,2000}}"
)
_NAMES = ("pass", "pw", "pwd", "secret", "token", "key", "wort", "credential", "bearer", "contrase",
          "wachtw", "hasło")  # fmt: skip
_NAMED = re.compile(
    r"(?:passw(?:ord|ort|d)|\bpass|\bpw|passphrase|pwd|kennwort|mot de passe|contraseña|"
    r"wachtwoord|hasło|"
    r"secret(?:[_-]?(?:access)?[_-]?key)?|api[_-]?key|access[_-]?(?:key|token)|auth[_-]?token|"
    r"bearer|token|client[_-]?secret|credentials?)"
    r"[\"']?(?:\s{0,3}(?:=>|:=|=|:)\s{0,3}|\s(?:is|lautet|ist|est|es|è)\s|\s)"
    r"(?:[\"'`]([^\"'`\s]{8,200})[\"'`]|([^\s\"'`<>,;]{8,200}))"
)
_HONEST = re.compile(
    r"example|x{4}|\*{3}|\.{3}|…|0{8}|your|change|redacted|dummy|placeholder|sample|insert|"
    r"12345678|abcdefgh|^<|^\$|^\{|\{\{|\$\{|%\(|[(\[]|^(?:process|os|env|self|settings|config)\.|"
    r"none$|null$|true$|false$|test_?key|fake|todo",
    re.IGNORECASE,
)
_WORDY = re.compile(
    r"(?:password|passwd|passwort|secret|admin|root|user|guest|pass|demo|test)\d{0,4}$", re.I
)
_HEX = re.compile(r"[0-9a-fA-F]+")
_JWT_IO = "eyJzdWIiOiIxMjM0NTY3ODkwI"  # the payload that the makers of JWT show
LEAST = 16  # characters without a gap in each known form
LEAST_BITS = 2.7  # a character; of a value told by its name alone


def find_secrets(text: str, longest: int) -> list[Finding]:
    """Secrets, each span exactly the secret, so that it can be masked.

    ``longest`` is the length of the longest stretch without white space.
    """
    found: list[Finding] = []
    if longest >= LEAST:
        found += _known(text)
    low = text.lower()
    if any(name in low for name in _NAMES):
        found += _named(text, low if len(low) == len(text) else text)
    return found


def _known(text: str) -> Iterator[Finding]:
    for form in _FORMS:
        if not any(sign in text for sign in form.signs):
            continue
        for m in form.pattern.finditer(text):
            value = m[1]
            if _is_honest(value) or (form.signs[0] == "sk-" and bits(value[3:]) < 3.5):
                continue
            if form.signs[0] == "://" and _WORDY.match(value):
                continue
            yield Finding(SECRET, m.start(1), m.end(1), form.score)
    if "eyJ" in text:
        for m in _JWT.finditer(text):
            if _is_header(m[1]) and not m[2].startswith(_JWT_IO):
                yield Finding(SECRET, m.start(), m.end(), 0.95)


def _named(text: str, low: str) -> Iterator[Finding]:
    for m in _NAMED.finditer(low):
        group = 1 if m[1] else 2
        value = text[m.start(group) : m.end(group)].rstrip(".!?)")
        said = m[0][: m.start(group) - m.start()]
        if _is_honest(value) or _WORDY.match(value) or not _is_random(value):
            continue
        by_sign = any(c in said for c in "=:") or group == 1
        score = 0.8 if by_sign else 0.6
        yield Finding(SECRET, m.start(group), m.start(group) + len(value), score)


def _is_honest(value: str) -> bool:
    """Whether the value stands for a secret rather than being one."""
    if value.startswith("-----"):
        return "..." in value or "…" in value
    return _HONEST.search(value) is not None or len(set(value)) < 6


def _is_random(value: str) -> bool:
    kinds = [
        any(c.islower() for c in value),
        any(c.isupper() for c in value),
        any(c.isdigit() for c in value),
        any(not c.isalnum() for c in value),
    ]
    if not kinds[2] or sum(kinds) < 2:
        return False
    if value.startswith(("http://", "https://", "/", "./")):
        return False
    if _HEX.fullmatch(value) and len(value) < 20:
        return False  # versions and short sums
    return bits(value) >= LEAST_BITS and (sum(kinds) > 2 or len(value) >= 16)


def bits(value: str) -> float:
    """Entropy of the characters of ``value``, bits a character."""
    total = len(value)
    return -sum(n / total * math.log2(n / total) for n in Counter(value).values())


def _is_header(part: str) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header
