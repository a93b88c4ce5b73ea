"""Entity types by country: real forms are found, wrong digits are not, nothing runs for long."""

from __future__ import annotations

import time

import pytest

from app.guardrails.catalogue import CATALOGUE, SETS, checksum, recognizer
from app.guardrails.entities import NER_ENTITIES, PATTERN_ENTITIES
from app.guardrails.pii import PiiDetector

# numbers that their offices publish as examples, or that are made to their rules
FOUND = [
    ("ABA_ROUTING_NUMBER", "routing number 121000248", "121000248"),
    ("US_ITIN", "My ITIN is 912-70-1234", "912-70-1234"),
    ("US_PASSPORT", "passport number 912803456", "912803456"),
    ("US_BANK_NUMBER", "bank account 945456787654", "945456787654"),
    ("UK_NHS", "NHS number 401-023-2137", "401-023-2137"),
    ("UK_NINO", "national insurance AA 12 34 56 B", "AA 12 34 56 B"),
    ("DE_TAX_ID", "Steuer-ID 86095742719", "86095742719"),
    ("DE_VAT_ID", "USt-IdNr DE136695976", "DE136695976"),
    ("FR_NIR", "n° de sécurité sociale 2 95 10 99 126 111 93", "2 95 10 99 126 111 93"),
    ("FR_SIRET", "SIRET 732 829 320 00074", "732 829 320 00074"),
    ("ES_NIF", "DNI 55555555K", "55555555K"),
    ("IT_FISCAL_CODE", "codice fiscale MRTMTT91D08F205J", "MRTMTT91D08F205J"),
    ("NL_BSN", "BSN 111222333", "111222333"),
    ("PL_PESEL", "PESEL 44051401359", "44051401359"),
    ("PL_NIP", "NIP 856-734-62-15", "856-734-62-15"),
    ("IN_PAN", "PAN ABCPD1234E", "ABCPD1234E"),
    ("IN_AADHAAR", "aadhaar 312345678909", "312345678909"),
    ("AU_ABN", "ABN 51 824 753 556", "51 824 753 556"),
    ("AU_TFN", "tax file number 876 543 210", "876 543 210"),
    ("SG_NRIC_FIN", "NRIC S2740116C", "S2740116C"),
    ("CA_SIN", "SIN 046 454 286", None),  # begins with a 0: never given out
    ("CA_SIN", "social insurance number 130 692 544", "130 692 544"),
    ("FI_PERSONAL_IDENTITY_CODE", "henkilötunnus 131052-308T", "131052-308T"),
    ("TR_NATIONAL_ID", "TC kimlik 10000000146", "10000000146"),
    ("ZA_ID_NUMBER", "identity number 8001015009087", "8001015009087"),
    ("EU_VAT", "VAT ATU13585627", "ATU13585627"),
    ("EU_VAT", "TVA FR 61 954506077", "FR 61 954506077"),
    ("EU_VAT", "VAT DE136695977", None),
    ("NL_BSN", "BSN 111222334", None),
    ("FR_SIRET", "SIRET 732 829 320 00075", None),
    ("PL_NIP", "NIP 856-734-62-16", None),
    ("URL", "see https://example.com/a?b=1 there", "https://example.com/a?b=1"),
    ("URL", "Go to docs.example.co.uk/a (b).", "docs.example.co.uk/a"),
    ("URL", "(http://localhost:8080/x?y=[1]).", "http://localhost:8080/x?y=[1"),
    ("URL", "end of v2.draft and e.g. this, ada@example.com", None),
    ("MAC_ADDRESS", "mac 00:1A:2B:3C:4D:5E", "00:1A:2B:3C:4D:5E"),
]


@pytest.mark.parametrize(("entity", "text", "value"), FOUND)
def test_a_number_is_found_in_its_form_and_with_right_digits(
    detector: PiiDetector, entity: str, text: str, value: str | None
) -> None:
    for place in (f"{text} is it.", f"The note says: {text}", f"First line.\n{text}\nLast line."):
        found = detector.detect(place, {entity}, lambda _: 0.4)
        assert [place[f.start : f.end] for f in found] == ([] if value is None else [value])


def test_every_type_of_a_set_has_its_recognizer_and_stands_in_no_other_set() -> None:
    assert all(recognizer(entity).entity == entity for entity in CATALOGUE)
    assert not CATALOGUE & (PATTERN_ENTITIES | NER_ENTITIES)
    assert sum(map(len, SETS.values())) == len(set().union(*SETS.values()))


@pytest.mark.parametrize("name", ["luhn", "verhoeff", "iso7064.mod_97_10", "nl.bsn", "eu.vat"])
def test_a_checksum_says_no_to_wrong_digits_and_nothing_else(name: str) -> None:
    right = {
        "luhn": "4111 1111-1111.1111",
        "verhoeff": "2363",
        "iso7064.mod_97_10": "9999123456789012141490",
        "nl.bsn": "111222333",
        "eu.vat": "DE136695976",
    }[name]
    judge = checksum(name)
    assert judge(right) is None
    changed = right[:-1] + str((int(right[-1]) + 1) % 10)
    assert judge(changed) is False and judge("") is False and judge("none") is False


@pytest.mark.parametrize("name", ["", "os", "luhn.", "..luhn", "nl", "exceptions", "util"])
def test_what_is_no_checksum_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="there is no checksum"):
        checksum(name)


@pytest.mark.parametrize(
    "unit", ["1", "1 ", "A1", "a.", "1-", "DE ", "9 9", "a.b/", "https://a.", "X_", "rx ", "ß1"]
)
def test_no_pattern_takes_long_on_hostile_text(detector: PiiDetector, unit: str) -> None:
    text = unit * (20_000 // len(unit))
    began = time.perf_counter()
    detector.detect(text, CATALOGUE, lambda _: 0.4)
    assert time.perf_counter() - began < 20  # each of 91 types has seconds before it is refused
