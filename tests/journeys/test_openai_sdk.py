"""The unmodified `openai` SDK and LangChain do their work through a real gateway."""

from __future__ import annotations

import io

import pytest
from openai import OpenAI

from tests.conftest import Gateway

HANDBOOK = b"""# Handbook

## Holidays

Employees receive 27 days of paid holiday each year. Unused days expire on the last day of March.

## Travel

Trains are booked through the travel desk in Lyon. Flights need the approval of a director.
"""


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0)


@pytest.fixture(scope="module")
def store_id(client: OpenAI) -> str:
    store = client.vector_stores.create(name="handbook")
    done = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("handbook.md", io.BytesIO(HANDBOOK))
    )
    assert done.status == "completed", done.last_error
    return store.id


def test_models_are_listed(client: OpenAI) -> None:
    names = [m.id for m in client.models.list()]
    assert names == ["stub", "bge-small-en", "cross-encoder", "late-interaction"]
    assert client.models.retrieve("stub").id == "stub"


def test_chat_whole_and_streamed(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Say something."}]
    whole = client.chat.completions.create(model="stub", messages=messages)  # type: ignore[call-overload]
    assert whole.choices[0].message.content
    parts = client.chat.completions.create(  # type: ignore[call-overload]
        model="stub", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(parts)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].usage.cost_usd > 0


def test_embeddings_as_floats_and_base64(client: OpenAI) -> None:
    by_base64 = client.embeddings.create(model="bge-small-en", input=["a door", "a keeper"])
    by_float = client.embeddings.create(
        model="bge-small-en", input="a door", encoding_format="float"
    )
    assert len(by_base64.data[0].embedding) == 384
    assert by_base64.data[0].embedding == pytest.approx(by_float.data[0].embedding, abs=1e-6)


def test_files_are_uploaded_read_listed_and_deleted(client: OpenAI) -> None:
    made = client.files.create(file=("notes.txt", b"The gate opens at nine."), purpose="assistants")
    assert client.files.retrieve(made.id).filename == "notes.txt"
    assert client.files.content(made.id).read() == b"The gate opens at nine."
    assert made.id in [f.id for f in client.files.list()]
    assert client.files.delete(made.id).deleted
    assert made.id not in [f.id for f in client.files.list()]


def test_search_finds_the_section_and_a_deleted_file_never_returns(client: OpenAI) -> None:
    store = client.vector_stores.create(name="to be emptied")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("handbook.md", io.BytesIO(HANDBOOK)),
        attributes={"year": 2026},
    )
    found = client.vector_stores.search(store.id, query="how many vacation days do I get")
    assert "27 days" in found.data[0].content[0].text
    assert 0 < found.data[0].score <= 1
    filters = {"type": "eq", "key": "year", "value": 2020}
    none = client.vector_stores.search(store.id, query="holiday", filters=filters)  # type: ignore[arg-type]
    assert none.data == []
    client.vector_stores.files.delete(file.id, vector_store_id=store.id)
    assert client.vector_stores.search(store.id, query="vacation days").data == []
    assert client.vector_stores.delete(store.id).deleted


def test_a_grounded_response_cites_the_file(client: OpenAI, store_id: str) -> None:
    response = client.responses.create(
        model="stub",
        input="How many days of paid holiday do employees receive?",
        tools=[{"type": "file_search", "vector_store_ids": [store_id]}],
        include=["file_search_call.results"],
    )
    assert "27 days" in response.output_text
    message = next(o for o in response.output if o.type == "message")
    notes = message.content[0].annotations
    assert notes and notes[0].filename == "handbook.md"
    assert client.responses.retrieve(response.id).output_text == response.output_text


def test_an_unanswerable_question_is_declined(client: OpenAI, store_id: str) -> None:
    response = client.responses.create(
        model="stub",
        input="What is the boiling point of tungsten?",
        tools=[{"type": "file_search", "vector_store_ids": [store_id]}],
    )
    assert response.metadata["ostiary_grounded"] == "false"
    assert "do not know" in response.output_text


def test_a_streamed_grounded_response_says_the_same(client: OpenAI, store_id: str) -> None:
    with client.responses.stream(
        model="stub",
        input="How many days of paid holiday do employees receive?",
        tools=[{"type": "file_search", "vector_store_ids": [store_id]}],
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "response.output_text.annotation.added" in kinds
    assert "27 days" in final.output_text


def test_langchain_chats_and_embeds(gateway: Gateway) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(model="stub", base_url=gateway.url + "/v1", api_key=gateway.key)  # type: ignore[arg-type]
    assert chat.invoke("Say something.").content
    assert "".join(str(c.content) for c in chat.stream("Say something."))
    embeddings = OpenAIEmbeddings(
        model="bge-small-en",
        base_url=gateway.url + "/v1",
        api_key=gateway.key,  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    assert len(embeddings.embed_query("a door")) == 384
