"""Made texts with personal data whose places are known, and look-alikes that are none.

Half of the templates were at hand while the detector was worked on (``dev``), half were written
apart and only ever measured (``held``). Values come from Faker or are made to their rules.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from faker import Faker

DEV = (
    "Please write to {EMAIL_ADDRESS} or call {PHONE_NUMBER} before Friday.",
    "{PERSON} paid with card {CREDIT_CARD} on the second of May.",
    "Transfer the rest to IBAN {IBAN_CODE}, as {PERSON} asked.",
    "My social security number is {US_SSN}.",
    "The server {IP_ADDRESS} answered slowly to the client {IP_ADDRESS}.",
    "Send the coins to {CRYPTO} today.",
    "{PERSON} moved from {LOCATION} to {LOCATION} last year.",
    "The form is at {URL}, section 4.",
    "Her passport number is {US_PASSPORT}, issued in 2019.",
    "Refunds go to bank account {US_BANK_NUMBER} at the same bank.",
    "His driver license {US_DRIVER_LICENSE} expires in March.",
    "The taxpayer's ITIN is {US_ITIN}.",
    "Patient with NHS number {UK_NHS} was seen twice.",
    "National insurance number {UK_NINO} is on file.",
    "The DEA certificate {MEDICAL_LICENSE} belongs to Dr. {PERSON}.",
    "The PAN of the company is {IN_PAN}.",
    "Their ABN is {AU_ABN}.",
    "NRIC {SG_NRIC_FIN} was shown at the desk.",
    "Hi {PERSON}, thanks for the call! My new number: {PHONE_NUMBER}.",
    "cc: {EMAIL_ADDRESS}; bcc: {EMAIL_ADDRESS}",
    "Order 48213 of 12 May costs 1,299.00 dollars and weighs 12.5 kg.",
    "Version 2.11.4 fixes ticket #90210 and 17 others.",
    "In 2024 we sold 1 250 000 units in 37 countries.",
    "The room is 4 x 5 metres, door 12, floor 3.",
)
HELD = (
    "You can reach me under {PHONE_NUMBER}, or drop a line at {EMAIL_ADDRESS}.",
    "Was {CREDIT_CARD} charged twice? {PERSON} says so.",
    "Kindly wire it to our account {IBAN_CODE}.",
    "SSN: {US_SSN}",
    "Blocked {IP_ADDRESS} after nine failed logins.",
    "wallet address {CRYPTO} (bitcoin)",
    "Yesterday {PERSON} met {PERSON} near {LOCATION}.",
    "More on this: {URL}",
    "travel document: passport {US_PASSPORT}",
    "Payroll needs your bank account number, which is {US_BANK_NUMBER}.",
    "DL number {US_DRIVER_LICENSE} was recorded by the driver.",
    "An individual taxpayer identification number such as {US_ITIN} is not a SSN.",
    "nhs no {UK_NHS}, blood group 0",
    "NI number: {UK_NINO}",
    "Prescribed under DEA number {MEDICAL_LICENSE}.",
    "permanent account number {IN_PAN}",
    "australian business number: {AU_ABN}",
    "FIN {SG_NRIC_FIN} valid until December",
    "-- {PERSON}, {LOCATION}, tel. {PHONE_NUMBER}",
    "From: {EMAIL_ADDRESS} To: {EMAIL_ADDRESS} Subject: minutes",
    "Invoice 2024-0117 is due within 30 days; reference 77-1302.",
    "The build took 341 s on 16 cores, 3.2 GHz, node 7.",
    "See pages 110-118 of volume 12, printed in 1987.",
    "Between 9:15 and 17:45 there were 1,204 visitors.",
)
_PLACE = re.compile(r"\{([A-Z_]+)\}")
Maker = Callable[[random.Random, Faker], str]
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Value:
    """A value of ``entity`` at ``text[start:end]``."""

    entity: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sample:
    text: str
    values: tuple[Value, ...]


def samples(
    count: int,
    templates: tuple[str, ...],
    seed: int,
    least: int = 0,
    locales: tuple[str, ...] = ("en_US", "en_GB", "de_DE"),
    make: dict[str, Maker] | None = None,
) -> list[Sample]:
    """``count`` texts of one to four sentences, or of ``least`` characters at least.

    Args:
        make: makes the values of each type; ``MAKE`` where none is given.
    """
    rng = random.Random(seed)
    fakes = [Faker(locale) for locale in locales]
    for place, fake in enumerate(fakes):
        fake.seed_instance(seed + place)
    return [_sample(rng, fakes, templates, least, make or MAKE) for _ in range(count)]


def _sample(
    rng: random.Random,
    fakes: list[Faker],
    templates: tuple[str, ...],
    least: int,
    make: dict[str, Maker],
) -> Sample:
    text, values, wanted = "", [], rng.randint(1, 4)
    while wanted > 0 or len(text) < least:
        wanted -= 1
        fake, last = rng.choice(fakes), 0
        template = rng.choice(templates)
        for place in _PLACE.finditer(template):
            text += template[last : place.start()]
            value = make[place[1]](rng, fake)
            values.append(Value(place[1], len(text), len(text) + len(value)))
            text, last = text + value, place.end()
        text += template[last:] + rng.choice((" ", " ", "\n"))
    return Sample(text, tuple(values))


def _digits(rng: random.Random, count: int) -> str:
    return "".join(str(rng.randrange(10)) for _ in range(count))


def _phone(rng: random.Random, fake: Faker) -> str:
    area, line = rng.choice((212, 415, 617, 808)), f"555{rng.randrange(100, 200):04d}"
    a, b, c = str(area), line[:3], line[3:]
    forms = ("({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "{}.{}.{}")
    return rng.choice((rng.choice(forms).format(a, b, c), "+44 20 7946 0958", "+49 30 901820"))


def _card(rng: random.Random, fake: Faker) -> str:
    card = fake.credit_card_number("visa16")
    return rng.choice(("", " ", "-")).join(card[i : i + 4] for i in range(0, 16, 4))


def _iban(rng: random.Random, fake: Faker) -> str:
    iban = fake.iban()
    return rng.choice((iban, " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))))


def _ssn(rng: random.Random, fake: Faker) -> str:
    parts = (rng.randrange(101, 600), rng.randrange(11, 99), rng.randrange(1001, 9999))
    return rng.choice("- ").join(map(str, parts))


def _wallet(rng: random.Random, fake: Faker) -> str:
    body = b"\0" + rng.randbytes(20)
    whole = body + hashlib.sha256(hashlib.sha256(body).digest()).digest()[:4]
    number, letters = int.from_bytes(whole, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        letters = _BASE58[rest] + letters
    return "1" + letters


def _nhs(rng: random.Random, fake: Faker) -> str:
    while True:
        body = _digits(rng, 9)
        check = 11 - sum(int(d) * (10 - i) for i, d in enumerate(body)) % 11
        if check != 10:
            number = body + str(check % 11)
            return f"{number[:3]} {number[3:6]} {number[6:]}"


def _dea(rng: random.Random, fake: Faker) -> str:
    d = [rng.randrange(10) for _ in range(6)]
    check = (d[0] + d[2] + d[4] + 2 * (d[1] + d[3] + d[5])) % 10
    return f"{rng.choice('BFM')}{rng.choice('ACDE')}{''.join(map(str, d))}{check}"


def _abn(rng: random.Random, fake: Faker) -> str:
    from stdnum.au import abn

    number = _digits(rng, 9)
    return str(abn.format(abn.calc_check_digits(number) + number))


MAKE: dict[str, Maker] = {
    "EMAIL_ADDRESS": lambda rng, fake: fake.email(),
    "PHONE_NUMBER": _phone,
    "CREDIT_CARD": _card,
    "IBAN_CODE": _iban,
    "US_SSN": _ssn,
    "IP_ADDRESS": lambda rng, fake: rng.choice((fake.ipv4(), fake.ipv6())),
    "CRYPTO": _wallet,
    "URL": lambda rng, fake: fake.uri(),
    "PERSON": lambda rng, fake: f"{fake.first_name()} {fake.last_name()}",
    "LOCATION": lambda rng, fake: rng.choice(
        ("Berlin", "Chicago", "Lyon", "New York", "Madrid", "Warsaw", "Oslo", "Boston", "Vienna")
    ),
    "US_PASSPORT": lambda rng, fake: f"{rng.randrange(1, 10)}{_digits(rng, 8)}",
    "US_BANK_NUMBER": lambda rng, fake: f"{rng.randrange(1, 10)}{_digits(rng, 11)}",
    "US_DRIVER_LICENSE": lambda rng, fake: f"{rng.choice('ABDHS')}{_digits(rng, 7)}",
    "US_ITIN": lambda rng, fake: f"9{_digits(rng, 2)}-7{rng.randrange(10)}-{_digits(rng, 4)}",
    "UK_NHS": _nhs,
    "UK_NINO": lambda rng, fake: (
        f"AB {rng.randrange(10, 99)} {_digits(rng, 2)} {_digits(rng, 2)} C"
    ),
    "MEDICAL_LICENSE": _dea,
    "IN_PAN": lambda rng, fake: f"ABC{rng.choice('CPHT')}D{rng.randrange(1000, 9999)}E",
    "AU_ABN": _abn,
    "SG_NRIC_FIN": lambda rng, fake: f"S{_digits(rng, 7)}{rng.choice('ABCDEFGHIZJ')}",
}
