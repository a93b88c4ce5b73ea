"""Dividing a reply into stretches in which an attack lies whole, however it comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.guardrails.attacks.own_prompt import Leak, OwnPrompt, words_in

CONTEXT = 256  # characters before a stretch that are looked at with it
MOST_TOKEN = 2_048  # characters without white space; longer ones are cut
MOST_HELD = 8_192  # characters of a stretch; a private key has some 6,400 at most
MOST_CODES = 1_024  # of one that is held because numbers or codes follow each other
MOST_SAID = 600  # after "my instructions are"
_SPACE = re.compile(r"\s")
# words in which and with which no attack can begin
_PLAIN = re.compile(
    r"(?:(?!(?:is|are|says?|reads?|states|begins?|starts?|follows?)\b)"
    r"[A-Za-zÀ-ɏ]{1,15}(?:['’][a-z]{1,2})?[,;.!?)]{0,2}\s+)+"
)
_STRANGE = re.compile(
    "[\u200b-\u200d\u2060-\u2064\ufeff\u00ad\u180e\u034f\u115f\u1160\u3164\uffa0\u202a-\u202e"
    "\u2066-\u2069\ufe00-\ufe0f\U000e0000-\U000e01ef]|[A-Za-z][^\\s]*[\u0370-\u052f]"
    "|[\u0370-\u052f][^\\s]*[A-Za-z]"
)
_DIGIT = re.compile(r"\d")
_EDGES = "[](){}\"'`"
_CODE = re.compile(  # what texts in hex, binary, decimals, Morse and lines of base64 are made of
    r"(?:0x)?[0-9A-Fa-f]{2}[,:;]?|(?:[0-9A-Fa-f]{2}[:,]?){4,}|[01]{8}"
    r"|(?:9|10|13|3[2-9]|[4-9]\d|1[01]\d|12[0-6]),?|[.\-]{1,6}|/|[A-Za-z0-9+/_\-]{20,}={0,2}"
)
_ESCAPED = re.compile(r"&#x?[0-9A-Fa-f]{2}|\\[ux][0-9A-Fa-f]{2}")
_KEY = "-----BEGIN"
_KEY_ENDS = re.compile(r"-----END[A-Z ]{0,40}-----")
_NAMES_KEY = 60  # characters after the beginning in which a key names itself
_FORCED = re.compile("[\u202d\u202e][^\u202c\n]{0,500}\\Z")
# the model begins to tell what it was told; the rest of the paragraph says whether it does
_ANNOUNCES = re.compile(
    r"(?:\b(?:my|these are my|here are my|here is my|here's my) (?:\w+ ){0,2}"
    r"(?:system (?:prompt|message|instructions?)|prompt|instructions|guidelines|developer message)"
    r"|\bi (?:was|have been|am|was also) (?:\w+ )?(?:given|told|instructed|configured|prompted)"
    r"(?: \w+){0,4}|\b(?:the|an?) (?:text|message|prompt|instructions?) (?:above|before)"
    r"(?: \w+){0,4})"
    r"(?: \w+){0,4}? ?(?::|\b(?:says?|reads?|states?|is|are|begins?|starts?|follows?)[:,]?)\Z"
)
_SAYING = (":", " says", " say", " reads", " read", " states", " is", " are", " begins", " begin",
           " starts", " start", " follows", " follow")  # fmt: skip
_AFTER = " \t\r\n*_`\"'“”"
_MARKS = re.compile(r"[*_`\"'“”]+")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a reply; ``text`` is to be judged, ``before`` went before it.

    ``start`` is its place in the reply. ``suspect``: there may be an attack in it. ``announced``:
    it is what the model said its instructions are. ``leaks``: words of the own prompt, with
    places in the reply.
    """

    before: str
    text: str
    start: int
    suspect: bool
    announced: bool
    leaks: tuple[Leak, ...] = ()


