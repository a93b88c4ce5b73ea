"""Surrogates: made-up values of the type and form of real ones, drawn from a keyed source."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from app.guardrails.catalogue import CATALOGUE, recognizer

LEAST = 7  # letters and digits; a number of fewer is met by chance in an answer
TRIES = 300  # draws until the digits pass a check; one in 97 does by ISO 7064
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-](?![sS]\b)[^\W\d_]+)*")
_TITLES = frozenset(
    {
        *("dr", "mr", "mrs", "ms", "miss", "prof", "sir", "lady", "herr", "frau", "von", "van"),
        *("de", "der", "den", "la", "le", "del", "di", "da", "mme", "mlle", "jr", "sr", "st"),
        *("monsieur", "madame", "mademoiselle", "señor", "señora", "doña", "sra", "srta"),
        *("signor", "signora", "dott", "meneer", "mevrouw", "pani"),
    }
)
# No word of these is one of a dictionary, so that a model's own words are not taken for them.
_GIVEN = (
    ("Ari", "Bel", "Cor", "Dar", "Eli", "Fen", "Gal", "Hel", "Ila", "Jor", "Kel", "Lio", "Mar"),
    ("Nor", "Ori", "Per", "Ren", "Sol", "Tam", "Uri", "Vel", "Wen", "Yor", "Zan", "Bri", "Del"),
    ("iva", "ena", "eth", "iel", "ora", "inne", "avi", "ollo", "uvar", "isse", "ethan", "irra"),
)
_FAMILY = (
    ("Tarn", "Holv", "Brand", "Quen", "Marv", "Sten", "Wick", "Dunv", "Farl", "Grend", "Hask"),
    ("Kelv", "Lomb", "Norv", "Ostr", "Pell", "Rudv", "Sandr", "Thorv", "Ulv", "Vand", "Wolv"),
    ("erling", "aksen", "ovich", "ender", "emore", "inson", "atelli", "orff", "eskew", "ulund"),
)
_PLACES = ("erby", "enford", "olmouth", "estad", "inburgh", "avik", "orville", "elton", "umhaven")
_HOUSES = ("exa", "ivix", "ontec", "oria", "unex", "adyne", "italis", "omex", "erion", "avant")
_CONSONANTS = "BCDFGHJKLMNPQRSTVWXZ"
_UPPER, _LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
_NO_FORM = frozenset({"URL", "UUID", "MAC_ADDRESS"})
_REGIONS = ("US", "GB", "DE", "FR", "IN", "ES", "IT", "NL", "PL", "AU", "SG", "CA", "BR", "IL")


class Draw:
    """Numbers that depend on a seed alone."""

    def __init__(self, seed: bytes) -> None:
        self._left = int.from_bytes(hashlib.shake_256(seed).digest(96))

    def below(self, n: int) -> int:
        """A number from 0 to ``n - 1``."""
        self._left, found = divmod(self._left, n)
        return found

    def of(self, *choices: Sequence[str]) -> str:
        """One of the choices."""
        every = [c for part in choices for c in part]
        return every[self.below(len(every))]


def words_in(value: str) -> list[re.Match[str]]:
    """The words of a name that stand for somebody: no titles, no particles."""
    return [m for m in _WORD.finditer(value) if m[0].casefold() not in _TITLES]


def word(original: str, family: bool, draw: Draw) -> str:
    """A word of a person's name, with capitals as the original has them."""
    parts = _FAMILY if family else _GIVEN
    return _shaped(draw.of(*parts[:2]) + draw.of(parts[2]), original)


def _shaped(made: str, original: str) -> str:
    if len(original) > 1 and original.isupper():
        return made.upper()
    return made.lower() if original.islower() else made


def token(entity: str, draw: Draw) -> str:
    """A typed token, short enough for any model to repeat."""
    return f"<{entity}_{''.join(draw.of(_CONSONANTS) for _ in range(4))}>"


def alike(entity: str, value: str, draw: Draw) -> str | None:
    """A value of the same type and form; None where this draw gives none.

    The digits of cards, IBANs and of the catalogue's types pass their checks.
    """
    match entity:
        case "EMAIL_ADDRESS":
            return _email(value, draw)
        case "LOCATION":
            return _shaped(draw.of(*_FAMILY[:2]) + draw.of(_PLACES), value)
        case "ORGANIZATION":
            return _shaped(draw.of(*_FAMILY[:2]) + draw.of(_HOUSES), value)
        case "IP_ADDRESS":
            return _address(value, draw)
    if len(compact(value)) < LEAST or not compact(value).isascii():
        return None
    match entity:
        case "CREDIT_CARD":
            return _card(value, draw)
        case "IBAN_CODE":
            return _iban(value, draw)
        case "PHONE_NUMBER":
            return _phone(value, draw)
        case "US_SSN":
            return _ssn(value, draw)
    return _of_catalogue(entity, value, draw) if entity in CATALOGUE - _NO_FORM else None


