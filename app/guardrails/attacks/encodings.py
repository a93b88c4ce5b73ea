"""Stretches of a text that stand for another text, with that text."""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator

from app.guardrails.attacks.lexicon import CIPHERED, shifted
from app.guardrails.attacks.view import View

Decoded = tuple[int, int, str]  # start, end, what the stretch says
LEAST = 20  # characters of a stretch
_64 = r"[A-Za-z0-9+/_\-]"
_BASE64 = re.compile(
    rf"(?<!{_64}){_64}{{{LEAST},}}(?:\r?\n{_64}{{{LEAST},}})*(?:\r?\n{_64}+={{1,2}}|={{0,2}})"
)
_BASE32 = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}(?![A-Za-z0-9])={0,6}")
_HEX = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:0x)?[0-9A-Fa-f]{2}[ :,]{0,2}){9,}(?:0x)?[0-9A-Fa-f]{2}(?![0-9A-Za-z])"
)
_BINARY = re.compile(r"(?<!\d)(?:[01]{8}\s?){5,}[01]{8}(?!\d)")
_DECIMAL = re.compile(r"(?<![\d.])(?:\d{2,3}[ ,]{1,2}){11,}\d{2,3}(?![\d.])")
_ENTITY = re.compile(r"&#(?:\d{2,7}|x[0-9A-Fa-f]{2,6});?")
_ESCAPE = re.compile(r"\\(?:u\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_MORSE = re.compile(r"(?<![.\-])(?:[.\-]{1,6}(?: {1,3}| ?[/|] ?)){7,}[.\-]{1,6}(?![.\-])")
_CODES = (  # noqa: SIM905
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- "
    "...- .-- -..- -.-- --.. ----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
).split()
_LETTERS = dict(zip(_CODES, "abcdefghijklmnopqrstuvwxyz0123456789", strict=True))
_MANY = 4  # escapes of a kind that are reason to read the text without them


def decoded(text: str, longest: int) -> Iterator[Decoded]:
    """Each stretch that decodes to readable text.

    ``longest`` is the length of the longest stretch without white space.
    """
    if longest >= LEAST:
        yield from _each(_BASE64, text, from_base64)
        yield from _each(_BASE32, text, from_base32)
    if sum(c in text for c in ("69", "6e", "6E", "20", "65")) > 1:
        yield from _each(_HEX, text, _from_hex)
    if "10" in text or "11" in text:
        yield from _each(_DECIMAL, text, _from_decimal)
    if "01" in text:
        yield from _each(_BINARY, text, _from_binary)
    if "-." in text or ".-" in text:
        for m in _MORSE.finditer(text):
            yield m.start(), m.end(), _from_morse(m[0])
    yield from _escaped(text)


def _each(pattern: re.Pattern[str], text: str, decode: Callable[[str], bytes]) -> Iterator[Decoded]:
    for m in pattern.finditer(text):
        try:
            said = readable(decode(m[0]))
        except (binascii.Error, ValueError):
            continue
        if said is not None:
            yield m.start(), m.end(), said


def from_base64(given: str) -> bytes:
    """What base64 says, in either alphabet, padded or not."""
    letters = "".join(given.split()).rstrip("=").replace("-", "+").replace("_", "/")
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return base64.b64decode(letters + "=" * (-len(letters) % 4))


def from_base32(given: str) -> bytes:
    """What base32 says, padded or not."""
    letters = given.rstrip("=").upper()
    return base64.b32decode(letters + "=" * (-len(letters) % 8))


def _from_hex(given: str) -> bytes:
    return bytes.fromhex(re.sub(r"0x|[ :,]", "", given))


def _from_decimal(given: str) -> bytes:
    return bytes(int(code) for code in re.findall(r"\d+", given))


def _from_binary(given: str) -> bytes:
    digits = "".join(given.split())
    return bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))


def _from_morse(given: str) -> str:
    words = re.split(r" ?[/|] ?| {3}", given)
    return " ".join("".join(_LETTERS.get(c, "") for c in w.split()) for w in words)


def readable(data: bytes) -> str | None:
    """``data`` as text, when it is one: nearly all of it printable."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:  # else the last character is cut
            return None
        text = data[: error.start].decode()
    shown = sum(c.isprintable() or c in "\n\t\r" for c in text)
    return text if len(text) >= 8 and shown >= 0.95 * len(text) else None


def _escaped(text: str) -> Iterator[Decoded]:
    """The text without its escapes, from the first to the last of a kind."""
    if text.count("&#") >= _MANY:
        yield from _region(_ENTITY, text, html.unescape)
    if text.count("\\u") + text.count("\\x") >= _MANY:
        yield from _region(_ESCAPE, text, lambda part: _ESCAPE.sub(_character, part))
    if text.count("%") >= _MANY - 1:
        for m in re.finditer(r"\S+", text):
            if len(_PERCENT.findall(m[0])) >= _MANY - 1:
                octets = _PERCENT.sub(lambda p: chr(int(p[0][1:], 16)), m[0])
                said = octets.encode("latin-1", "replace").decode(errors="replace")
                yield m.start(), m.end(), said.replace("+", " ")


def _region(pattern: re.Pattern[str], text: str, decode: Callable[[str], str]) -> Iterator[Decoded]:
    found = [m.span() for m in pattern.finditer(text)]
    if len(found) >= _MANY:
        start, end = found[0][0], found[-1][1]
        # words of which only a letter is escaped reach beyond it
        while start > 0 and text[start - 1].isalpha():
            start -= 1
        while end < len(text) and text[end].isalpha():
            end += 1
        yield start, end, decode(text[start:end])


def _character(match: re.Match[str]) -> str:
    point = int(match[1] or match[2] or match[3], 16)
    return chr(point) if point < 0x110000 and not 0xD800 <= point < 0xE000 else "?"


def deciphered(view: View, words: frozenset[str]) -> Iterator[View]:
    """The view read backwards or in another alphabet, where telling words stand in cipher."""
    counts: dict[int, int] = {}
    for word in words & CIPHERED.keys():
        counts[CIPHERED[word]] = counts.get(CIPHERED[word], 0) + 1
    for shift, count in counts.items():
        if count < 2:
            continue
        if shift:
            yield View(shifted(view.text, shift), view.places)
        else:
            yield View(view.text[::-1], [*(view.places or range(len(view.text)))][::-1])
