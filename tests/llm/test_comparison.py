"""What is told of two answers, and of many calls of two servers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.call import Call, Principal
from app.llm.comparison import Difference, compare
from app.llm.likeness import compare as liken
from app.llm.rollout import place_of
from app.llm.samples import Sample

TEXT = st.text(alphabet="ab c.", max_size=30)


@given(TEXT, TEXT)
async def test_likeness_is_the_same_from_both_sides_and_whole_for_equals_alone(
    one: str, other: str
) -> None:
    there, back = await liken(one, other, None), await liken(other, one, None)
    assert there == back
    assert 0 <= there.same_beginning <= there.token_f1 <= 1
    assert there.equal == (one == other)
    assert not there.equal or (there.token_f1, there.cosine) == (1, 1)


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_a_caller_keeps_its_place_whatever_it_asks(user: str, other: str, signed_in: bool) -> None:
    who = Principal("t", "key:k", "k", frozenset(), user=user if signed_in else None)
    call = Call("c", "r", "rest", "POST /v1/chat/completions", who)

    def place(said: str, model: str = "m") -> float:
        body = {"model": model, "messages": [{"role": "user", "content": said}]}
        return place_of(call, body if signed_in else {**body, "user": "u" + user})

    assert 0 <= place("a") < 1
    assert place(other) == place("a") != place("a", "another")


def test_places_are_spread_evenly() -> None:
    def place(n: int) -> float:
        call = Call("c", "r", "rest", "route", Principal("t", "key:k", "k", frozenset()))
        return place_of(call, {"model": "m", "prompt": str(n)})

    counts, _ = np.histogram([place(n) for n in range(20_000)], bins=10, range=(0, 1))
    assert counts.min() > 1_800 and counts.max() < 2_200


def a_sample(role: str, latency: float, n: int = 0, **more: object) -> Sample:
    fields = {"outcome": "answered", "latency_ms": latency, "completion_tokens": 5, **more}
    return Sample("m", f"{role}-server", role, float(n), **fields)  # type: ignore[arg-type]


def by_measure(found: list[Difference]) -> dict[str, Difference]:
    return {d.measure: d for d in found}


def test_no_difference_is_found_where_there_is_none_nearly_always() -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        samples = [
            a_sample(role, float(value))
            for role in ("stable", "canary")
            for value in rng.lognormal(3, 0.5, 60)
        ]
        wrong += by_measure(compare(samples).differences)["latency_ms"].significant
    assert wrong <= 24  # 10 are to be expected of a 95 % interval, 24 in one of 20,000 runs


def test_pairs_see_what_two_groups_hide() -> None:
    rng = np.random.default_rng(3)
    samples = []
    for n, value in enumerate(rng.lognormal(5, 1, 50)):
        samples.append(a_sample("stable", float(value), n, pair=f"p{n}"))
        extra = {"pair": f"p{n}", "equal": False, "token_f1": 0.5, "same_beginning": 0.1}
        slower = float(value) + rng.normal(8, 2)
        samples.append(a_sample("shadow", slower, n, **extra))
    found = compare(samples)
    latency = by_measure(found.differences)["latency_ms"]
    assert latency.paired and latency.significant
    assert latency.low is not None and latency.high is not None
    assert 7 < latency.low < 8 < latency.high < 9
    assert found.pairs is not None and found.pairs.cosine is None
    alone = [s if s.role == "stable" else a_sample("canary", s.latency_ms) for s in samples]
    assert not by_measure(compare(alone).differences)["latency_ms"].significant


def test_failures_are_compared_and_few_calls_tell_no_interval() -> None:
    samples = [a_sample("stable", 1.0) for _ in range(40)]
    samples += [
        a_sample("canary", 1.0, outcome="failed" if n % 2 else "answered") for n in range(40)
    ]
    failed = by_measure(compare(samples).differences)["failed"]
    assert (failed.stable, failed.candidate, failed.significant) == (0.0, 0.5, True)
    few = compare([*samples[:40], *samples[40:45]])
    assert by_measure(few.differences)["failed"].low is None
    assert compare([]).sides == []


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_what_was_not_answered_measures_nothing(outcome: str) -> None:
    (side,) = compare([a_sample("shadow", 0.0, outcome=outcome)]).sides
    assert side.latency_ms is None and (side.failed, side.skipped) == (
        int(outcome == "failed"),
        int(outcome == "skipped"),
    )
