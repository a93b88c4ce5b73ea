"""Checks of answers by themselves: what they find, what they tell, and that they fail closed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from app.errors import GuardrailViolation, Unavailable
from app.gateway.call import Call
from app.guardrails.demands import JsonAnswers, Topic
from app.guardrails.documents import read_document
from app.guardrails.in_force import InForce
from app.guardrails.json_answers import BadSchema, json_fault
from app.guardrails.pii import PiiDetector
from app.guardrails.policy import Policy
from app.guardrails.service import Guardrails
from app.guardrails.topics import BESIDE, EVERYDAY, FAR, Topics
from app.llm.answer_checks import AnswerChecks
from app.llm.gathered import Gathered, chunks_of
from app.llm.json_demand import JsonDemand
from app.llm.openai_types import ChatCompletionRequest
from app.llm.request_texts import asked_again, texts_of_user
from app.llm.responses_types import ResponsesRequest
from app.pools import Pool
from tests.guardrails.texts import KEY

MAIL = "jane.roe@example.com"
WORDS = Topic(name="coins", words=["bitcoin", "gold  coin"], output="block")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool("checks", 1)
    yield pool
    pool.close()


def policy(**document: Any) -> Policy:
    return read_document("own", {"entities": {}, **document})


def checks(pool: Pool, wanted: Policy, topics: Topics) -> AnswerChecks:
    return AnswerChecks(Guardrails(wanted, PiiDetector(), pool, False, KEY), topics)


def new_call() -> Call:
    return Call("call_1", "r1", "test", "test")


def chat(text: str) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": text}]}
    )


def no_model() -> None:
    return None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Is BITCOIN good?", "BITCOIN"),
        (
            "Is \uff22\uff49\uff54\uff43\uff4f\uff49\uff4e good?",
            "\uff22\uff49\uff54\uff43\uff4f\uff49\uff4e",
        ),
        ("a Gold coin.", "Gold coin"),
        ("bitcoins", None),
        ("marigold coin", None),
    ],
)
async def test_a_word_is_found_whole_whatever_its_capitals_and_width(
    text: str, place: str | None
) -> None:
    found = await Topics(no_model).find([WORDS], text)
    assert [text[f.start : f.end] for f in found] == ([] if place is None else [place])


async def test_sentences_are_embedded_once_and_the_surest_one_is_told() -> None:
    asked: list[str] = []

    async def embed(texts: Sequence[str]) -> Any:
        asked.extend(texts)
        return np.array([[1.0, 0.0] if "fund" in t else [0.0, 1.0] for t in texts], np.float32)

    topics = Topics(lambda: embed)
    topic = Topic(name="funds", examples=["Buy this fund."], allowed=["The door is open."])
    text = "We open at nine. Put it all in a fund. Good bye, then."
    for _ in range(2):
        (hit,) = await topics.find([topic], text)
        assert text[hit.start : hit.end].strip() == "Put it all in a fund."
        assert hit.score == pytest.approx(2 + BESIDE * FAR)
    assert len(asked) == 5 + len(EVERYDAY)


async def test_a_check_that_fails_refuses_the_call(pool: Pool) -> None:
    async def broken(texts: Sequence[str]) -> Any:
        raise RuntimeError("no")

    topic = {"name": "x", "examples": ["Buy this fund."], "input": "annotate", "output": "annotate"}
    for topics in (Topics(lambda: broken), Topics(no_model)):
        made = checks(pool, policy(topics=[topic]), topics)
        with pytest.raises(Unavailable) as refusal:
            await made.screen_input(new_call(), chat("Is this fund good?"))
        assert refusal.value.code == "guardrail_unavailable"
        reply = {"choices": [{"message": {"content": "Buy this fund now."}}]}

        async def again(reason: str) -> dict[str, Any]:
            raise AssertionError

        with pytest.raises(Unavailable):
            await made.settle(new_call(), {}, reply, again)


async def test_what_follows_a_retry_is_done_when_the_second_answer_falls_short_too(
    pool: Pool,
) -> None:
    for then, more in (("annotate", {}), ("replace", {"replacement": "No."}), ("block", {})):
        wanted = {"action": "retry", "then": then, "every": True, **more}
        made = checks(pool, policy(json_answers=wanted), Topics(no_model))
        reasons: list[str] = []

        async def again(reason: str, told: list[str] = reasons) -> dict[str, Any]:
            told.append(reason)
            return {"choices": [{"message": {"content": "second"}}]}

        call = new_call()
        first = {"choices": [{"message": {"content": f"first {MAIL}"}}]}
        if then == "block":
            with pytest.raises(GuardrailViolation):
                await made.settle(call, {}, first, again)
        else:
            reply, clean = await made.settle(call, {}, first, again)
            said = reply["choices"][0]["message"]["content"]
            assert (said, clean) == ("second" if then == "annotate" else "No.", False)
        assert len(reasons) == 1 and MAIL not in reasons[0]
        assert call.findings == {
            ("output", "INVALID_JSON", "retry"): 1,
            ("output", "INVALID_JSON", then): 1,
        }


def test_what_is_told_of_wrong_json_holds_no_value_of_it() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}, "b": {"maxLength": 2}}}
    fault = json_fault(f'{{"a": "{MAIL}", "b": "{MAIL}"}}', schema)
    assert fault is not None and MAIL not in fault
    assert "at $.a: " in fault and "at $.b: " in fault
    assert json_fault('{"a": "x"}', schema) is None
    for text in ("", "NaN", "{'a': 1}", '{"a": 1', "[" * 100_000, '"\\ud800"'):
        assert json_fault(text, {}) is not None


def test_a_hostile_schema_costs_no_time_and_fetches_nothing() -> None:
    began = time.perf_counter()
    assert json_fault(f'"{"a" * 30_000}b"', {"pattern": "^(a+)+$"}) is not None
    assert time.perf_counter() - began < 2
    for schema in ({"$ref": "http://127.0.0.1:1/x"}, {"$ref": "file:///etc/hostname"}):
        with pytest.raises(BadSchema):
            json_fault("1", schema)


@pytest.mark.parametrize(
    ("wanted", "body", "text", "fits"),
    [
        ({}, {}, "any text", True),
        ({}, {"response_format": {"type": "text"}}, "any text", True),
        ({}, {"response_format": {"type": "json_object"}}, "[]", False),
        ({}, {"response_format": {"type": "json_object"}}, "{}", True),
        ({"every": True}, {}, "[]", True),
        ({"every": True}, {}, "any text", False),
        ({"form": {"type": "array"}}, {}, "{}", False),
        ({"form": {"type": "array"}}, {"response_format": {"type": "json_object"}}, "{}", False),
        ({"form": {"required": ["a"]}}, {"response_format": {"type": "json_object"}}, "{}", False),
    ],
)
def test_an_answer_satisfies_the_request_and_the_policy(
    wanted: dict[str, Any], body: dict[str, Any], text: str, fits: bool
) -> None:
    demand = JsonDemand(JsonAnswers.model_validate({"action": "block", **wanted}), body)
    assert (not list(demand.faults({"message": {"content": text}}, text))) is fits


def test_a_whole_reply_told_as_a_stream_says_the_same() -> None:
    function = {"name": "buy", "arguments": '{"price": 3}'}
    message = {
        "role": "assistant",
        "content": "Yes.",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    whole = {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls"},
            {"index": 1, "message": {"content": "No."}, "finish_reason": "length"},
        ],
    }
    gathered = Gathered()
    for chunk in chunks_of(whole):
        assert chunk["object"] == "chat.completion.chunk"
        gathered.take(chunk)
    first, second = gathered.choices()
    assert first["message"]["content"] == "Yes." and first["finish_reason"] == "tool_calls"
    assert [t["function"] for t in first["message"]["tool_calls"]] == [function]
    assert second["message"]["content"] == "No." and second["finish_reason"] == "length"


def test_a_model_is_asked_again_with_the_reason_after_the_users_last_words() -> None:
    def last(content: Any, role: str = "user") -> list[Any]:
        body = {
            "messages": [{"role": "system", "content": "s"}, {"role": role, "content": content}]
        }
        return list(asked_again(body, "why")["messages"][1:])

    assert last("hi") == [{"role": "user", "content": "hi\n\nwhy"}]
    assert last([{"type": "text", "text": "hi"}])[0]["content"][-1]["text"] == "why"
    assert last("out", "tool")[-1] == {"role": "user", "content": "why"}
    assert asked_again({"prompt": ["a", "b"]}, "why")["prompt"] == ["a\n\nwhy\n", "b\n\nwhy\n"]


def test_only_the_users_own_words_are_looked_at_for_topics() -> None:
    request = ResponsesRequest.model_validate(
        {
            "model": "m",
            "instructions": "by the application",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
                {"role": "assistant", "content": "said"},
                {"type": "function_call_output", "call_id": "c", "output": "from a tool"},
                {"role": "user", "content": "two"},
            ],
        }
    )
    assert texts_of_user(request) == ["one", "two"]


async def test_a_policy_with_examples_needs_an_embedding_model() -> None:
    topic = {"name": "x", "examples": ["Buy this fund."], "input": "block"}
    in_force = InForce(None, policy(), lambda: None, embeds=False)  # type: ignore[arg-type]
    with pytest.raises(Unavailable) as refusal:
        await in_force.prepare(policy(topics=[topic]))
    assert refusal.value.code == "policy_unavailable"
    assert "OSTIARY_EMBEDDED_RETRIEVAL" in refusal.value.message
    await in_force.prepare(policy(topics=[{**topic, "examples": [], "words": ["fund"]}]))
