"""Completions of plain text, and what is told of tokens, through a real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import BadRequestError, NotFoundError

from tests.api.governed import Governed, governed

ADDRESS = "Write to anna.berg@example.org today, or call."
MASKED = "Write to <EMAIL_ADDRESS> today, or call."
ASK: list[Any] = [{"role": "user", "content": "Say something."}]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def setup(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Governed]:
    async with governed(tmp_path_factory.mktemp("completions")) as made:
        yield made


async def test_a_text_is_gone_on_with_and_extra_fields_pass(setup: Governed) -> None:
    setup.model.says("in a hole in the ground.")
    raw = await setup.client.completions.with_raw_response.create(
        model="m", prompt=["There lived", "jo@example.org"], echo=True, extra_body={"min_p": 0.1}
    )
    reply = raw.parse()
    assert reply.choices[0].text == "in a hole in the ground."
    sent = setup.model.bodies[-1]
    assert sent["prompt"] == ["There lived", "<EMAIL_ADDRESS>"]
    assert (sent["echo"], sent["min_p"]) == (True, 0.1)
    assert reply.usage is not None and reply.usage.completion_tokens == 6
    assert float(raw.headers["x-ostiary-cost-usd"]) > 0
    assert raw.headers["x-ostiary-guardrails"] == "masked=1;blocked=0"


async def test_a_stream_is_screened_and_its_usage_told_when_asked(setup: Governed) -> None:
    setup.model.says(ADDRESS)
    stream = await setup.client.completions.create(
        model="m", prompt="Go", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].text for c in chunks if c.choices) == MASKED
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 7


async def test_what_is_told_of_tokens_never_spells_a_masked_value(setup: Governed) -> None:
    setup.model.says(ADDRESS)
    whole = await setup.client.completions.create(model="m", prompt="Go", logprobs=1)
    assert whole.choices[0].text == MASKED
    assert whole.choices[0].logprobs is None
    chat = await setup.client.chat.completions.create(model="m", messages=ASK, logprobs=True)
    assert chat.choices[0].message.content == MASKED
    assert chat.choices[0].logprobs is None
    stream = await setup.client.chat.completions.create(
        model="m", messages=ASK, logprobs=True, stream=True
    )
    told = ""
    async for chunk in stream:
        for choice in chunk.choices:
            content = choice.logprobs.content if choice.logprobs else None
            told += "".join(t.token for t in content or ())
    assert told == "Write to "


async def test_log_probabilities_of_a_clean_answer_arrive_whole(setup: Governed) -> None:
    words = ["Doors ", "open ", "inwards."]
    setup.model.says("".join(words))
    chat = await setup.client.chat.completions.create(model="m", messages=ASK, logprobs=True)
    told = chat.choices[0].logprobs
    assert told is not None and told.content is not None
    assert [t.token for t in told.content] == words
    text = await setup.client.completions.create(model="m", prompt="Go", logprobs=1)
    assert text.choices[0].logprobs is not None and text.choices[0].logprobs.tokens == words
    for streamed in (
        await setup.client.chat.completions.create(
            model="m", messages=ASK, logprobs=True, stream=True
        ),
        await setup.client.completions.create(model="m", prompt="Go", logprobs=1, stream=True),
    ):
        found: list[str] = []
        async for chunk in streamed:
            for choice in chunk.choices:
                got: Any = choice.logprobs
                if got is not None:
                    lists = getattr(got, "content", None)
                    found += [t.token for t in lists] if lists else list(got.tokens or ())
        assert found == words


async def test_token_ids_and_unknown_models_are_refused(setup: Governed) -> None:
    with pytest.raises(BadRequestError, match="send text"):
        await setup.client.completions.create(model="m", prompt=[1, 2, 3])
    with pytest.raises(NotFoundError) as caught:
        await setup.client.completions.create(model="nope", prompt="x")
    assert caught.value.code == "model_not_found"
