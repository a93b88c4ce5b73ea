"""Chat completions through a real gateway: intact, screened both ways, grounded when asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio
from openai import APIError, NotFoundError

from tests.api.governed import HANDBOOK, QUESTION, TRUE, Governed, governed

ASK: list[Any] = [{"role": "user", "content": "Say something."}]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Governed]:
    async with governed(tmp_path_factory.mktemp("chat")) as made:
        yield made


async def raw(setup: Governed, body: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Headers and bytes of one chat, as they came."""
    headers = {"authorization": f"Bearer {setup.gateway.key}"}
    url = setup.gateway.url + "/v1/chat/completions"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json={"model": "m", "messages": ASK, **body}) as reply,
    ):
        return dict(reply.headers), await reply.read()


def events(data: bytes) -> list[Any]:
    parts = [p.removeprefix(b"data: ") for p in data.split(b"\n\n") if p]
    return [p if p == b"[DONE]" else orjson.loads(p) for p in parts]


async def test_unknown_fields_reach_the_model_and_its_own_come_back(setup: Governed) -> None:
    setup.model.says("Hello.")
    headers, data = await raw(setup, {"min_p": 0.1, "chat_template_kwargs": {"a": 1}})
    assert setup.model.bodies[-1]["min_p"] == 0.1
    assert setup.model.bodies[-1]["chat_template_kwargs"] == {"a": 1}
    reply = orjson.loads(data)
    assert reply["kept"] == "as is"
    assert reply["usage"]["cost_usd"] == pytest.approx(float(headers["x-ostiary-cost-usd"]))


async def test_an_unknown_model_is_named(setup: Governed) -> None:
    with pytest.raises(NotFoundError) as caught:
        await setup.client.chat.completions.create(model="nope", messages=ASK)
    assert caught.value.code == "model_not_found"


async def test_an_address_is_masked_before_the_model_and_after_it(setup: Governed) -> None:
    setup.model.says("Write to anna.berg@example.org today.")
    headers, data = await raw(
        setup, {"messages": [{"role": "user", "content": "I am jo@example.org, who are you?"}]}
    )
    assert setup.model.bodies[-1]["messages"][0]["content"] == "I am <EMAIL_ADDRESS>, who are you?"
    content = orjson.loads(data)["choices"][0]["message"]["content"]
    assert content == "Write to <EMAIL_ADDRESS> today."
    assert headers["x-ostiary-guardrails"] == "masked=2;blocked=0"


async def test_a_stream_never_shows_an_address_and_ends_as_it_should(setup: Governed) -> None:
    setup.model.says("Write to anna.berg@example.org today, or call.")
    _, data = await raw(setup, {"stream": True})
    assert b"anna" not in data
    *chunks, done = events(data)
    assert done == b"[DONE]"
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == "Write to <EMAIL_ADDRESS> today, or call."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert not any("usage" in c for c in chunks)  # it was not asked for
    assert setup.model.bodies[-1]["stream_options"] == {"include_usage": True}


async def test_usage_and_cost_come_last_when_asked_for(setup: Governed) -> None:
    setup.model.says("One two three.")
    _, data = await raw(setup, {"stream": True, "stream_options": {"include_usage": True}})
    last = events(data)[-2]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["cost_usd"] > 0


async def test_a_refused_secret_says_what_to_do(setup: Governed) -> None:
    _, data = await raw(setup, {"messages": [{"role": "user", "content": "My SSN: 536-90-4399"}]})
    error = orjson.loads(data)["error"]
    assert error["code"] == "guardrail_violation"
    assert "US_SSN" in error["message"] and "4399" not in error["message"]


async def test_a_cut_stream_ends_with_an_error_and_not_with_done(setup: Governed) -> None:
    setup.model.says("one two three four five six seven eight")
    setup.model.cut_after = 4
    _, data = await raw(setup, {"stream": True})
    *_, last = events(data)
    assert last["error"]["code"] == "upstream_cut"
    assert b"[DONE]" not in data
    with pytest.raises(APIError):
        stream = await setup.client.chat.completions.create(model="m", messages=ASK, stream=True)
        _ = [chunk async for chunk in stream]


async def grounded(setup: Governed, question: str, **more: Any) -> Any:
    body = {"ostiary": {"vector_store_ids": [setup.store_id]}}
    messages: list[Any] = [{"role": "user", "content": question}]
    return await setup.client.chat.completions.create(
        model="m", messages=messages, extra_body=body, **more
    )


async def test_a_grounded_chat_cites_what_stands_in_the_document(setup: Governed) -> None:
    setup.model.says(TRUE)
    reply = await grounded(setup, QUESTION)
    message = reply.choices[0].message
    assert message.content == TRUE.strip()
    (note,) = reply.model_dump()["choices"][0]["message"]["annotations"]
    assert note["filename"] == "handbook.md"
    assert note["quote"].encode() in HANDBOOK
    assert reply.ostiary["grounded"] is True


async def test_a_grounded_stream_says_the_same(setup: Governed) -> None:
    setup.model.says(TRUE)
    stream = await grounded(setup, QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == TRUE.strip()
    assert chunks[-1].choices[0].delta.annotations[0]["quote"].encode() in HANDBOOK


async def test_a_question_beside_the_documents_is_declined(setup: Governed) -> None:
    setup.model.says("Tungsten boils at 5930 degrees.")
    reply = await grounded(setup, "What is the boiling point of tungsten?")
    assert "do not know" in reply.choices[0].message.content
    assert reply.choices[0].message.annotations == []
    assert reply.ostiary["grounded"] is False
    assert setup.model.bodies == []


async def test_without_the_model_a_grounded_chat_quotes_and_says_so_then_heals(
    setup: Governed,
) -> None:
    port = int(setup.model.url.split(":")[2].split("/")[0])
    await setup.model.stop()
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "ostiary": {"vector_store_ids": [setup.store_id]},
    }
    headers, data = await raw(setup, body)
    assert headers["x-ostiary-degraded"] == "llm-unavailable"
    assert "27 days" in orjson.loads(data)["choices"][0]["message"]["content"]
    _, plain = await raw(setup, {})
    assert orjson.loads(plain)["error"]["code"] == "llm_unavailable"
    await setup.model.start(port)
    setup.model.says("Back.")
    for _ in range(600):  # probes find it again by themselves
        _, data = await raw(setup, {})
        if "choices" in orjson.loads(data):
            break
    assert orjson.loads(data)["choices"][0]["message"]["content"] == "Back."
