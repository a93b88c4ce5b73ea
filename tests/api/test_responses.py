"""The Responses API through a real gateway, read by the unmodified `openai` SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import BadRequestError, NotFoundError

from tests.api.governed import HANDBOOK, QUESTION, TRUE, Governed, governed

ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.file_search_call.in_progress",
    "response.file_search_call.searching",
    "response.file_search_call.completed",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.annotation.added",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Governed]:
    async with governed(tmp_path_factory.mktemp("responses")) as made:
        yield made


def search_tool(setup: Governed) -> Any:
    return {"type": "file_search", "vector_store_ids": [setup.store_id], "max_num_results": 3}


async def test_a_streamed_answer_tells_its_events_in_order(setup: Governed) -> None:
    setup.model.says(TRUE)
    stream = await setup.client.responses.create(
        model="m", input=QUESTION, tools=[search_tool(setup)], stream=True
    )
    events = [event async for event in stream]
    assert [e.type for e in events] == ORDER
    assert [e.sequence_number for e in events] == list(range(len(events)))
    final = events[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == TRUE.strip()
    assert final.response.usage is not None and final.response.usage.output_tokens > 0


async def test_results_and_citations_stand_in_the_document(setup: Governed) -> None:
    setup.model.says(TRUE)
    response = await setup.client.responses.create(
        model="m",
        input=QUESTION,
        tools=[search_tool(setup)],
        include=["file_search_call.results"],
        metadata={"ticket": "7"},
    )
    search, message = response.output
    assert search.type == "file_search_call" and search.results
    assert "27 days" in str(search.results[0].text)
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    (note,) = part.annotations
    assert note.type == "file_citation" and note.index == len(part.text)
    assert note.model_extra is not None
    assert note.model_extra["quote"].encode() in HANDBOOK
    assert response.metadata is not None
    assert response.metadata["ostiary_grounded"] == "true"
    assert response.metadata["ticket"] == "7"


async def test_a_question_that_leans_on_an_earlier_one_finds_what_it_means(
    setup: Governed,
) -> None:
    setup.model.says(TRUE)
    first = await setup.client.responses.create(
        model="m", input="Where are train tickets booked?", tools=[search_tool(setup)]
    )
    second = await setup.client.responses.create(
        model="m",
        input="And who approves flights?",
        previous_response_id=first.id,
        tools=[search_tool(setup)],
        include=["file_search_call.results"],
    )
    search = second.output[0]
    assert search.type == "file_search_call" and search.results
    assert "approval of a director" in str(search.results[0].text)


async def test_an_unanswerable_question_is_declined_honestly(setup: Governed) -> None:
    setup.model.says("Tungsten boils at 5930 degrees.")
    response = await setup.client.responses.create(
        model="m", input="What is the boiling point of tungsten?", tools=[search_tool(setup)]
    )
    assert response.output_text == "I do not know: the documents do not answer this."
    assert response.metadata is not None
    assert response.metadata["ostiary_grounded"] == "false"


async def test_a_conversation_goes_on_from_a_kept_response(setup: Governed) -> None:
    setup.model.says("Nice to meet you.")
    first = await setup.client.responses.create(
        model="m", input="My name is Ada.", instructions="Be kind."
    )
    assert first.output_text == "Nice to meet you."
    second = await setup.client.responses.create(
        model="m", input="What is my name?", previous_response_id=first.id
    )
    assert [m["content"] for m in setup.model.bodies[-1]["messages"]] == [
        "My name is Ada.",
        "Nice to meet you.",
        "What is my name?",
    ]
    assert second.previous_response_id == first.id
    kept = await setup.client.responses.retrieve(second.id)
    assert kept.output_text == second.output_text
    await setup.client.responses.delete(second.id)
    with pytest.raises(NotFoundError):
        await setup.client.responses.retrieve(second.id)


async def test_a_response_that_was_not_to_be_kept_is_not_there(setup: Governed) -> None:
    setup.model.says("Gone.")
    response = await setup.client.responses.create(model="m", input="Hi.", store=False)
    with pytest.raises(NotFoundError):
        await setup.client.responses.retrieve(response.id)


async def test_a_function_call_goes_out_and_its_output_comes_in(setup: Governed) -> None:
    setup.model.says("")
    setup.model.tool = {"id": "c1", "function": {"name": "weather", "arguments": '{"at": "Lyon"}'}}
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    response = await setup.client.responses.create(model="m", input="Rain?", tools=[tool])
    assert setup.model.bodies[-1]["tools"][0]["function"]["name"] == "weather"
    (item,) = response.output
    assert item.type == "function_call"
    assert (item.call_id, item.name, item.arguments) == ("c1", "weather", '{"at": "Lyon"}')
    setup.model.says("It rains.")
    answer: Any = [{"type": "function_call_output", "call_id": "c1", "output": "rain"}]
    last = await setup.client.responses.create(
        model="m", input=answer, tools=[tool], previous_response_id=response.id
    )
    assert last.output_text == "It rains."
    assert [m["role"] for m in setup.model.bodies[-1]["messages"]] == ["user", "assistant", "tool"]


async def test_an_answer_cut_by_its_limit_is_incomplete(setup: Governed) -> None:
    setup.model.says("One two")
    setup.model.finish = "length"
    response = await setup.client.responses.create(model="m", input="Hi.", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert setup.model.bodies[-1]["max_tokens"] == 2


async def test_a_cut_stream_tells_the_error_and_fails(setup: Governed) -> None:
    setup.model.says(TRUE + "Unused days expire on the last day of March.")
    setup.model.cut_after = 11
    stream = await setup.client.responses.create(
        model="m", input=QUESTION, tools=[search_tool(setup)], stream=True
    )
    events = [event async for event in stream]
    assert [e.type for e in events][-2:] == ["error", "response.failed"]
    error, failed = events[-2:]
    assert error.type == "error" and error.code == "upstream_cut"
    assert failed.type == "response.failed" and failed.response.status == "failed"


async def test_addresses_are_masked_in_what_is_sent_and_said(setup: Governed) -> None:
    setup.model.says("Ask anna.berg@example.org.")
    response = await setup.client.responses.create(model="m", input="I am jo@example.org.")
    assert setup.model.bodies[-1]["messages"][-1]["content"] == "I am <EMAIL_ADDRESS>."
    assert response.output_text == "Ask <EMAIL_ADDRESS>."


async def test_a_tool_that_is_not_served_is_refused(setup: Governed) -> None:
    tool: Any = {"type": "web_search"}
    with pytest.raises(BadRequestError):
        await setup.client.responses.create(model="m", input="Hi.", tools=[tool])
