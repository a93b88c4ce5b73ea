"""The service masks, blocks, fails closed and tells the call what it did, never the values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import guardrails as door
from app.errors import GuardrailViolation, Unavailable
from app.gateway.call import Call
from app.guardrails.findings import Finding, mask
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy, Rule, load_policy
from app.guardrails.service import Guardrails
from app.pools import Pool

SSN = "234-56-7891"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("ner", 1)
    yield pool
    pool.close()


@pytest.fixture
def guardrails(detector: PiiDetector, pool: Pool) -> Guardrails:
    return Guardrails(load_policy("default"), detector, pool, keep=False)


@pytest.fixture
def strict(detector: PiiDetector, pool: Pool) -> Guardrails:
    return Guardrails(load_policy("strict"), detector, pool, keep=False)


def new_call() -> Call:
    return Call("call_1", "call_1", "rest", "POST /v1/chat/completions")


async def test_values_are_masked_and_noted_by_type(guardrails: Guardrails) -> None:
    call = new_call()
    texts = ["mail a@example.com, b@example.com", "nothing here"]
    assert await guardrails.screen(call, texts, "input") == [
        "mail <EMAIL_ADDRESS>, <EMAIL_ADDRESS>",
        "nothing here",
    ]
    assert call.findings == {("input", "EMAIL_ADDRESS", "mask"): 2}
    assert call.screened == {"input"}
    assert call.bodies == {}


async def test_blocked_type_is_refused_with_counts_but_not_the_value(
    guardrails: Guardrails,
) -> None:
    call = new_call()
    with pytest.raises(GuardrailViolation) as refusal:
        await guardrails.screen(call, [f"my ssn is {SSN}"], "input")
    assert refusal.value.counts == {"US_SSN": 1}
    assert "'default'" in str(refusal.value)
    assert SSN not in str(refusal.value)
    assert call.findings == {("input", "US_SSN", "block"): 1}
    assert await guardrails.screen(new_call(), [f"ssn {SSN}"], "output") == ["ssn <US_SSN>"]


async def test_kept_bodies_are_the_masked_ones(detector: PiiDetector, pool: Pool) -> None:
    keeping = Guardrails(load_policy("default"), detector, pool, keep=True)
    call = new_call()
    await keeping.screen(call, ["I am a@example.com"], "input")
    assert call.bodies == {"input": "I am <EMAIL_ADDRESS>"}


class Broken(PiiDetector):
    """A detector whose recognizers fail on every text, as a broken installation would."""

    def detect(self, text: str, entities: Any, threshold: Callable[[str], float]) -> list[Finding]:
        raise RuntimeError(f"cannot read {text}")


async def test_broken_detector_fails_closed(pool: Pool) -> None:
    for policy in ("default", "strict"):
        broken = Guardrails(load_policy(policy), Broken(), pool, keep=False)
        call = new_call()
        with pytest.raises(Unavailable) as refusal:
            await broken.screen(call, ["secret"], "input")
        assert refusal.value.code == "guardrail_unavailable"
        assert "secret" not in str(refusal.value)
        assert "input" not in call.screened
        with pytest.raises(Unavailable):
            broken.stream(new_call()).feed("secret words and. More words")


async def test_text_full_of_values_is_screened_off_the_event_loop(
    detector: PiiDetector, pool: Pool
) -> None:
    seen: list[str] = []

    class Watched(PiiDetector):
        def detect(self, text: str, entities: Any, threshold: Any) -> list[Finding]:
            seen.append(threading.current_thread().name)
            return detector.detect(text, entities, threshold)

    guardrails = Guardrails(load_policy("default"), Watched(), pool, keep=False)
    await guardrails.screen(new_call(), ["a short text"], "input")
    await guardrails.screen(new_call(), ["call 415-555-0132. " * 30], "input")
    await guardrails.screen(new_call(), ["word " * 3000], "input")
    assert [name.startswith("ostiary-ner") for name in seen] == [False, True, True]


async def test_stream_masks_and_notes_on_the_call(guardrails: Guardrails) -> None:
    call = new_call()
    screen = guardrails.stream(call)
    out = [await guardrails.feed(screen, c) for c in ("write to jane", "@exam", "ple.com", " now")]
    out.append(await guardrails.finish(screen))
    assert "".join(out) == "write to <EMAIL_ADDRESS> now"
    assert call.findings == {("output", "EMAIL_ADDRESS", "mask"): 1}
    assert call.screened == {"output"}


async def test_a_policy_that_lets_replies_pass_holds_no_word_of_a_stream(
    detector: PiiDetector, pool: Pool
) -> None:
    policy = Policy(name="in-only", entities={"EMAIL_ADDRESS": Rule(input="mask")})
    screen = Guardrails(policy, detector, pool, keep=False).stream(call := new_call())
    assert [screen.feed(piece) for piece in ("jane@exam", "ple.com")] == ["jane@exam", "ple.com"]
    assert screen.finish() == "" and call.screened == {"output"}


async def test_blocked_type_ends_a_stream_before_any_part_is_out(strict: Guardrails) -> None:
    screen = strict.stream(new_call())
    out = ""
    with pytest.raises(GuardrailViolation) as refusal:
        for char in f"First part. Now ssn {SSN} is it. More text.":
            out += await strict.feed(screen, char)
    assert out == "First part. "
    assert SSN not in str(refusal.value)


async def test_names_are_masked_by_the_strict_policy(strict: Guardrails) -> None:
    (text,) = await strict.screen(new_call(), ["Angela Merkel lives in Berlin."], "input")
    assert text == "<PERSON> lives in <LOCATION>."


async def test_analyze_finds_without_masking(guardrails: Guardrails) -> None:
    text = f"ssn {SSN}, me@example.com"
    found = await guardrails.analyze(new_call(), text, ["US_SSN", "EMAIL_ADDRESS"], 0.4)
    assert [(f.entity, text[f.start : f.end]) for f in found] == [
        ("US_SSN", SSN),
        ("EMAIL_ADDRESS", "me@example.com"),
    ]


def test_mask_replaces_from_left_to_right() -> None:
    assert mask("ab cd ef", [Finding("X", 0, 2, 1.0), Finding("Y", 6, 8, 1.0)]) == "<X> cd <Y>"


def test_anonymize_gives_presidios_fields() -> None:
    body = door.AnonymizeBody(
        text="call 415-555-0132 or a@example.com",
        analyzer_results=[
            door.AnalyzerResult(entity_type="EMAIL_ADDRESS", start=21, end=34),
            door.AnalyzerResult(entity_type="PHONE_NUMBER", start=5, end=17),
        ],
    )
    app = FastAPI()

    @app.get("/")
    async def anonymize() -> door.Anonymized:
        return await door.anonymize(new_call(), body)

    reply = TestClient(app).get("/").json()
    assert reply["text"] == "call <PHONE_NUMBER> or <EMAIL_ADDRESS>"
    for item in reply["items"]:
        assert reply["text"][item["start"] : item["end"]] == item["text"]
        assert item["operator"] == "replace"
