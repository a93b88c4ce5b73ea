"""The pseudonyms of one call: which surrogate stands for which value, and the way back."""

from __future__ import annotations

import hmac
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from app.errors import Unavailable
from app.guardrails import surrogates as forms
from app.guardrails.findings import Finding, exchanged
from app.guardrails.restoring import Cover, Phrases, Surrogates, restored
from app.guardrails.tokens import Tokens

SHORTEST = 3  # characters of a known value that is replaced where nothing was found
_BEFORE, _AFTER = re.compile(r"(?<!\w)"), re.compile(r"(?!\w)")
_CARD_GROUPS, _IBAN_GROUPS = re.compile(r"\d{1,4}"), re.compile(r"[A-Z0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class Stand:
    """What stands in the place of ``text[start:end]``; ``entity`` is of the value."""

    entity: str
    start: int
    end: int
    by: str


@dataclass(slots=True)
class Pseudonyms:
    """Stand for the values of one conversation of one tenant.

    A surrogate is drawn from the tenant's key, the conversation and the value, so that the same
    turns give the same ones without anything being kept. It is drawn again where it is already
    another's, or stands in a text.

    Args:
        scope: the conversation; in another, other surrogates stand for the same values.
        structured: the reply is JSON.
    """

    tokens: Tokens
    scope: str
    structured: bool = False
    values: dict[str, str] = field(default_factory=dict)  # by surrogate
    variants: dict[str, str] = field(default_factory=dict)  # other ways to write surrogates
    stands: dict[str, tuple[str, str]] = field(default_factory=dict)  # entity, surrogate; by value
    _texts: list[str] = field(default_factory=list)  # in which no surrogate may stand
    _ready: dict[bool, Surrogates] = field(default_factory=dict)
    _known: Phrases | None = None

    def __bool__(self) -> bool:
        return bool(self.values)

    def see(self, texts: Iterable[str]) -> None:
        """Take texts whose words are no surrogates from now on."""
        self._texts += [text.casefold() for text in texts]

    def hide(self, texts: Sequence[str], found: Sequence[Sequence[Finding]]) -> list[list[Stand]]:
        """What stands in the place of findings, and of the same values where none was found.

        What is a surrogate by chance is hidden too, so that it is not restored to a value.
        """
        self.see(texts)
        for text, of in zip(texts, found, strict=True):
            for f in of:
                self._stand_for(f.entity, text[f.start : f.end])
        return [self._stands(text, of) for text, of in zip(texts, found, strict=True)]

    def hidden(self, text: str, *, structured: bool = False) -> str:
        """A text with surrogates for the values that are known."""
        self.see([text])
        parts, last = [], 0
        for stand in self._stands(text, (), structured=structured):
            parts += [text[last : stand.start], stand.by]
            last = stand.end
        return "".join([*parts, text[last:]])

    def _stands(
        self, text: str, found: Sequence[Finding], *, structured: bool = False
    ) -> list[Stand]:
        stands = [
            Stand(f.entity, f.start, f.end, self._in_place(text, f.entity, f.start, f.end))
            for f in found
        ]
        taken = [(f.start, f.end) for f in found]
        more = itertools.chain(self._chance(text), self._again(text, structured))
        for entity, start, end in more:
            if all(end <= a or b <= start for a, b in taken):
                taken.append((start, end))
                by = self._in_place(text, entity, start, end, structured)
                stands.append(Stand(entity, start, end, by))
        return sorted(stands, key=lambda s: s.start)

    def _chance(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Where a text holds, by chance, what stands for a value."""
        ready = self._surrogates(False)
        found = ready.first(text, 0) if self.values else None
        while found is not None:
            yield "VALUE", *found
            found = ready.first(text, found[1])

    def _again(self, text: str, structured: bool) -> Iterator[tuple[str, int, int]]:
        """Where a text holds values that are known."""
        known = self._known
        if known is None:
            long = [value for value in self.stands if len(value) >= SHORTEST]
            forms = {form for value in long for form in (value, _quoted(value))}
            known = self._known = Phrases(forms, _BEFORE, _AFTER)
        found = known.first(text, 0)
        while found is not None:
            start, end = found
            value = text[start:end]
            stand = self.stands.get(_unquoted(value) if structured else value)
            if stand is not None:
                yield stand[0], start, end
            found = known.first(text, end)

    def _in_place(
        self, text: str, entity: str, start: int, end: int, structured: bool = False
    ) -> str:
        """The surrogate of ``text[start:end]``; a token where letters touch it."""
        value = _unquoted(text[start:end]) if structured else text[start:end]
        by = self._stand_for(entity, value)
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        if (_glues(before) and _glues(by[0])) or (_glues(after) and _glues(by[-1])):
            return self._token(entity, value)
        return by

    def _stand_for(self, entity: str, value: str) -> str:
        known = self.stands.get(value)
        if known is None:
            name = self._name(value) if entity == "PERSON" else None
            known = entity, name or self._drawn(entity, value)
            self.stands[value] = known
            self._known = None
        return known[1]

    def _name(self, value: str) -> str | None:
        """A name of which each word stands for the same word wherever it is; None: no name."""
        words, parts, last = forms.words_in(value), [], 0
        for number, match in enumerate(words):
            family = 0 < number == len(words) - 1
            parts += [value[last : match.start()], self._word(match[0], family)]
            last = match.end()
        rest = [value[a.end() : b.start()] for a, b in itertools.pairwise(words)]
        touching = [value[m.start() - 1 : m.start()] + value[m.end() : m.end() + 1] for m in words]
        if not words or not all(rest) or any(map(_glues, "".join(touching))):
            return None
        return "".join([*parts, value[last:]])

    def _word(self, word: str, family: bool) -> str:
        known = self.stands.get(word)
        if known is None:
            by = self._first_free("PERSON", word.casefold(), word, 40, _named(word, family))
            known = "PERSON", by or self._token("PERSON", word)
            self.stands[word] = known
            self._known = None
        return known[1]

    def _drawn(self, entity: str, value: str) -> str:
        def make(draw: forms.Draw) -> str | None:
            return forms.alike(entity, value, draw)

        canonical = forms.canonical(entity, value)
        most = forms.spare_draws(entity)
        by = self._first_free(entity, canonical, value, most, make)
        return by or self._token(entity, value)

    def _token(self, entity: str, value: str) -> str:
        for by, of in self.values.items():
            if of == value and by[0] == "<":
                return by
        drawn = self._first_free(entity, value, value, 1_000, lambda d: forms.token(entity, d))
        if drawn is None:
            raise Unavailable(
                "No surrogate could be found for a value, so the call was refused. Send less at "
                "a time.",
                code="guardrail_unavailable",
            )
        return drawn

    def _first_free(
        self,
        entity: str,
        canonical: str,
        value: str,
        most: int,
        make: Callable[[forms.Draw], str | None],
    ) -> str | None:
        for number in range(most):
            what = "\0".join((self.scope, entity, canonical, str(number)))
            by = make(forms.Draw(hmac.digest(self.tokens.naming, what.encode(), "sha256")))
            if by is not None and self._free(by, value):
                self.values[by] = value
                self.variants.pop(by, None)
                for variant, of in _variants(entity, by, value):
                    if self._free(variant, of):
                        self.variants[variant] = of
                self._ready.clear()
                return by
        return None

    def _free(self, by: str, value: str) -> bool:
        folded = by.casefold()
        taken = by in self.values or by in self.stands or self.variants.get(by, value) != value
        return not taken and not any(folded in text for text in self._texts)

    def _surrogates(self, structured: bool) -> Surrogates:
        ready = self._ready.get(structured)
        if ready is None:
            both = {**self.variants, **self.values}
            ready = self._ready[structured] = Surrogates(both, structured=structured)
        return ready

    def cover(self, *, structured: bool = False) -> Cover:
        """What covers the surrogates of one text while it is screened."""
        structured = structured or self.structured
        return Cover(self._surrogates(structured), structured=structured)

    def restored(self, text: str, *, structured: bool = False) -> str:
        """A text with the values of its surrogates."""
        return restored(self._surrogates(structured), text, structured=structured)

    def sealed(self, of: str) -> bytes:
        """The map, encrypted for the tenant and for what it belongs to."""
        kept = [self.scope, self.structured, self.values, self.variants, self.stands]
        return self.tokens.enclosed(orjson.dumps(kept), of)

    @classmethod
    def opened(cls, tokens: Tokens, sealed: bytes, of: str) -> Pseudonyms:
        """The map that :meth:`sealed` kept.

        Raises:
            Unavailable: it cannot be read, by this key or at all.
        """
        try:
            scope, structured, values, variants, stands = orjson.loads(tokens.disclosed(sealed, of))
        except Exception as error:
            raise Unavailable(
                "The pseudonyms of this conversation cannot be read, so the call was refused. "
                "Begin a new conversation, or tell the operator: the guardrail key may have "
                "changed.",
                code="pseudonyms_unavailable",
            ) from error
        known = {value: (entity, by) for value, (entity, by) in stands.items()}
        return cls(tokens, scope, structured, values, variants, known)


def _named(word: str, family: bool) -> Callable[[forms.Draw], str]:
    return lambda draw: forms.word(word, family, draw)


def _variants(entity: str, by: str, value: str) -> Iterator[tuple[str, str]]:
    """Other ways in which a model may write a surrogate, and the value written so."""
    if by[0] == "<":
        yield f"\\u003c{by[1:-1]}\\u003e", value
    elif entity in ("PERSON", "LOCATION", "ORGANIZATION"):
        yield by.upper(), value.upper()
    elif entity == "CREDIT_CARD":
        yield from _regrouped(_CARD_GROUPS, by, value, (" ", "-"))
    elif entity == "IBAN_CODE":
        yield from _regrouped(_IBAN_GROUPS, by.upper(), value.upper(), (" ",))
    elif entity == "US_SSN":
        yield forms.compact(by), forms.compact(value)
    elif entity == "PHONE_NUMBER":
        plus = "+" if by.startswith("+") else ""
        yield plus + forms.compact(by), plus + forms.compact(value)


def _regrouped(
    groups: re.Pattern[str], by: str, value: str, signs: Sequence[str]
) -> Iterator[tuple[str, str]]:
    made, original = forms.compact(by), forms.compact(value)
    yield made, original
    for sign in signs:
        yield sign.join(groups.findall(made)), sign.join(groups.findall(original))


def _glues(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _unquoted(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def standing(text: str, stands: Sequence[Stand]) -> str:
    """A text with what stands in the place of its values."""
    places = sorted(stands, key=lambda s: s.start)
    findings = [Finding(s.entity, s.start, s.end, 1.0) for s in places]
    return exchanged(text, findings, [s.by for s in places])[0]
