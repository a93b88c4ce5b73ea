"""The wire shapes: what is refused, what is passed on, and what the OpenAI SDK makes of replies."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion as SdkCompletion
from openai.types.responses import Response as SdkResponse
from pydantic import ValidationError

from app.llm.openai_replies import (
    ChatCompletion,
    ChatMessage,
    Choice,
    Embedding,
    EmbeddingsResponse,
    EmbeddingsUsage,
    FileCitation,
    FileSearchCall,
    FileSearchResult,
    OutputMessage,
    OutputText,
    ResponseObject,
    ResponseUsage,
    Usage,
)
from app.llm.openai_types import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingsRequest,
)
from app.llm.request_texts import replace_texts, texts_of
from app.llm.response_chat import messages_of
from app.llm.responses_types import ResponsesRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "change",
    [
        *({"messages": []}, {"messages": [{"role": "alien", "content": "x"}]}, {"model": ""}),
        *({"messages": [{"role": "user", "content": None}]}, {"temperature": 2.1}, {"n": 0}),
        *({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, {"max_tokens": 0}),
        *({"temperature": "0.5"}, {"stream": "yes"}, {"stop": 5}, {"messages": "hi"}),
        *({"ostiary": {"vector_store_ids": []}}, {"ostiary": {"vector_store_ids": ["a"], "x": 1}}),
    ],
)
def test_a_wrong_chat_body_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatCompletionRequest.model_validate(CHAT | change)


def test_unknown_fields_go_on_to_the_server_and_ours_do_not() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:,"}}
    sent = CHAT | {
        "temperature": 1,
        "structured_outputs": {"json": {}},
        "messages": [{"role": "user", "content": [part], "name": "Ann"}],
    }
    request = ChatCompletionRequest.model_validate(
        sent | {"ostiary": {"vector_store_ids": ["vs_1"]}}
    )
    assert request.upstream_body() == sent


def test_every_text_of_a_chat_is_read_and_replaced_and_the_original_stays() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    request = ChatCompletionRequest.model_validate(
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "a"},
                {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "c", "tool_call_id": "1"},
            ],
        }
    )
    assert texts_of(request) == ["a", "b", '{"a": 1}', "c"]
    changed = replace_texts(request, ["A", "B", "{}", "C"])
    assert texts_of(changed) == ["A", "B", "{}", "C"]
    assert texts_of(request)[0] == "a" and texts_of(request)[2] == '{"a": 1}'
    with pytest.raises(ValueError, match="4 texts"):
        replace_texts(request, ["A"])


@pytest.mark.parametrize("given", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_every_form_of_embeddings_input_is_taken(given: Any) -> None:
    assert EmbeddingsRequest.model_validate({"model": "m", "input": given}).input == given


@pytest.mark.parametrize(
    ("sent", "texts"),
    [
        ({"prompt": "a"}, ["a"]),
        ({"prompt": ["a", "b"], "suffix": "c"}, ["a", "b", "c"]),
    ],
)
def test_every_text_of_a_completion_is_read_and_replaced(
    sent: dict[str, Any], texts: list[str]
) -> None:
    request = CompletionRequest.model_validate({"model": "m", **sent})
    assert texts_of(request) == texts
    changed = replace_texts(request, [t.upper() for t in texts])
    assert texts_of(changed) == [t.upper() for t in texts]
    assert request.upstream_body() == {"model": "m", **sent}


@pytest.mark.parametrize("prompt", [[1, 2], [[1], [2]], [], None, ["a", 1]])
def test_a_prompt_that_guardrails_cannot_read_is_refused(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"model": "m", "prompt": prompt})


@pytest.mark.parametrize("given", ["", [], [""], [[]], ["a", 1], 5, None])
def test_empty_or_mixed_embeddings_input_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        EmbeddingsRequest.model_validate({"model": "m", "input": given})


def test_a_responses_input_becomes_chat_messages() -> None:
    request = ResponsesRequest.model_validate(
        {
            "model": "m",
            "instructions": "be brief",
            "input": [
                {"role": "developer", "content": "rules"},
                {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "q"}],
                },
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "42"},
            ],
            "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 5}],
        }
    )
    tool = request.file_search()
    assert tool is not None and tool.vector_store_ids == ["vs_1"]
    assert [m["role"] for m in messages_of(request)] == [
        *("system", "system", "user", "assistant", "tool")
    ]
    assert texts_of(request) == ["be brief", "rules", "q", "{}", "42"]
    assert texts_of(replace_texts(request, list("abcde"))) == list("abcde")


@pytest.mark.parametrize(
    "change",
    [
        *({"input": []}, {"input": [{"role": "user"}]}, {"tools": [{"type": "web_search"}]}),
        {"tools": [{"type": "file_search", "vector_store_ids": []}]},
        {"input": [{"type": "function_call", "name": "f"}]},
    ],
)
def test_a_wrong_responses_body_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResponsesRequest.model_validate({"model": "m", "input": "q"} | change)


def test_the_openai_sdk_reads_our_replies() -> None:
    chat = ChatCompletion(
        model="m",
        choices=[Choice(message=ChatMessage(content="hi"))],
        usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
    )
    read = SdkCompletion.model_validate(chat.model_dump(), strict=True)
    assert read.choices[0].message.content == "hi"
    vectors = EmbeddingsResponse(
        data=[Embedding(index=0, embedding=[0.5])],
        model="e",
        usage=EmbeddingsUsage(prompt_tokens=1, total_tokens=1),
    )
    assert CreateEmbeddingResponse.model_validate(vectors.model_dump()).data[0].embedding == [0.5]


def test_the_openai_sdk_reads_our_responses_with_search_and_citations() -> None:
    found = FileSearchResult(
        file_id="file-1", filename="a.txt", score=0.9, text="t", attributes={"page": 3.0}
    )
    cited = FileCitation(file_id="file-1", filename="a.txt", index=5)
    response = ResponseObject(
        model="m",
        output=[
            FileSearchCall(queries=["q"], results=[found]),
            OutputMessage(content=[OutputText(text="the answer", annotations=[cited])]),
        ],
        usage=ResponseUsage(input_tokens=1, output_tokens=2, total_tokens=3),
    )
    read = SdkResponse.model_validate(response.model_dump(mode="json"))
    assert read.output_text == "the answer"
    assert [item.type for item in read.output] == ["file_search_call", "message"]
    assert read.output[1].content[0].annotations[0].filename == "a.txt"  # type: ignore[union-attr,index]
    assert read.usage is not None and read.usage.output_tokens == 2


def test_refusals_are_texts_too_wherever_they_stand() -> None:
    refusal = {"type": "refusal", "refusal": "I am jo@example.org"}
    result = {"type": "function_call_output", "call_id": "c", "output": [refusal]}
    said = {"role": "assistant", "content": [refusal]}
    for request in (
        ResponsesRequest.model_validate({"model": "m", "input": [said, result]}),
        ChatCompletionRequest.model_validate({"model": "m", "messages": [said, said]}),
    ):
        assert texts_of(request) == 2 * ["I am jo@example.org"]
        changed = replace_texts(request, ["one", "two"])
        assert texts_of(changed) == ["one", "two"]
