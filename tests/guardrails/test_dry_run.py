"""A policy on trial tells what it would have done, and changes, refuses and delays nothing."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.errors import GuardrailViolation
from app.gateway.call import Call
from app.guardrails import dry_run
from app.guardrails.assignments import Choice
from app.guardrails.findings import Finding
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy, Rule, load_policy
from app.guardrails.service import Guardrails
from app.pools import Pool
from tests.guardrails.texts import KEY

MAIL, SSN = "a@example.com", "234-56-7891"
BLOCKS = Policy(
    name="tried",
    version="v",
    entities={
        "EMAIL_ADDRESS": Rule(input="block", output="block"),
        "US_SSN": Rule(output="mask"),
        "PHONE_NUMBER": Rule(output="mask"),
    },
)


@pytest.fixture(scope="module")
def pools() -> Iterator[tuple[Pool, Pool]]:
    made = Pool("ner", 1), Pool("dry_run", 1)
    yield made
    for pool in made:
        pool.close()


@pytest.fixture
def guardrails(detector: PiiDetector, pools: tuple[Pool, Pool]) -> Guardrails:
    return Guardrails(load_policy("default"), detector, pools[0], False, KEY, pools[1])


def new_call(tried: Policy | None = BLOCKS, enforced: str = "default") -> Call:
    call = Call("call_1", "call_1", "rest", "POST /v1/chat/completions")
    call.obeys = Choice(enforced, load_policy(enforced), dry_run=tried)
    return call


async def record_of(call: Call) -> dict[str, Any]:
    """What the audit record holds once the call is settled."""

    async def settled(call: Call, status: int, tail: bytes) -> None:
        pass

    call.settler = settled
    await call.settle()
    assert call.dry_run is not None
    return call.dry_run.as_record()


async def test_the_policy_in_force_governs_and_the_other_is_told(guardrails: Guardrails) -> None:
    call = new_call()
    assert await guardrails.screen(call, [f"I am {MAIL}"], "input") == ["I am <EMAIL_ADDRESS>"]
    assert await guardrails.screen(call, [f"{SSN} {SSN}"], "output") == ["<US_SSN> <US_SSN>"]
    assert await record_of(call) == {
        "policy": "tried@v",
        "would_block": True,
        "findings": [
            {"direction": "input", "entity": "EMAIL_ADDRESS", "action": "block", "count": 1},
            {"direction": "output", "entity": "US_SSN", "action": "mask", "count": 2},
        ],
        "unseen": 0,
    }
    assert call.findings == {
        ("input", "EMAIL_ADDRESS", "mask"): 1,
        ("output", "US_SSN", "mask"): 2,
    }


async def test_a_call_without_a_trial_has_no_record_of_one(guardrails: Guardrails) -> None:
    call = new_call(None)
    await guardrails.screen(call, [f"I am {MAIL}"], "input")
    assert call.dry_run is None


async def test_what_is_refused_is_looked_at_too(guardrails: Guardrails) -> None:
    call = new_call()
    with pytest.raises(GuardrailViolation, match="'default'"):
        await guardrails.screen(call, [f"{SSN} {MAIL}"], "input")
    assert (await record_of(call))["would_block"] is True


@pytest.mark.parametrize("enforced", ["default", "strict"])
async def test_a_stream_is_looked_at_as_a_whole_however_it_comes(
    guardrails: Guardrails, enforced: str
) -> None:
    text = f"Write to {MAIL}. The number is +44 20 7946 0958, and {MAIL} again."
    for seed in range(4):
        rng, at = random.Random(seed), 0
        call, plain = new_call(enforced=enforced), new_call(None, enforced)
        screens = [guardrails.stream(call), guardrails.stream(plain)]
        given = ["", ""]
        while at < len(text):
            size = rng.randint(1, 9)
            for n, screen in enumerate(screens):
                given[n] += await guardrails.feed(screen, text[at : at + size])
            at += size
        for n, screen in enumerate(screens):
            given[n] += await guardrails.finish(screen)
        assert given[0] == given[1]
        found = (await record_of(call))["findings"]
        assert {(f["entity"], f["action"], f["count"]) for f in found} == {
            ("EMAIL_ADDRESS", "block", 2),
            ("PHONE_NUMBER", "mask", 1),
        }


async def test_a_stream_that_nothing_is_looked_for_in_is_tried_whole_and_held_back_nowhere(
    guardrails: Guardrails,
) -> None:
    call = new_call()
    call.obeys = Choice("in-only", Policy(name="in-only", entities={}), dry_run=BLOCKS)
    screen = guardrails.stream(call)
    pieces = ["a@exam", "ple.com"]
    assert [await guardrails.feed(screen, piece) for piece in pieces] == pieces
    assert (await record_of(call))["would_block"] is True


class Harmed(PiiDetector):
    """A detector that fails or does not come back where a trial looks."""

    def __init__(self, whole: PiiDetector, wait: Callable[[], None]) -> None:
        self.whole, self.wait = whole, wait

    def detect(self, text: str, *args: Any, **kwargs: Any) -> list[Finding]:
        if threading.current_thread().name.startswith("ostiary-dry_run"):
            self.wait()
        return self.whole.detect(text, *args, **kwargs)


async def test_a_trial_that_fails_is_told_and_harms_nothing(
    detector: PiiDetector, pools: tuple[Pool, Pool]
) -> None:
    def fail() -> None:
        raise RuntimeError(f"cannot read {MAIL}")

    harmed = Guardrails(
        load_policy("default"), Harmed(detector, fail), pools[0], False, KEY, pools[1]
    )
    call = new_call()
    assert await harmed.screen(call, [MAIL, "and"], "input") == ["<EMAIL_ADDRESS>", "and"]
    record = await record_of(call)
    assert (record["findings"], record["unseen"]) == ([], 2)


async def test_a_trial_that_takes_long_is_not_waited_for(
    detector: PiiDetector, pools: tuple[Pool, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "WAIT_S", 0.05)
    go_on = threading.Event()
    slow = Harmed(detector, lambda: (go_on.wait(20), None)[1])
    guardrails = Guardrails(load_policy("default"), slow, pools[0], False, KEY, pools[1])
    call, begun = new_call(), time.perf_counter()
    assert await guardrails.screen(call, [MAIL], "input") == ["<EMAIL_ADDRESS>"]
    assert (await record_of(call))["unseen"] == 1
    assert time.perf_counter() - begun < 5
    go_on.set()


async def test_a_call_that_is_cut_while_it_waits_is_recorded_all_the_same(
    detector: PiiDetector, pools: tuple[Pool, Pool]
) -> None:
    go_on, settled = threading.Event(), list[int]()
    slow = Harmed(detector, lambda: (go_on.wait(20), None)[1])
    guardrails = Guardrails(load_policy("default"), slow, pools[0], False, KEY, pools[1])
    call = new_call()

    async def note(call: Call, status: int, tail: bytes) -> None:
        settled.append(status)

    call.settler = note
    await guardrails.screen(call, [MAIL], "input")
    settling = asyncio.create_task(call.settle(200))
    await asyncio.sleep(0)  # it waits by now
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    go_on.set()
    await call.settle(499)  # as the corridor does for a call that was cut
    assert settled == [499]
    assert call.dry_run is not None and call.dry_run.would_block


async def test_more_text_than_a_trial_takes_is_told_and_not_looked_at(
    guardrails: Guardrails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "MOST_CHARS", 40)
    call = new_call()
    for _ in range(3):  # of 18 characters: the third is too much
        await guardrails.screen(call, [f"I am {MAIL}"], "input")
    screen = guardrails.stream(call)
    for _ in range(20):
        await guardrails.feed(screen, f"{SSN} and ")
    await guardrails.finish(screen)
    record = await record_of(call)
    assert [f["count"] for f in record["findings"]] == [2]
    assert record["unseen"] == 2


async def test_texts_are_rehearsed_without_a_trace(guardrails: Guardrails) -> None:
    policy = load_policy("default")
    texts = [f"I am {MAIL}", f"my ssn is {SSN} and {MAIL}", "nothing"]
    masked, refused, clean = await guardrails.rehearse(new_call(), policy, texts, "input")
    assert masked.text == "I am <EMAIL_ADDRESS>"
    assert refused.text is None and {f.entity for f in refused.findings} == {
        "US_SSN",
        "EMAIL_ADDRESS",
    }
    assert (clean.text, clean.findings) == ("nothing", [])
    out = await guardrails.rehearse(new_call(), policy, texts, "output")
    assert out[1].text == "my ssn is <US_SSN> and <EMAIL_ADDRESS>"
