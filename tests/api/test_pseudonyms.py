"""Pseudonyms from outside: the model never reads a value, and its caller reads nothing else."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import APIStatusError, AsyncOpenAI

from tests.api.calls import Reply, new_key, send
from tests.api.governed import Governed, governed

POLICY = """
name = "pseudonyms"
[entities]
PERSON = { input = "pseudonymize" }
EMAIL_ADDRESS = { input = "pseudonymize", output = "mask" }
CREDIT_CARD = { input = "pseudonymize", output = "mask" }
CODE_NAME = { input = "pseudonymize" }
[[recognizers]]
entity = "CODE_NAME"
deny_list = ['Blue "Bird"']
"""
NAME, MAIL, CODE = "Ada Lovelace", "ada@corp.io", 'Blue "Bird"'
SAID = f"My name is {NAME}. Write to {MAIL} about the case {CODE} please."
MADE_UP = "bob@corp.io"
PRIVATE = ("Lovelace", "Ada", "corp.io", "Bird")
FLIGHTS = b"# Flights\n\nFlights to Lisbon are approved by Ada Lovelace at the travel desk.\n"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Governed]:
    folder = tmp_path_factory.mktemp("pseudonyms")
    (policy := folder / "pseudonyms.toml").write_text(POLICY)
    env = {"OSTIARY_GUARDRAIL_POLICY": str(policy), "OSTIARY_AUDIT_BODIES": "true"}
    async with governed(folder, **env) as made:
        yield made


async def sent(house: Governed, *what: Any) -> Reply:
    """One request; the scripted model lives in this event loop."""
    return await asyncio.to_thread(send, house.gateway, *what)


def read(house: Governed) -> str:
    """All that the model was sent last."""
    told = json.dumps(house.model.bodies[-1], ensure_ascii=False)
    assert not any(part in told for part in PRIVATE), told
    return told


def said_to(house: Governed) -> str:
    return str(house.model.bodies[-1]["messages"][-1]["content"])


def named(text: str) -> tuple[str, str, str]:
    """What stands for the name, the address and the case."""
    found = re.fullmatch(r"My name is (.+)\. Write to (\S+) about the case (\S+) please\.", text)
    assert found is not None, text
    return found[1], found[2], found[3]


async def asked(house: Governed, text: str = SAID) -> tuple[str, str, str]:
    """The surrogates of a conversation that begins so."""
    house.model.says("Hello.")
    messages: Any = [{"role": "user", "content": text}]
    await house.client.chat.completions.create(model="m", messages=messages)
    read(house)
    return named(said_to(house))


ASK: list[Any] = [{"role": "user", "content": SAID}]


async def test_a_chat_reads_surrogates_and_its_caller_values(house: Governed) -> None:
    name, mail, case = await asked(house)
    assert re.fullmatch(r"[A-Z]\w+ [A-Z]\w+", name) and mail.split("@")[1].startswith("example.")
    family = name.split()[1]
    house.model.says(f"Dear Ms. {family}, {mail} is noted, {MADE_UP} too. {name}: {case}.")
    reply = await house.client.chat.completions.create(model="m", messages=ASK)
    assert named(said_to(house)) == (name, mail, case)
    assert reply.choices[0].message.content == (
        f"Dear Ms. Lovelace, {MAIL} is noted, <EMAIL_ADDRESS> too. {NAME}: {CODE}."
    )


@pytest.mark.parametrize("piece", [r"\S+\s*", "(?s).", "(?s).{1,7}"])
async def test_a_stream_restores_what_is_split_over_chunks(house: Governed, piece: str) -> None:
    name, mail, case = await asked(house)
    house.model.says(f"So, {name}: {case} goes to {mail}, not to {MADE_UP}. Bye {name}")
    house.model.thinks, house.model.piece = f"The user is {name}. ", piece
    stream = await house.client.chat.completions.create(model="m", messages=ASK, stream=True)
    told, thought = "", ""
    async for chunk in stream:
        for choice in chunk.choices:
            told += choice.delta.content or ""
            thought += (choice.delta.model_extra or {}).get("reasoning") or ""
    assert told == f"So, {NAME}: {CODE} goes to {MAIL}, not to <EMAIL_ADDRESS>. Bye {NAME}"
    assert thought == f"The user is {NAME}. "


@pytest.mark.parametrize("stream", [False, True])
async def test_arguments_of_tools_hold_values_and_stay_json(house: Governed, stream: bool) -> None:
    name, mail, case = await asked(house)
    wanted = {"to": f"{name} <{mail}>", "body": f"Dear\n{name}\tabout {case}", "cc": [MADE_UP]}
    arguments = json.dumps(wanted)
    house.model.says("")
    house.model.tool = {"id": "c1", "function": {"name": "send", "arguments": arguments}}
    house.model.piece = "(?s).{1,3}"
    tools: Any = [{"type": "function", "function": {"name": "send", "parameters": {}}}]
    if stream:
        told, parts = (
            "",
            await house.client.chat.completions.create(
                model="m", messages=ASK, tools=tools, stream=True
            ),
        )
        async for chunk in parts:
            for choice in chunk.choices:
                for call in choice.delta.tool_calls or ():
                    told += (call.function and call.function.arguments) or ""
    else:
        reply = await house.client.chat.completions.create(model="m", messages=ASK, tools=tools)
        made = (reply.choices[0].message.tool_calls or [])[0]
        assert made.type == "function"
        told = made.function.arguments
    assert json.loads(told) == {
        "to": f"{NAME} <{MAIL}>",
        "body": f"Dear\n{NAME}\tabout {CODE}",
        "cc": ["<EMAIL_ADDRESS>"],
    }
    after: list[Any] = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "send", "arguments": told}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": f"Sent to {NAME}."},
    ]
    house.model.says("Done.")
    await house.client.chat.completions.create(model="m", messages=after)
    history = house.model.bodies[-1]["messages"]
    assert name in history[1]["tool_calls"][0]["function"]["arguments"]
    assert history[2]["content"] == f"Sent to {name}."


async def test_a_reply_that_is_to_be_json_stays_json(house: Governed) -> None:
    _, mail, case = await asked(house)
    house.model.says(json.dumps({"case": case, "mail": mail}))
    form: Any = {"type": "json_object"}
    for stream in (False, True):
        house.model.piece = "(?s).{1,4}"
        if stream:
            told, parts = (
                "",
                await house.client.chat.completions.create(
                    model="m", messages=ASK, response_format=form, stream=True
                ),
            )
            async for chunk in parts:
                told += "".join(c.delta.content or "" for c in chunk.choices)
        else:
            reply = await house.client.chat.completions.create(
                model="m", messages=ASK, response_format=form
            )
            told = str(reply.choices[0].message.content)
        assert json.loads(told) == {"case": CODE, "mail": MAIL}


async def test_completions_are_restored_too(house: Governed) -> None:
    house.model.says("Yes.")
    await house.client.completions.create(model="m", prompt=SAID)
    name, mail, _ = named(str(house.model.bodies[-1]["prompt"]))
    house.model.says(f"{name} has {mail}")
    house.model.piece = "(?s).{1,5}"
    whole = await house.client.completions.create(model="m", prompt=SAID)
    assert whole.choices[0].text == f"{NAME} has {MAIL}"
    parts = await house.client.completions.create(model="m", prompt=SAID, stream=True)
    told = "".join([c.text async for chunk in parts for c in chunk.choices])
    assert told == f"{NAME} has {MAIL}"


async def test_earlier_turns_keep_their_surrogates(house: Governed) -> None:
    name, mail, case = await asked(house)
    house.model.says("Yes.")
    turns: list[Any] = [
        *ASK,
        {"role": "assistant", "content": f"Hello {NAME}."},
        {"role": "user", "content": f"Is {MAIL} mine? My friend is Grace Hopper."},
    ]
    await house.client.chat.completions.create(model="m", messages=turns)
    first, second, third = (m["content"] for m in house.model.bodies[-1]["messages"])
    assert named(first) == (name, mail, case) and second == f"Hello {name}."
    assert third.startswith(f"Is {mail} mine?") and "Hopper" not in third


async def test_a_conversation_that_is_named_has_its_surrogates_and_another_its_own(
    house: Governed,
) -> None:
    async def known(conversation: str, before: str) -> str:
        house.model.says("Yes.")
        messages: Any = [{"role": "user", "content": f"{before} I am at {MAIL} now."}]
        named_so = {"x-ostiary-conversation": conversation}
        await house.client.chat.completions.create(
            model="m", messages=messages, extra_headers=named_so
        )
        return said_to(house).split()[-2]

    one = await known("c-1", "Hello.")
    assert one == await known("c-1", "Shortened.") and one != await known("c-2", "Hello.")
    with pytest.raises(APIStatusError) as refusal:
        await known("not a name", "")
    assert refusal.value.status_code == 400


async def test_responses_go_on_with_the_surrogates_they_began_with(house: Governed) -> None:
    house.model.says("Hello.")
    first = await house.client.responses.create(model="m", input=SAID, instructions=f"Greet {NAME}")
    name, mail, case = named(said_to(house))
    assert first.instructions == f"Greet {NAME}" and name in read(house)
    house.model.says(f"{name} has {mail}: {case}. Not {MADE_UP}.")
    house.model.piece = "(?s).{1,3}"
    stream = await house.client.responses.create(
        model="m", input=f"Who am I? Not {NAME}?", previous_response_id=first.id, stream=True
    )
    told, final = "", None
    async for event in stream:
        told += event.delta if event.type == "response.output_text.delta" else ""
        final = event.response if event.type == "response.completed" else final
    shown = f"{NAME} has {MAIL}: {CODE}. Not <EMAIL_ADDRESS>."
    assert final is not None and told == final.output_text == shown
    history = [m["content"] for m in house.model.bodies[-1]["messages"]]
    assert named(history[0]) == (name, mail, case) and history[2] == f"Who am I? Not {name}?"
    read(house)
    kept = await house.client.responses.retrieve(final.id)
    assert kept.output_text == shown
    house.model.says("")
    arguments = json.dumps({"who": name, "case": case})
    house.model.tool = {"id": "c1", "function": {"name": "send", "arguments": arguments}}
    tool: Any = {"type": "function", "name": "send", "parameters": {"type": "object"}}
    last = await house.client.responses.create(
        model="m", input="Send it.", tools=[tool], previous_response_id=final.id
    )
    for made in (last, await house.client.responses.retrieve(last.id)):
        (item,) = made.output
        assert item.type == "function_call"
        assert json.loads(item.arguments) == {"who": NAME, "case": CODE}


async def test_what_is_kept_holds_no_value_and_its_map_expires(house: Governed) -> None:
    house.model.says("Hello.")
    first = await house.client.responses.create(model="m", input=SAID)
    name, _, _ = named(said_to(house))
    house.model.says(f"You are {name}.")
    one = await house.client.responses.create(model="m", input="?", previous_response_id=first.id)
    assert one.output_text == f"You are {NAME}."
    path = house.gateway.data_dir / "ostiary.db"
    with sqlite3.connect(path) as db:
        query = "SELECT input, body, pseudonyms FROM responses WHERE id = ?"
        asked, body, sealed = db.execute(query, [one.id]).fetchone()
        assert name in body and name in asked
        assert not any(part in f"{asked}{body}{sealed!r}" for part in PRIVATE)
        change = "UPDATE responses SET pseudonyms = ?, pseudonyms_until = ? WHERE id = ?"
        db.execute(change, [sealed[:-1] + bytes([sealed[-1] ^ 1]), 1e12, one.id])
        db.commit()
        for status, code in ((503, "pseudonyms_unavailable"), (409, "pseudonyms_expired")):
            with pytest.raises(APIStatusError) as refusal:
                await house.client.responses.create(
                    model="m", input="And?", previous_response_id=one.id
                )
            assert (refusal.value.status_code, refusal.value.code) == (status, code)
            with pytest.raises(APIStatusError) as refusal:
                await house.client.responses.retrieve(one.id)
            assert refusal.value.status_code == status
            db.execute(change, [sealed, 1.0, one.id])
            db.commit()


async def test_a_grounded_answer_has_one_surrogate_for_one_person(house: Governed) -> None:
    store = house.store_id
    await house.client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("flights.md", io.BytesIO(FLIGHTS))
    )
    question = f"Does {NAME} approve flights to Lisbon?"
    tool: Any = {"type": "file_search", "vector_store_ids": [store]}
    house.model.says("Nothing.")
    await house.client.responses.create(model="m", input=question, tools=[tool])
    prompt = said_to(house)
    read(house)
    found = re.search(r"approved by ([A-Z]\w+ [A-Z]\w+) at", prompt)
    assert found is not None and f"Does {found[1]} approve flights" in prompt
    house.model.says(f"Flights to Lisbon are approved by {found[1]} at the travel desk.")
    answer = await house.client.responses.create(model="m", input=question, tools=[tool])
    search, message = answer.output
    assert search.type == "file_search_call" and search.queries == [question]
    assert answer.output_text == f"Flights to Lisbon are approved by {NAME} at the travel desk."
    assert message.type == "message"
    (note,) = message.content[0].annotations  # type: ignore[union-attr]
    assert NAME in str((note.model_extra or {})["quote"])


async def test_replays_and_caches_give_no_caller_the_values_of_another(house: Governed) -> None:
    gateway = house.gateway
    await sent(house, "PUT", "/v1/admin/models/m", {"cache": {"ttl_s": 600}})
    try:
        name, mail, _ = await asked(house)
        house.model.says(f"{name}, {mail}")
        body = {"model": "m", "messages": ASK}
        key = {"idempotency-key": "pseudonyms-1"}
        _, reply, told = await sent(house, "POST", "/v1/chat/completions", body, key)
        assert reply["choices"][0]["message"]["content"] == f"{NAME}, {MAIL}"
        assert "x-ostiary-cache" not in told
        house.model.says("Something else.")
        _, again, told = await sent(house, "POST", "/v1/chat/completions", body, key)
        assert told["idempotent-replayed"] == "true" and again == reply
        with sqlite3.connect(gateway.data_dir / "ostiary.db") as db:
            (kept,) = db.execute(
                "SELECT body FROM idempotency WHERE key = 'pseudonyms-1'"
            ).fetchone()
        assert not any(part.encode() in kept for part in PRIVATE)
        other = (await asyncio.to_thread(new_key, gateway, scopes=["chat:write"]))["key"]
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=other) as client:
            said = await client.chat.completions.create(model="m", messages=ASK)
        assert said.choices[0].message.content == "Something else."
        assert named(said_to(house))[0] != name
    finally:
        await sent(house, "PUT", "/v1/admin/models/m", {"cache": None})


async def test_the_record_tells_types_and_counts_and_no_value(house: Governed) -> None:
    name, mail, _ = await asked(house)
    house.model.says(f"{name}, {mail}, {MADE_UP}")
    headers = {"x-request-id": "pseudonyms-record"}
    body = {"model": "m", "messages": ASK}
    _, _, told = await sent(house, "POST", "/v1/chat/completions", body, headers)
    assert told["x-ostiary-guardrails"] == "masked=4;blocked=0"
    _, page, _ = await sent(house, "GET", "/v1/audit?request_id=pseudonyms-record&bodies=true")
    (record,) = page["data"]
    found = {(f["direction"], f["entity"], f["action"]): f["count"] for f in record["findings"]}
    assert found == {
        ("input", "PERSON", "pseudonymize"): 1,
        ("input", "EMAIL_ADDRESS", "pseudonymize"): 1,
        ("input", "CODE_NAME", "pseudonymize"): 1,
        ("output", "EMAIL_ADDRESS", "mask"): 1,
    }
    assert not any(part in json.dumps(record) for part in PRIVATE)
    log = house.gateway.log.read_text()
    with sqlite3.connect(house.gateway.data_dir / "ostiary.db") as db:
        bodies = str(db.execute("SELECT * FROM audit_bodies").fetchall())
    for part in ("Lovelace", "ada@corp.io"):
        assert [bodies[m.start() - 300 : m.end() + 60] for m in re.finditer(part, bodies)] == []
        assert part not in log


async def test_a_search_looks_for_the_value_and_not_for_its_surrogate(house: Governed) -> None:
    path = f"/v1/vector_stores/{house.store_id}/search"
    status, page, _ = await sent(house, "POST", path, {"query": f"What does {NAME} do?"})
    assert status == 200 and page["search_query"] == [f"What does {NAME} do?"]


async def test_embeddings_of_a_tenant_have_one_surrogate_for_one_value(house: Governed) -> None:
    models = (await house.client.models.list()).data
    model = next(m for m in models if m.id != "m" and "bge" in m.id)

    async def vector(text: str) -> list[float]:
        made = await house.client.embeddings.create(model=model.id, input=text)
        return made.data[0].embedding

    assert await vector(f"Write to {MAIL}") == await vector(f"Write to {MAIL}")
    assert await vector(f"Write to {MAIL}") != await vector(f"Write to {MADE_UP}")
