"""The detector finds what Presidio's recognizers find, without running them on every text."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import time
from typing import Any

import pytest
from faker import Faker

from app.guardrails import pii
from app.guardrails.context import supported, supports, words_before
from app.guardrails.entities import PATTERN_ENTITIES
from app.guardrails.findings import Finding, without_overlaps
from app.guardrails.phones import CORE, PhoneNumbers
from app.guardrails.pii import PiiDetector
from app.guardrails.recognizers import counts, pattern_recognizers
from tests.guardrails.texts import text as make_text


def presidio_on_the_whole(detector: PiiDetector, text: str) -> list[Finding]:
    def score(result: Any, context: list[str]) -> float:
        if supports(words_before(text, result.start), context):
            return supported(result.score)
        return float(result.score)

    found = [
        Finding(entity, r.start, r.end, score(r, recognizer.context))
        for entity, (_, recognizer) in detector._recognizers.items()
        for r in recognizer.analyze(text, [entity])
        if counts(entity, text[r.start : r.end])
    ]
    return without_overlaps(found)


@pytest.mark.parametrize("seed", range(150))
def test_findings_equal_those_of_presidio_on_the_whole_text(
    detector: PiiDetector, seed: int
) -> None:
    text, _ = make_text(seed)
    found = detector.detect(text, PATTERN_ENTITIES, lambda _: 0.0)
    assert found == presidio_on_the_whole(detector, text), text


def test_a_text_that_comes_again_has_the_same_findings_under_each_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pii, "REMEMBERED", 5)
    used = PiiDetector()
    texts = [make_text(seed)[0] for seed in range(12)]
    for text in [*texts, *texts[::-1], *texts[-3:] * 2]:
        for wanted in (PATTERN_ENTITIES, frozenset({"EMAIL_ADDRESS", "IP_ADDRESS"})):
            fresh = PiiDetector()
            found = used.detect(text, wanted, lambda _: 0.0)
            assert found == fresh.detect(text, wanted, lambda _: 0.0)
    assert len(used._patterns) == 5


@pytest.mark.parametrize("seed", range(60))
def test_every_planted_value_is_covered(detector: PiiDetector, seed: int) -> None:
    text, known = make_text(seed)
    found = detector.detect(text, PATTERN_ENTITIES, lambda _: 0.3)
    for value in known:
        start = text.index(value.text)
        end = start + len(value.text.split(" ext")[0])
        assert any(f.start <= start and end <= f.end for f in found), (value, text)


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("card 4111 1111 1111 1111 ok", ["CREDIT_CARD"]),
        ("card 4111 1111 1111 1112 bad checksum", []),
        ("GB82 WEST 1234 5698 7654 32", ["IBAN_CODE"]),
        ("a@b is no address", []),
        ("me@example.com", ["EMAIL_ADDRESS"]),
        ("ssn 234-56-7891.", ["US_SSN"]),
        ("at fe80::1 and fe:ab:cd:ef:fe:ab:cd:ef", ["IP_ADDRESS", "IP_ADDRESS"]),
        ("wallet 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", ["CRYPTO"]),
        ("in 1690 and 2024", []),
        ("", []),
    ],
)
def test_known_values_and_near_misses(
    detector: PiiDetector, text: str, entities: list[str]
) -> None:
    found = detector.detect(text, PATTERN_ENTITIES, lambda _: 0.3)
    assert [f.entity for f in found] == entities


def test_overlapping_findings_merge_so_that_no_part_stays_readable() -> None:
    merged = without_overlaps([Finding("A", 0, 6, 0.4), Finding("B", 4, 10, 1.0)])
    assert merged == [Finding("B", 0, 10, 1.0)]


def test_threshold_drops_weak_findings(detector: PiiDetector) -> None:
    weak = "number 234567891 here"  # nine digits alone are a very weak sign
    assert detector.detect(weak, ["US_SSN"], lambda _: 0.4) == []
    assert [f.entity for f in detector.detect(weak, ["US_SSN"], lambda _: 0.0)] == ["US_SSN"]


def test_long_input_without_spaces_is_screened_in_linear_time(detector: PiiDetector) -> None:
    hostile = "a." * 40_000 + "@" + "1" * 20_000 + " jane@example.com"
    began = time.perf_counter()
    found = detector.detect(hostile, PATTERN_ENTITIES, lambda _: 0.3)
    assert time.perf_counter() - began < 20
    assert any(hostile[f.start : f.end] == "jane@example.com" for f in found)


def test_value_over_a_cut_of_a_very_long_token_is_found(detector: PiiDetector) -> None:
    for pad in range(1600, 2100, 7):
        text = "k=" + "v" * pad + ";jane.doe@example.com;" + "w" * 3000
        found = detector.detect(text, ["EMAIL_ADDRESS"], lambda _: 0.3)
        at = text.index("jane.doe@example.com")
        assert any(f.start <= at and at + 20 <= f.end for f in found), pad


def test_presidio_logs_no_values(caplog: pytest.LogCaptureFixture) -> None:
    recognizer = pattern_recognizers()["IBAN_CODE"][1]
    with caplog.at_level(logging.DEBUG):
        recognizer.validate_result("GB82!WEST")
    assert "WEST" not in caplog.text


def test_names_and_places_are_found_by_the_language_model(detector: PiiDetector) -> None:
    text = "Angela Merkel met Tim Cook in Berlin. They talked for an hour."
    found = detector.detect(text, ["PERSON", "LOCATION"], lambda _: 0.4)
    assert [(f.entity, text[f.start : f.end]) for f in found] == [
        ("PERSON", "Angela Merkel"),
        ("PERSON", "Tim Cook"),
        ("LOCATION", "Berlin"),
    ]
    assert found == detector.detect(text, ["PERSON", "LOCATION"], lambda _: 0.4)


def test_torch_is_not_loaded_for_names_and_patterns_and_can_be_afterwards() -> None:
    code = (
        "import sys; from app.guardrails.pii import PiiDetector\n"
        "detector = PiiDetector(); detector.warm()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "import torch; print(detector.detect('Jane Roe of Berlin', {'PERSON'}, lambda _: 0.3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "PERSON" in done.stdout


@pytest.mark.parametrize("seed", range(8))
def test_phone_numbers_are_those_of_presidio(seed: int) -> None:
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    theirs = PhoneRecognizer()
    ours, rng = PhoneNumbers(theirs), random.Random(seed)
    fakes = [
        Faker(name) for name in ("en_US", "en_GB", "de_DE", "en_IN", "pt_BR", "he_IL", "fr_FR")
    ]
    for fake in fakes:
        fake.seed_instance(seed)
    parts = (
        "1",
        "2",
        "55",
        "0",
        "49",
        "+",
        "-",
        " ",
        ".",
        "(",
        ")",
        "800",
        "415",
        "/",
        "91",
        "972",
    )
    for _ in range(150):
        text = rng.choice(
            (
                rng.choice(fakes).phone_number(),
                "".join(rng.choices("0123456789", k=rng.randint(7, 16))),
                "".join(rng.choices(parts, k=rng.randint(4, 14))),
            )
        )
        text = f"call {text}{rng.choice(('', ' now', ' ext. 42', ', 020 7946 0958'))}"
        both = [
            {(r.start, r.end) for r in each.analyze(text, ["PHONE_NUMBER"])}
            for each in (theirs, ours)
        ]
        seven = [{(a, b) for a, b in found if CORE.search(text[a:b])} for found in both]
        assert seven[0] == seven[1], text
