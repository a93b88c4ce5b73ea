"""Generated texts with personal data in them, each value known."""

from __future__ import annotations

import random
from dataclasses import dataclass

from faker import Faker

WORDS = (  # noqa: SIM905
    "the review on 3 May 2024 went well, (see page 12) and v2.0 ships. Next text: A B IT "
    "costs $5.00 - or 1,200 EUR; ext 7 / 8 x 9 THE NASA REPORT And Then I saw it! x: #5 "
    "https://example.org/a?b=1&c=22 foo_bar 10.0.0.1 fe80::1 12:30 1/2 1690 - - ( [ + "
    "e.g. 550e8400-e29b-41d4-a716-446655440000 caf\u00e9 \u65e5\u672c\u8a9e \U0001f600"
).split()
GAPS = (" ",) * 12 + ("\n", "  ", "\t", "\u00a0", "\n\n", ". ")
KEY = b"k" * 48  # of hashed and encrypted values
WALLET = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"


@dataclass(frozen=True, slots=True)
class Value:
    entity: str
    text: str


def value(rng: random.Random, fake: Faker) -> Value:
    kind = rng.randrange(8)
    if kind == 0:
        return Value("EMAIL_ADDRESS", fake.email())
    if kind == 1:
        digits = f"{rng.choice((212, 415, 617))}555{rng.randrange(100, 200):04d}"
        a, b, c = digits[:3], digits[3:6], digits[6:]
        form = rng.choice(("{}-{}-{}", "({}) {}-{}", "+1 {} {} {}", "{}.{}.{}", "{} {} {} ext. 42"))
        return Value("PHONE_NUMBER", form.format(a, b, c))
    if kind == 2:
        return Value("PHONE_NUMBER", rng.choice(("+44 20 7946 0958", "+49 30 901820")))
    if kind == 3:
        card = fake.credit_card_number("visa16")
        groups = [card[i : i + 4] for i in range(0, 16, 4)]
        return Value("CREDIT_CARD", rng.choice(("", " ", "-")).join(groups))
    if kind in (4, 5):
        iban = fake.iban()
        if kind == 5:
            iban = " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))
        return Value("IBAN_CODE", iban)
    if kind == 6:
        ssn = f"{rng.randrange(100, 600)}-{rng.randrange(10, 99)}-{rng.randrange(1000, 9999)}"
        return Value("US_SSN", ssn)
    return Value("CRYPTO", WALLET)


def text(seed: int, words: int = 40, values: int = 4) -> tuple[str, list[Value]]:
    """A text of ``words`` words in which ``values`` values stand apart from each other."""
    rng = random.Random(seed)
    fake = Faker(rng.choice(("en_GB", "de_DE", "en_US")))
    fake.seed_instance(seed)
    parts: list[str] = []
    known = [value(rng, fake) for _ in range(values)]
    places = set(rng.sample(range(words), values))
    waiting = iter(known)
    for i in range(words):
        if i in places:
            # plain words around a value: its neighbours can void it (a digit before a phone)
            parts += [rng.choice(("is", "call", "number")), " ", next(waiting).text]
            parts += [rng.choice((" ", ", ", ". ", "\n")), "thanks"]
        else:
            parts.append(rng.choice(WORDS))
        parts.append(rng.choice(GAPS))
    return "".join(parts), known