def spare_draws(entity: str) -> int:
    """How often to draw for a value of a type before a token stands for it."""
    return TRIES if entity in CATALOGUE - _NO_FORM or entity == "PHONE_NUMBER" else 20


def compact(value: str) -> str:
    """The letters and digits of a value."""
    return "".join(c for c in value if c.isalnum())


def canonical(entity: str, value: str) -> str:
    """What two ways to write a number have in common; other values are as they are written."""
    numbers = {"CREDIT_CARD", "IBAN_CODE", "PHONE_NUMBER", "US_SSN"} | CATALOGUE - _NO_FORM
    return compact(value).upper() if entity in numbers else value


def refilled(form: str, characters: str) -> str:
    """Put letters and digits, in order, in the place of those of ``form``."""
    supply = iter(characters)
    found = [next(supply) if c.isalnum() else c for c in form]
    return "".join(n.lower() if c.islower() else n for c, n in zip(form, found, strict=True))


def _like(original: str, draw: Draw) -> str:
    """Digits for digits and letters for letters, in capitals."""
    return "".join(str(draw.below(10)) if c.isdigit() else _UPPER[draw.below(26)] for c in original)


def _email(value: str, draw: Draw) -> str | None:
    if value.count("@") != 1 or re.search(r"\s", value):
        return None
    given = draw.of(*_GIVEN[:2]) + draw.of(_GIVEN[2])
    family = draw.of(*_FAMILY[:2]) + draw.of(_FAMILY[2])
    return f"{given}.{family}@example.{draw.of(('com', 'net', 'org'))}".lower()


def _address(value: str, draw: Draw) -> str | None:
    try:
        version = ipaddress.ip_address(value).version
    except ValueError:
        return None
    if version == 4:  # RFC 2544's, which no host has
        return f"198.{18 + draw.below(2)}.{draw.below(256)}.{1 + draw.below(254)}"
    return str(ipaddress.IPv6Address((0x20010DB8 << 96) + draw.below(1 << 96)))  # RFC 3849


def _card(value: str, draw: Draw) -> str | None:
    digits = compact(value)
    if not digits.isdigit():
        return None
    made = digits[0] + _like(digits[1:-1], draw)
    doubled = [int(d) * (2 if place % 2 == 0 else 1) for place, d in enumerate(reversed(made))]
    check = -sum(n - 9 if n > 9 else n for n in doubled) % 10
    return refilled(value, f"{made}{check}")


def _iban(value: str, draw: Draw) -> str | None:
    original = compact(value).upper()
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", original):
        return None
    account = _like(original[4:], draw)
    number = "".join(str(int(c, 36)) for c in f"{account}{original[:2]}00")
    return refilled(value, f"{original[:2]}{98 - int(number) % 97:02d}{account}")


def _ssn(value: str, draw: Draw) -> str | None:
    if not re.fullmatch(r"\d{9}", compact(value)):
        return None
    area = 1 + draw.below(898)
    number = f"{area + (area >= 666):03d}{1 + draw.below(99):02d}{1 + draw.below(9999):04d}"
    return refilled(value, number)


def _phone(value: str, draw: Draw) -> str | None:
    import phonenumbers

    digits, kept = compact(value), 0
    if not digits.isdigit():  # with letters, as of an extension
        return None
    region = _region(value)
    if region is None:
        return refilled(value, digits[0] + _like(digits[1:], draw))
    if value.lstrip(" (").startswith("+"):
        kept = len(str(phonenumbers.parse(value, region).country_code))
    kept += digits[kept:].startswith("0")  # dialled before the area
    made = refilled(value, digits[: kept + 1] + _like(digits[kept + 1 :], draw))
    return made if _is_phone(made, region) else None


@lru_cache(64)
def _region(value: str) -> str | None:
    return next((region for region in _REGIONS if _is_phone(value, region)), None)


def _is_phone(value: str, region: str) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(value, region))
    except phonenumbers.NumberParseException:
        return False


def _of_catalogue(entity: str, value: str, draw: Draw) -> str | None:
    finds = recognizer(entity)

    def whole(text: str) -> bool:
        return any((f.start, f.end) == (0, len(text)) for f in finds.find(text, 0, len(text)))

    if not whole(value):  # its neighbours made it one
        return None
    made = refilled(value, _like(compact(value), draw))
    return made if whole(made) else None