class Stretches:
    """Divides one reply.

    A stretch ends after the first white space behind a word unless what came so far may be the
    beginning of an attack. That looks at nothing behind, so the places do not depend on the
    pieces in which the reply comes; an ordinary word waits for its end alone.
    """

    def __init__(self, prompt: OwnPrompt | None) -> None:
        self._runs = prompt.runs() if prompt else None
        self._text = ""  # context, then what is held
        self._offset = 0  # of it in the reply
        self._begin = self._at = self._seen = 0  # of the stretch, of the word, of the search
        self._suspect = self._announced = False
        self._codes = 0

    def feed(self, chunk: str, *, final: bool = False) -> Iterator[Stretch]:
        """Take a piece; what ends in it, with ``final`` also the rest.

        Stretches without suspicion come together as one.
        """
        self._text += chunk
        text = self._text
        done = self._begin  # what has been given
        while self._at < len(text):
            if self._at == self._begin and (end := self._plain(text)) > self._at:
                self._begin = self._at = self._seen = end
                continue
            gap = _SPACE.search(text, self._seen)
            end = gap.end() if gap else len(text)
            if end - self._at > MOST_TOKEN:
                end = self._at + MOST_TOKEN
            elif gap is None and not final:
                self._seen = len(text)
                break
            start, self._at, self._seen = self._at, end, end
            if not self._holds(text, start, end) or end - self._begin > MOST_HELD:
                begin = self._begin
                if (found := self._close(text, end)) is not None:
                    if done < begin:
                        yield self._unsuspected(text, done, begin)
                    yield found
                    done = end
        if final and self._begin < len(text):
            begin = self._begin
            if (found := self._close(text, len(text))) is not None:
                if done < begin:
                    yield self._unsuspected(text, done, begin)
                yield found
                done = len(text)
        if done < self._begin:
            yield self._unsuspected(text, done, self._begin)
        forget = max(0, self._begin - CONTEXT)
        self._text, self._offset = text[forget:], self._offset + forget
        self._begin, self._at, self._seen = (
            place - forget for place in (self._begin, self._at, self._seen)
        )

    def _plain(self, text: str) -> int:
        """The end of the words from here on that need no closer look."""
        if self._codes or self._announced or (self._runs is not None and self._runs.holds):
            return self._at
        match = _PLAIN.match(text, self._at)
        if match is None:
            return self._at
        if self._runs is None:
            return match.end()
        return self._runs.pass_over(text, self._at, match.end())

    def _unsuspected(self, text: str, start: int, end: int) -> Stretch:
        return Stretch("", text[start:end], self._offset + start, False, False)

    def _holds(self, text: str, start: int, end: int) -> bool:
        """Whether the stretch goes on after the word ``text[start:end]`` and its white space."""
        token = text[start:end].rstrip()
        if self._runs is not None and token:
            for word, first, last in words_in(token):
                base = self._offset + start
                self._runs.step(word, base + first, base + last)
        holds = self._runs is not None and self._runs.holds
        if not token:
            return self._goes_on(text, end) or holds
        size = len(token)
        if (
            size >= 16
            or (size >= 8 and _DIGIT.search(token))
            or "://" in token
            or "\\" in token
            or "&#" in token
            or (not token.isascii() and _STRANGE.search(token))
        ):
            self._suspect = True
        bare = token.strip(_EDGES)
        if _CODE.fullmatch(bare) and (self._codes or len(bare) >= 20 or not bare.isalpha()):
            self._codes += 1
            if self._codes > 1:
                self._suspect = True
                holds = holds or end - self._begin <= MOST_CODES
        else:
            self._codes = 0
        if self._suspect and _ESCAPED.search(token):
            holds = True
        return self._goes_on(text, end) or holds

    def _goes_on(self, text: str, end: int) -> bool:
        """Whether a key, a turned direction or announced instructions are still open."""
        begin = self._begin
        key = text.rfind(_KEY, begin, end)
        if key >= 0:
            self._suspect = True
            named = end - key < _NAMES_KEY or "KEY" in text[key : key + _NAMES_KEY]
            if named and not _KEY_ENDS.search(text, key, end):
                return True
        if self._suspect and not text.isascii():
            turned = max(text.rfind(sign, begin, end) for sign in "\u202d\u202e")
            if turned >= 0 and _FORCED.search(text, turned, end):
                return True
        if self._announced:
            ended = text.endswith("\n\n", begin, end) and text[begin:end].strip()
            return not ended and end - begin <= MOST_SAID
        return False

    def _close(self, text: str, end: int) -> Stretch | None:
        """End the stretch; None where nothing in it is suspect."""
        leaks: tuple[Leak, ...] = ()
        if self._runs is not None:
            if self._runs.holds:
                self._runs.cut(self._offset + end)
            leaks = tuple(self._runs.found)
            self._runs.found.clear()
        begin, suspect, announced = self._begin, self._suspect, self._announced
        self._announced = not announced and announces(text, end)
        self._begin, self._suspect = end, False
        if not (suspect or announced or leaks):
            return None
        before = text[max(0, begin - CONTEXT) : begin]
        held, start = text[begin:end], self._offset + begin
        return Stretch(before, held, start, suspect or announced, announced, leaks)


def announces(text: str, end: int) -> bool:
    """Whether the model says, up to ``text[:end]``, that its instructions follow."""
    if not text[max(0, end - 20) : end].rstrip(_AFTER).lower().endswith(_SAYING):
        return False
    said = _MARKS.sub("", text[max(0, end - CONTEXT) : end]).rstrip().lower()
    return said.endswith(_SAYING) and _ANNOUNCES.search(said) is not None
