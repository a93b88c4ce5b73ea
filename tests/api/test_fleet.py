"""The fleet of model servers from outside: changed while the gateway runs, and over kills."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import pytest_asyncio

from tests.api.calls import chat, new_key, refused, send
from tests.api.scripted_house import scripted_gateway
from tests.conftest import Gateway
from tests.llm.scripted import ScriptedModel

MODELS = "/v1/admin/models"
SERVERS = "/v1/admin/deployments"


def raw(gateway: Gateway, body: dict[str, Any]) -> tuple[int, str]:
    """A chat, whole or streamed, as it came."""
    reply = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {gateway.key}"},
        timeout=30,
    )
    return reply.status_code, reply.text


class Fleet:
    """A gateway and the scripted model servers in front of which it stands."""

    def __init__(self, gateway: Gateway, first: ScriptedModel, stack: AsyncExitStack) -> None:
        self.gateway, self.first, self._stack = gateway, first, stack

    async def server(self, text: str) -> ScriptedModel:
        made = ScriptedModel()
        made.says(text)
        await made.start()
        self._stack.push_async_callback(made.stop)
        return made

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        status, reply, headers = await asyncio.to_thread(
            send, self.gateway, method, path, body, **more
        )
        assert status < 300, reply
        return reply if more.get("headers") is None else (reply, headers)

    async def say(self, model: str = "m", content: str = "Hello") -> str:
        reply = await self.send("POST", "/v1/chat/completions", chat(content, model=model))
        return str(reply["choices"][0]["message"]["content"])

    async def servers(self) -> dict[str, Any]:
        found = (await self.send("GET", MODELS))["data"]
        return {d["id"]: d for m in found for d in m["deployments"]}


@pytest_asyncio.fixture(loop_scope="session")
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setenv("OSTIARY_MODEL_KEY_B", "b-secret")
    env = {"embedded_retrieval": "false", "model_key_b": "b-secret"}
    async with AsyncExitStack() as stack:
        gateway, first = await stack.enter_async_context(scripted_gateway(tmp_path / "data", **env))
        first.says("From the first.")
        yield Fleet(gateway, first, stack)


async def test_a_server_is_added_used_weighed_drained_and_removed(fleet: Fleet) -> None:
    second = await fleet.server("From the second.")
    made = await fleet.send(
        "POST",
        SERVERS,
        {
            "model": "m",
            "url": second.url,
            "served": "their-m",
            "api_key_env": "OSTIARY_MODEL_KEY_B",
        },
    )
    assert made["state"] == "ready" and made["from_settings"] is False
    assert {await fleet.say() for _ in range(4)} == {"From the first.", "From the second."}
    assert {b["model"] for b in second.bodies} == {"their-m"}
    assert second.keys == {"Bearer b-secret"}
    await fleet.send("POST", f"{SERVERS}/{made['id']}", {"weight": 100.0})
    assert {await fleet.say() for _ in range(3)} == {"From the second."}
    await fleet.send("POST", f"{SERVERS}/{made['id']}", {"draining": True})
    assert (await fleet.servers())[made["id"]]["state"] == "draining"
    assert {await fleet.say() for _ in range(3)} == {"From the first."}
    await fleet.send("DELETE", f"{SERVERS}/{made['id']}")
    assert set(await fleet.servers()) == {"m"}


async def test_what_was_changed_survives_kill_9(fleet: Fleet) -> None:
    second = await fleet.server("From the second.")
    made = await fleet.send("POST", SERVERS, {"model": "other", "url": second.url})
    await fleet.send("POST", f"{SERVERS}/m", {"draining": True})
    await fleet.send("PUT", f"{MODELS}/m", {"fallbacks": ["other"]})
    await asyncio.to_thread(fleet.gateway.kill)
    await asyncio.to_thread(fleet.gateway.start)
    found = await fleet.servers()
    assert found["m"]["state"] == "draining" and found["m"]["from_settings"]
    assert found[made["id"]]["state"] == "ready"
    reply, headers = await fleet.send("POST", "/v1/chat/completions", chat(model="m"), headers={})
    assert reply["choices"][0]["message"]["content"] == "From the second."
    assert reply["model"] == "other"
    assert headers["x-ostiary-degraded"] == "fallback-model=other"
    await fleet.send("POST", f"{SERVERS}/m", {"draining": False})
    assert await fleet.say() == "From the first."


async def test_when_a_server_dies_the_other_answers_and_nobody_is_told_of_an_error(
    fleet: Fleet,
) -> None:
    second = await fleet.server("From the second.")
    await fleet.send("POST", SERVERS, {"model": "m", "url": second.url})
    assert {await fleet.say() for _ in range(4)} == {"From the first.", "From the second."}
    await second.stop()
    assert {await fleet.say() for _ in range(6)} == {"From the first."}
    states = sorted(d["state"] for d in (await fleet.servers()).values())
    assert states == ["down", "ready"]


async def test_the_audit_names_the_server_and_who_failed_before(fleet: Fleet) -> None:
    ids = {"x-request-id": "which-server"}
    await fleet.send("POST", "/v1/chat/completions", chat(model="m"), headers=ids)
    (record,) = (await fleet.send("GET", "/v1/audit?request_id=which-server"))["data"]
    assert record["lineage"]["deployment"] == "m"
    await fleet.send("POST", f"{SERVERS}/m", {"weight": 2.0}, headers={"x-request-id": "changed"})
    (record,) = (await fleet.send("GET", "/v1/audit?request_id=changed"))["data"]
    assert record["route"].startswith("POST /v1/admin/deployments")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_goes_away_frees_its_server_within_a_second(
    fleet: Fleet, streamed: bool
) -> None:
    fleet.first.wait_s = 30.0  # before it says anything
    headers = {"authorization": f"Bearer {fleet.gateway.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        asking = asyncio.create_task(
            session.post(
                fleet.gateway.url + "/v1/chat/completions",
                json=chat(model="m", stream=streamed),
                headers={"x-request-id": f"left-{streamed}"},
            )
        )
        async with asyncio.timeout(10):
            while (await fleet.servers())["m"]["outstanding"] != 1:
                await asyncio.sleep(0.05)
        asking.cancel()
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            while (await fleet.servers())["m"]["outstanding"]:
                await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - began < 1
        async with asyncio.timeout(2):
            await fleet.first.left.wait()
    (record,) = (await fleet.send("GET", f"/v1/audit?request_id=left-{streamed}"))["data"]
    assert (record["status"], record["error_code"]) == (499, "client_closed")


async def test_what_cannot_be_is_refused(fleet: Fleet) -> None:
    good = {"model": "m", "url": fleet.first.url}

    def attempt(method: str, path: str, body: Any, *statuses: int, **more: Any) -> Any:
        return refused(send(fleet.gateway, method, path, body, **more), *statuses)

    for url in ("ftp://a/v1", "nonsense", "http://u:p@h/v1", "http://h/v1?k=1", "http:///v1"):
        assert attempt("POST", SERVERS, {**good, "url": url})["param"] == "url"
    for name in ("HOME", "OSTIARY_DATABASE_URL", "OSTIARY_MODEL_KEY_UNSET"):
        told = attempt("POST", SERVERS, {**good, "api_key_env": name})
        assert told["param"] == "api_key_env"
    assert attempt("POST", SERVERS, {**good, "weight": 0})["param"] == "weight"
    assert attempt("POST", SERVERS, {**good, "model": "a b"})["param"] == "model"
    attempt("DELETE", f"{SERVERS}/m", None, 409)
    attempt("DELETE", f"{SERVERS}/nope", None, 404)
    attempt("PUT", f"{MODELS}/m", {"fallbacks": ["m"]}, 400)
    attempt("PUT", f"{MODELS}/m", {"fallbacks": ["nope"]}, 404)
    key = new_key(fleet.gateway, scopes=["admin"])["key"]
    as_other = {"authorization": f"Bearer {key}"}
    attempt("POST", SERVERS, good, 403, headers=as_other)
    attempt("GET", MODELS, None, 403, headers=as_other)


async def test_a_call_that_waits_long_is_sent_to_a_second_server_and_charged_once(
    fleet: Fleet,
) -> None:
    second = await fleet.server("From the second.")
    await fleet.send("POST", SERVERS, {"model": "m", "url": second.url})
    fleet.first.wait_s = 20.0
    shown = await fleet.send("PUT", f"{MODELS}/m", {"hedge_ms": 150})
    assert shown["hedge_ms"] == 150 and shown["fallbacks"] == []
    for streamed in (False, True):
        fleet.first.bodies.clear()
        fleet.first.left.clear()
        for _ in range(2):  # equals take turns
            body = chat("Hello", model="m", stream=streamed)
            status, text = await asyncio.to_thread(raw, fleet.gateway, body)
            assert status == 200 and "second" in text
        assert len(fleet.first.bodies) == 1
        async with asyncio.timeout(5):
            await fleet.first.left.wait()
    path = "/v1/audit?limit=50"
    found = [r for r in (await fleet.send("GET", path))["data"] if "hedged" in r["lineage"]]
    assert [r["lineage"]["hedged"] for r in found] == ["m", "m"]
    assert all(r["lineage"]["deployment"] != "m" for r in found)
    assert [r["completion_tokens"] for r in found] == [3, 3]
    servers = await fleet.servers()
    assert [s["outstanding"] for s in servers.values()] == [0, 0]


async def test_a_hedged_call_fails_when_both_do_and_survives_when_one_does(fleet: Fleet) -> None:
    second = await fleet.server("From the second.")
    await fleet.send("POST", SERVERS, {"model": "m", "url": second.url})
    await fleet.send("PUT", f"{MODELS}/m", {"hedge_ms": 50})
    fleet.first.wait_s = second.wait_s = 2.0
    port = int(second.url.split(":")[2].split("/")[0])
    asking = [asyncio.create_task(fleet.say()) for _ in range(4)]
    async with asyncio.timeout(5):
        while len(fleet.first.bodies) + len(second.bodies) < 2 * len(asking):
            await asyncio.sleep(0.01)
    await second.stop()  # with all calls under way at both
    assert {await said for said in asking} == {"From the first."}
    await fleet.first.stop()
    status, body, _ = await asyncio.to_thread(
        send, fleet.gateway, "POST", "/v1/chat/completions", chat("Hello", model="m")
    )
    assert (status, body["error"]["code"]) == (503, "llm_unavailable")
    await second.start(port)
