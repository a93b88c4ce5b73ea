"""The cases of the Open Responses specification that apply here, each as a test of our own.

The specification (openresponses.org, 2026-04-24) asks of every response the fields below, and of
streams these events; its compliance cases are: a text, a stream, a system prompt, a function call
whole and streamed, an image, and a conversation of several turns.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.api.calls import refused
from tests.api.scripted_house import ScriptedHouse, scripted_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUMBER, NULL = (int, float), type(None)
# what a response must have, and of which types
FIELDS: dict[str, Any] = {
    "id": str,
    "object": str,
    "created_at": int,
    "completed_at": (int, NULL),
    "status": str,
    "incomplete_details": (dict, NULL),
    "model": str,
    "previous_response_id": (str, NULL),
    "instructions": (str, NULL),
    "output": list,
    "error": (dict, NULL),
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "top_logprobs": int,
    "temperature": NUMBER,
    "reasoning": (dict, NULL),
    "user": (str, NULL),
    "usage": (dict, NULL),
    "max_output_tokens": (int, NULL),
    "max_tool_calls": (int, NULL),
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
    "safety_identifier": (str, NULL),
    "prompt_cache_key": (str, NULL),
}
ITEMS: dict[str, dict[str, Any]] = {
    "message": {"id": str, "status": str, "role": str, "content": list},
    "function_call": {"id": str, "call_id": str, "name": str, "arguments": str, "status": str},
    "reasoning": {"id": str, "summary": list, "content": list},
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
ASKED = {"id": "c1", "function": {"name": "get_weather", "arguments": '{"location": "Lyon"}'}}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4"


def check(response: dict[str, Any]) -> None:
    """Everything that the specification asks of a response."""
    for name, kind in FIELDS.items():
        assert name in response, name
        assert isinstance(response[name], kind), (name, response[name])
    assert response["object"] == "response"
    assert (response["completed_at"] is not None) == (response["status"] == "completed")
    for item in response["output"]:
        for name, kind in ITEMS[item["type"]].items():
            assert isinstance(item[name], kind), (item["type"], name)
    usage = response["usage"]
    if usage is not None:
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert isinstance(usage["input_tokens_details"]["cached_tokens"], int)
        assert isinstance(usage["output_tokens_details"]["reasoning_tokens"], int)
    for tool in response["tools"]:
        if tool["type"] == "function":
            assert set(tool) >= {"type", "name", "description", "parameters", "strict"}


def check_stream(events: list[dict[str, Any]]) -> None:
    """The order of a stream's events, and that their parts make up the response."""
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    kinds = [e["type"] for e in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete", "response.failed")
    for event in (events[0], events[1], events[-1]):
        check(event["response"])
    final = events[-1]["response"]
    for index, item in enumerate(final["output"]):
        own = [e for e in events if e.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert own[0]["item"]["status"] == "in_progress"
        assert own[-1]["type"] == "response.output_item.done" and own[-1]["item"] == item
        assert all(e.get("item_id", item["id"]) == item["id"] for e in own)
        said = "".join(e["delta"] for e in own if e["type"].endswith(".delta"))
        (done,) = (
            e
            for e in own
            if e["type"].split(".")[1:]
            in (
                ["output_text", "done"],
                ["reasoning_text", "done"],
                ["function_call_arguments", "done"],
            )
        )
        whole = done.get("text", done.get("arguments"))
        kept = item["arguments"] if "arguments" in item else item["content"][0]["text"]
        assert said == whole == kept


class House(ScriptedHouse):
    async def answer(self, **body: Any) -> dict[str, Any]:
        found = dict(await self.good("POST", "/v1/responses", {"model": "m", **body}))
        check(found)
        return found

    async def stream(self, **body: Any) -> list[dict[str, Any]]:
        import httpx

        async with httpx.AsyncClient(timeout=30) as client:
            reply = await client.post(
                f"{self.gateway.url}/v1/responses",
                json={"model": "m", "stream": True, **body},
                headers={"authorization": f"Bearer {self.gateway.key}"},
            )
        assert reply.headers["content-type"].startswith("text/event-stream")
        blocks = [b for b in reply.text.split("\n\n") if b]
        events = []
        for block in blocks:
            kind, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert kind == f"event: {events[-1]['type']}"
        check_stream(events)
        return events


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    data = tmp_path_factory.mktemp("open-responses") / "data"
    async with scripted_gateway(data, embedded_retrieval="false") as (gateway, model):
        yield House(gateway, model)


@pytest_asyncio.fixture(loop_scope="module")
async def house(running: House) -> House:
    running.model.says("Hello there, friend.")
    return running


def user(content: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": content}


def texts(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


async def test_a_text(house: House) -> None:
    response = await house.answer(input=[user("Say hello in three words.")])
    assert (response["status"], texts(response)) == ("completed", "Hello there, friend.")


async def test_a_stream(house: House) -> None:
    events = await house.stream(input=[user("Count to five.")])
    assert events[-1]["type"] == "response.completed"
    assert texts(events[-1]["response"]) == "Hello there, friend."


async def test_a_system_prompt(house: House) -> None:
    system = {"type": "message", "role": "system", "content": "You are a pirate."}
    await house.answer(input=[system, user("Say hello.")])
    assert house.model.bodies[-1]["messages"] == [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "Say hello."},
    ]


async def test_a_function_call(house: House) -> None:
    house.model.tool = ASKED
    response = await house.answer(input=[user("The weather in Lyon?")], tools=[WEATHER])
    (call,) = response["output"]
    assert (call["type"], call["name"], call["call_id"]) == ("function_call", "get_weather", "c1")
    assert json.loads(call["arguments"]) == {"location": "Lyon"}
    assert response["tools"][0]["strict"] is None


async def test_a_streamed_function_call(house: House) -> None:
    house.model.tool = ASKED
    events = await house.stream(input=[user("The weather in Lyon?")], tools=[WEATHER])
    kinds = [e["type"] for e in events]
    assert kinds[2:-1] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]


async def test_an_image(house: House) -> None:
    parts = [
        {"type": "input_text", "text": "What do you see?"},
        {"type": "input_image", "image_url": PIXEL, "detail": "low"},
    ]
    first = await house.answer(input=[user(parts)])
    sent = [
        {"type": "text", "text": "What do you see?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ]
    assert house.model.bodies[-1]["messages"] == [{"role": "user", "content": sent}]
    await house.answer(input="And now?", previous_response_id=first["id"])
    assert house.model.bodies[-1]["messages"][0]["content"] == sent


async def test_several_turns(house: House) -> None:
    turns = [
        user("My name is Ada."),
        {"type": "message", "role": "assistant", "content": "Hello Ada!"},
        user("What is my name?"),
    ]
    await house.answer(input=turns)
    roles = [m["role"] for m in house.model.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]


async def test_an_answer_goes_back_as_it_came(house: House) -> None:
    """What clients do that keep the conversation themselves: output is put before the input."""
    house.model.tool, house.model.thinks = ASKED, "They ask about Lyon."
    first = await house.answer(input=[user("The weather in Lyon?")], tools=[WEATHER], store=False)
    assert [i["type"] for i in first["output"]] == ["reasoning", "function_call"]
    again = dict(first["output"][1], call_id="c2")
    results = [
        {"type": "function_call_output", "call_id": name, "output": "rain"} for name in ("c1", "c2")
    ]
    house.model.says("It rains.")
    await house.answer(
        input=[user("The weather in Lyon?"), *first["output"], again, *results], tools=[WEATHER]
    )
    asked, calls, *outputs = house.model.bodies[-1]["messages"]
    assert asked["role"] == "user"
    assert [c["id"] for c in calls["tool_calls"]] == ["c1", "c2"]  # one turn, as they were made
    assert [(m["role"], m["tool_call_id"]) for m in outputs] == [("tool", "c1"), ("tool", "c2")]


async def test_what_the_model_thinks_is_an_item_of_its_own_and_screened(house: House) -> None:
    house.model.thinks = "Is it jo@example.org who asks? I think so."
    events = await house.stream(input="Who am I?", reasoning={"effort": "low"})
    final = events[-1]["response"]
    thought, said = final["output"]
    assert (thought["type"], said["type"]) == ("reasoning", "message")
    assert thought["content"][0]["text"] == "Is it <EMAIL_ADDRESS> who asks? I think so."
    assert texts(final) == "Hello there, friend."
    assert house.model.bodies[-1]["reasoning_effort"] == "low"
    assert final["reasoning"] == {"effort": "low"}


async def test_a_form_of_the_text_reaches_the_model_and_is_told(house: House) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "thing", "schema": schema, "strict": True}
    house.model.says('{"a": "b"}')
    response = await house.answer(input="A thing.", text={"format": form})
    assert house.model.bodies[-1]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": schema, "strict": True},
    }
    assert response["text"]["format"] == form
    await house.answer(input="Any.", text={"format": {"type": "json_object"}})
    assert house.model.bodies[-1]["response_format"] == {"type": "json_object"}
    await house.answer(input="Any.", text={"format": {"type": "text"}})
    assert "response_format" not in house.model.bodies[-1]


async def test_what_was_asked_is_repeated(house: House) -> None:
    asked: dict[str, Any] = {
        "instructions": "Be kind.",
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "max_output_tokens": 16,
        "max_tool_calls": 2,
        "parallel_tool_calls": False,
        "metadata": {"a": "b"},
        "safety_identifier": "someone",
        "prompt_cache_key": "key",
        "store": False,
        "tools": [WEATHER],
        "tool_choice": "auto",
    }
    response = await house.answer(input="Hello", **asked)
    del asked["tools"]
    assert {name: response[name] for name in asked} == asked
    sent = house.model.bodies[-1]
    assert (sent["presence_penalty"], sent["parallel_tool_calls"]) == (0.1, False)
    assert sent["user"] == "someone"
    assert not {"metadata", "store", "prompt_cache_key", "text", "truncation"} & set(sent)


async def test_an_answer_that_a_limit_cuts(house: House) -> None:
    house.model.finish = "length"
    events = await house.stream(input="Hello", max_output_tokens=3)
    final = events[-1]["response"]
    assert (events[-1]["type"], final["status"]) == ("response.incomplete", "incomplete")
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"background": True}, "/v1/batches"),
        ({"truncation": "auto"}, "shorten"),
        ({"conversation": "conv_1"}, "previous_response_id"),
        ({"prompt": {"id": "p"}}, "instructions"),
        ({"top_logprobs": 3}, "chat/completions"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "previous_response_id"),
        ({"input": [user([{"type": "input_file", "file_id": "f"}])]}, "file_search"),
        ({"input": [user([{"type": "input_image", "file_id": "f"}])]}, "image_url"),
        ({"input": [user([{"type": "input_audio"}])]}, "not served"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "schema"),
        (
            {
                "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}],
                "text": {"format": {"type": "json_object"}},
            },
            "cited text",
        ),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}, WEATHER]}, "search"),
    ],
)
async def test_what_is_not_served_is_refused_with_what_to_do(
    house: House, change: dict[str, Any], word: str
) -> None:
    reply = await house.send("POST", "/v1/responses", {"model": "m", "input": "Hi", **change})
    assert word in refused(reply)["message"]
    assert not house.model.bodies
