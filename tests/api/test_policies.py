"""Guardrail policies from outside: stored, assigned, tried and obeyed while the gateway runs."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.calls import Reply, chat, new_key, refused, send
from tests.api.scripted_house import ScriptedHouse, scripted_gateway
from tests.conftest import Gateway, wait_for

POLICIES, ASSIGNED = "/v1/guardrails/policies", "/v1/admin/policies"
CHAT, MODERATIONS = "/v1/chat/completions", "/v1/moderations"
MAIL = "jane.roe@example.com"
BLOCK: dict[str, Any] = {"entities": {"EMAIL_ADDRESS": {"input": "block", "output": "block"}}}
ALLOW: dict[str, Any] = {"entities": {"US_SSN": {"input": "block"}}}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Tenant:
    """A tenant of the house with a key that may do everything."""

    def __init__(self, house: ScriptedHouse, tenant_id: str, key: str) -> None:
        self.house, self.id, self.key = house, tenant_id, key

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        sent = {"authorization": f"Bearer {self.key}", **headers}
        return await self.house.send(method, path, body, **sent)

    async def good(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, reply, _ = await self.send(method, path, body, **headers)
        assert status < 300, reply
        return reply

    async def with_scopes(self, *scopes: str) -> Tenant:
        body = {"name": "k", "scopes": scopes}
        made = await self.good("POST", "/v1/admin/keys", body)
        return Tenant(self.house, self.id, made["key"])

    async def asked(self) -> str:
        """What the model was asked when the tenant told it a mail address."""
        self.house.model.says("Hello.")
        await self.good("POST", CHAT, chat(f"I am {MAIL}.", model="m"))
        return str(self.house.model.bodies[-1]["messages"][-1]["content"])

    async def change_of(self, request_id: str) -> Any:
        (found,) = (await self.good("GET", f"/v1/audit?request_id={request_id}"))["data"]
        return found["lineage"]["policy_change"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedHouse]:
    data = tmp_path_factory.mktemp("policies") / "data"
    async with scripted_gateway(data, embedded_retrieval="false") as (gateway, model):
        yield ScriptedHouse(gateway, model)


@pytest_asyncio.fixture(loop_scope="module")
async def platform(house: ScriptedHouse) -> AsyncIterator[Tenant]:
    """The default tenant, in which nothing stays assigned."""
    yield Tenant(house, "default", house.gateway.key)
    for assignment in (await house.good("GET", ASSIGNED))["data"]:
        await house.good("DELETE", f"{ASSIGNED}/{assignment['id']}")


_made: list[str] = []


async def new_tenant(house: ScriptedHouse) -> Tenant:
    _made.append(f"tenant {len(_made)}")
    tenant = await house.good("POST", "/v1/admin/tenants", {"name": _made[-1]})
    made = await asyncio.to_thread(
        new_key, house.gateway, tenant_id=tenant["id"], scopes=["*"], name="k"
    )
    return Tenant(house, tenant["id"], made["key"])


@pytest_asyncio.fixture(loop_scope="module")
async def tenant(platform: Tenant) -> Tenant:
    return await new_tenant(platform.house)


async def test_a_policy_is_obeyed_from_the_next_call_on_and_no_longer_than_assigned(
    tenant: Tenant,
) -> None:
    assert await tenant.asked() == "I am <EMAIL_ADDRESS>."
    stored = await tenant.good("PUT", f"{POLICIES}/own", ALLOW, x_request_id="p-1")
    assert (stored["number"], stored["source"], stored["own"]) == (1, "stored", True)
    assert await tenant.asked() == "I am <EMAIL_ADDRESS>."
    made = await tenant.good("PUT", ASSIGNED, {"policy": "own"}, x_request_id="p-2")
    assert made["in_force"] == f"own@{stored['version']}" and made["fault"] is None
    assert await tenant.asked() == f"I am {MAIL}."

    newer = await tenant.good("PUT", f"{POLICIES}/own", BLOCK, x_request_id="p-3")
    body = chat(f"I am {MAIL}.", model="m")
    error = refused(await tenant.send("POST", CHAT, body, x_request_id="p-4"), 400)
    assert error["code"] == "guardrail_violation" and "'own'" in error["message"]
    (record,) = (await tenant.good("GET", "/v1/audit?request_id=p-4"))["data"]
    assert record["versions"]["policy"] == f"own@{newer['version']}"

    await tenant.good("DELETE", f"{ASSIGNED}/{made['id']}", x_request_id="p-5")
    assert await tenant.asked() == "I am <EMAIL_ADDRESS>."

    first, second = stored["version"], newer["version"]
    place = {"assignment": made["id"], "tenant_id": tenant.id, "route": "*", "mode": "enforce"}
    place["mandatory"] = False
    assert await tenant.change_of("p-1") == {"policy": "own", "old": None, "new": first}
    assert await tenant.change_of("p-2") == {
        **place,
        "policy": "own",
        "old": None,
        "new": f"own@{first}",
    }
    assert await tenant.change_of("p-3") == {"policy": "own", "old": first, "new": second}
    assert await tenant.change_of("p-5") == {
        **place,
        "policy": "own",
        "old": f"own@{second}",
        "new": None,
    }


async def test_the_most_specific_assignment_governs(platform: Tenant, tenant: Tenant) -> None:
    other = await new_tenant(platform.house)
    await platform.good("PUT", f"{POLICIES}/everybody", ALLOW)
    await platform.good("PUT", ASSIGNED, {"policy": "everybody", "tenant_id": "*"})
    assert await other.asked() == await tenant.asked() == f"I am {MAIL}."
    await tenant.good("PUT", ASSIGNED, {"policy": "default"})
    assert (await other.asked(), await tenant.asked()) == (f"I am {MAIL}.", "I am <EMAIL_ADDRESS>.")
    await tenant.good("PUT", f"{POLICIES}/own", BLOCK)
    await tenant.good("PUT", ASSIGNED, {"policy": "own", "route": f"POST {CHAT}"})
    refused(await tenant.send("POST", CHAT, chat(MAIL, model="m")), 400)
    told = await tenant.good("POST", MODERATIONS, {"input": MAIL})
    assert told["results"][0]["ostiary"] == {"policy": "default", "action": "mask"}
    assert await other.asked() == f"I am {MAIL}."


async def test_a_pinned_version_is_obeyed_whatever_is_stored_later(tenant: Tenant) -> None:
    first = await tenant.good("PUT", f"{POLICIES}/own", ALLOW)
    await tenant.good("PUT", f"{POLICIES}/own", BLOCK)
    made = await tenant.good("PUT", ASSIGNED, {"policy": "own", "version": "1"})
    assert made["version"] == first["version"]
    assert await tenant.asked() == f"I am {MAIL}."
    await tenant.good("PUT", ASSIGNED, {"policy": "own"})
    refused(await tenant.send("POST", CHAT, chat(MAIL, model="m")), 400)


async def test_versions_are_read_by_hash_and_number(tenant: Tenant) -> None:
    path = f"{POLICIES}/own"
    first = await tenant.good("PUT", path, ALLOW)
    assert await tenant.good("PUT", path, {**ALLOW, "min_score": 0.4}) == first
    second = await tenant.good("PUT", path, BLOCK)
    assert await tenant.good("GET", path) == second
    for version in ("1", first["version"]):
        assert await tenant.good("GET", f"{path}?version={version}") == first
    assert first["document"] == {"name": "own", **ALLOW}
    listed = await tenant.good("GET", f"{path}/versions?limit=1")
    assert (listed["data"], listed["has_more"]) == ([second], True)
    older = await tenant.good("GET", f"{path}/versions?limit=1&after={listed['last_id']}")
    assert (older["data"], older["has_more"]) == ([first], False)
    names = [p["name"] for p in (await tenant.good("GET", POLICIES))["data"]]
    assert sorted(names) == ["default", "guarded", "own", "strict"]
    refused(await tenant.send("GET", f"{path}?version=9"), 404)
    refused(await tenant.send("GET", f"{path}?version=x"), 400)


@pytest.mark.parametrize(
    ("document", "param", "why"),
    [
        ({"entities": {"US_SSN": {"input": "hide"}}}, "entities.US_SSN.input", "'mask', 'replace'"),
        ({"entities": {"US_SSN": {}}, "min_score": 3}, "min_score", "less than or equal to 1"),
        ({"entities": {"SHOE_SIZE": {}}}, None, "unknown entity type SHOE_SIZE"),
        ({"entities": {}, "name": "other"}, "name", "stored as 'own'"),
        ({"min_score": 0.4}, "entities", "Field required"),
    ],
)
async def test_a_wrong_document_is_refused_with_its_place(
    tenant: Tenant, document: dict[str, Any], param: str | None, why: str
) -> None:
    for reply in (
        await tenant.send("PUT", f"{POLICIES}/own", document),
        await tenant.send(
            "POST",
            f"{POLICIES}/own/try",
            {"texts": [MAIL], "direction": "input", "document": document},
        ),
    ):
        error = refused(reply, 400)
        assert (error["param"], error["code"]) == (param, "invalid_policy")
        assert why in error["message"]
    refused(await tenant.send("GET", f"{POLICIES}/own"), 404)


async def test_a_policy_is_not_deleted_while_it_is_assigned(tenant: Tenant) -> None:
    await tenant.good("PUT", f"{POLICIES}/own", BLOCK)
    made = await tenant.good("PUT", ASSIGNED, {"policy": "own", "mode": "dry_run"})
    error = refused(await tenant.send("DELETE", f"{POLICIES}/own"), 409)
    assert "GET /v1/admin/policies" in error["message"]
    await tenant.good("DELETE", f"{ASSIGNED}/{made['id']}")
    gone = await tenant.good("DELETE", f"{POLICIES}/own", x_request_id="p-gone")
    assert gone["deleted"] is True
    change = await tenant.change_of("p-gone")
    assert (change["policy"], change["new"]) == ("own", None) and change["old"]
    refused(await tenant.send("GET", f"{POLICIES}/own"), 404)
    refused(await tenant.send("DELETE", f"{POLICIES}/default"), 404)
    refused(await tenant.send("PUT", f"{POLICIES}/default", BLOCK), 409)
    refused(await tenant.send("DELETE", f"{ASSIGNED}/{made['id']}"), 404)


async def test_a_draft_is_tried_on_texts_and_leaves_no_trace(tenant: Tenant) -> None:
    body = {"texts": [f"I am {MAIL}.", "The door is open."], "direction": "input"}
    told = await tenant.good("POST", f"{POLICIES}/default/try", body)
    assert (told["policy"], told["refused"]) == ("default", False)
    found = {"entity_type": "EMAIL_ADDRESS", "action": "mask", "start": 5, "end": 25, "score": 1.0}
    assert told["results"] == [
        {"text": "I am <EMAIL_ADDRESS>.", "findings": [found]},
        {"text": "The door is open.", "findings": []},
    ]
    assert told["counts"] == [{"entity_type": "EMAIL_ADDRESS", "action": "mask", "count": 1}]
    draft = {**body, "document": BLOCK}
    told = await tenant.good("POST", f"{POLICIES}/own/try", draft, x_request_id="p-try")
    assert told["refused"] is True
    assert told["results"][0] == {"text": None, "findings": [{**found, "action": "block"}]}
    assert MAIL not in json.dumps(told)
    (record,) = (await tenant.good("GET", "/v1/audit?request_id=p-try"))["data"]
    assert MAIL not in json.dumps(record) and record["findings"] == []
    refused(await tenant.send("GET", f"{POLICIES}/own"), 404)
    refused(await tenant.send("POST", f"{POLICIES}/own/try", body), 404)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_dry_run_tells_what_it_would_have_done_and_changes_nothing(
    tenant: Tenant, streamed: bool
) -> None:
    await tenant.good("PUT", f"{POLICIES}/tried", BLOCK)
    made = await tenant.good("PUT", ASSIGNED, {"policy": "tried", "mode": "dry_run"})
    tenant.house.model.says(f"Ask {MAIL} or jim@example.com today.")
    body = chat("Hello from jack@example.com.", model="m", stream=streamed)
    call_id = f"p-dry-{streamed}"
    reply = await asyncio.to_thread(
        httpx.post,
        tenant.house.gateway.url + CHAT,
        json=body,
        headers={"authorization": f"Bearer {tenant.key}", "x-request-id": call_id},
    )
    assert reply.status_code == 200
    if streamed:
        events = [e[6:] for e in reply.text.split("\n\n") if e.startswith("data: {")]
        said = "".join(
            choice["delta"].get("content") or ""
            for event in events
            for choice in json.loads(event)["choices"]
        )
    else:
        said = reply.json()["choices"][0]["message"]["content"]
    assert said == "Ask <EMAIL_ADDRESS> or <EMAIL_ADDRESS> today."
    (record,) = (await tenant.good("GET", f"/v1/audit?request_id={call_id}"))["data"]
    assert record["versions"]["policy"].startswith("default@")
    assert {f["action"] for f in record["findings"]} == {"mask"}
    blocked = {"entity": "EMAIL_ADDRESS", "action": "block"}
    assert record["dry_run"] == {
        "policy": made["in_force"],
        "would_block": True,
        "findings": [
            {"direction": "input", **blocked, "count": 1},
            {"direction": "output", **blocked, "count": 2},
        ],
        "unseen": 0,
    }
    metrics = await asyncio.to_thread(httpx.get, tenant.house.gateway.url + "/metrics")
    assert 'ostiary_guardrail_dry_runs_total{outcome="block"}' in metrics.text
    assert (
        "ostiary_guardrail_dry_run_findings_total"
        '{action="block",direction="output",entity="EMAIL_ADDRESS"}'
    ) in metrics.text


async def test_a_call_that_has_begun_keeps_its_policy_to_the_end(tenant: Tenant) -> None:
    model = tenant.house.model
    model.says(f"Ask {MAIL}.")
    model.wait_s = 1.0
    await tenant.good("PUT", f"{POLICIES}/own", BLOCK)
    body = chat("Whom?", model="m")
    asking = asyncio.create_task(tenant.good("POST", CHAT, body, x_request_id="p-kept"))
    await tenant.house.asked()
    await tenant.good("PUT", ASSIGNED, {"policy": "own"})
    reply = await asking
    assert reply["choices"][0]["message"]["content"] == "Ask <EMAIL_ADDRESS>."
    (record,) = (await tenant.good("GET", "/v1/audit?request_id=p-kept"))["data"]
    assert record["versions"]["policy"].startswith("default@")


async def test_when_an_assigned_policy_is_lost_its_calls_are_refused_and_no_others(
    platform: Tenant, tenant: Tenant
) -> None:
    other = await new_tenant(platform.house)
    await tenant.good("PUT", f"{POLICIES}/own", ALLOW)
    made = await tenant.good("PUT", ASSIGNED, {"policy": "own"})
    with sqlite3.connect(tenant.house.gateway.data_dir / "ostiary.db", timeout=30) as connection:
        connection.execute("DELETE FROM policies WHERE tenant_id = ?", (tenant.id,))
    connection.close()
    tenant.house.model.says("Hello.")
    body = chat(f"I am {MAIL}.", model="m")
    async with asyncio.timeout(15):
        while (reply := await tenant.send("POST", CHAT, body))[0] == 200:
            await asyncio.sleep(0.05)
    error = refused(reply, 503)
    assert error["code"] == "policy_unavailable"
    assert "'own@" in error["message"] and "PUT /v1/admin/policies" in error["message"]
    asked = len(tenant.house.model.bodies)
    for path, sent in ((CHAT, body), (MODERATIONS, {"input": MAIL})):
        assert refused(await tenant.send("POST", path, sent), 503)["code"] == "policy_unavailable"
    assert len(tenant.house.model.bodies) == asked
    (listed,) = (await tenant.good("GET", ASSIGNED))["data"]
    assert (listed["id"], listed["in_force"]) == (made["id"], None) and listed["fault"]
    assert await other.asked() == "I am <EMAIL_ADDRESS>."
    await tenant.good("PUT", ASSIGNED, {"policy": "default"})
    assert await tenant.asked() == "I am <EMAIL_ADDRESS>."


async def test_a_policy_with_names_is_loaded_when_it_is_assigned(tenant: Tenant) -> None:
    made = await tenant.good("PUT", ASSIGNED, {"policy": "strict"})
    assert made["in_force"].startswith("strict@")
    tenant.house.model.says("Hello.")
    await tenant.good("POST", CHAT, chat("Angela Merkel lives in Berlin.", model="m"))
    asked = tenant.house.model.bodies[-1]["messages"][-1]["content"]
    assert asked == "<PERSON> lives in <LOCATION>."


async def test_what_the_platform_made_mandatory_no_tenant_can_leave(
    platform: Tenant, tenant: Tenant
) -> None:
    mine = await tenant.good("PUT", ASSIGNED, {"policy": "default", "route": "/v1/chat/*"})
    wanted = {"policy": "strict", "tenant_id": tenant.id, "route": "/v1/chat/*"}
    own = {**wanted, "policy": "default", "mandatory": True}
    assert "Only the platform" in refused(await tenant.send("PUT", ASSIGNED, own), 403)["message"]
    made = await platform.good("PUT", ASSIGNED, {**wanted, "mandatory": True})
    assert (made["id"], made["mandatory"]) == (mine["id"], True)
    again = {"policy": "default", "route": "/v1/chat/*"}
    assert "mandatory" in refused(await tenant.send("PUT", ASSIGNED, again), 403)["message"]
    ended = await tenant.send("DELETE", f"{ASSIGNED}/{made['id']}")
    assert "mandatory" in refused(ended, 403)["message"]
    await tenant.good("PUT", ASSIGNED, {"policy": "default", "route": "POST /v1/chat/completions"})
    tenant.house.model.says("Hello.")
    await tenant.good("POST", CHAT, chat("Angela Merkel lives in Berlin.", model="m"))
    asked = tenant.house.model.bodies[-1]["messages"][-1]["content"]
    assert asked == "<PERSON> lives in <LOCATION>."
    await platform.good("DELETE", f"{ASSIGNED}/{made['id']}")


async def test_a_tenant_sees_and_assigns_no_others_documents(
    platform: Tenant, tenant: Tenant
) -> None:
    other = await new_tenant(platform.house)
    await tenant.good("PUT", f"{POLICIES}/own", BLOCK)
    await platform.good("PUT", f"{POLICIES}/house", ALLOW)
    for stranger, name in ((other, "own"), (platform, "own"), (tenant, "house")):
        told = []
        for n in (name, "nobodys"):
            errors = [
                refused(await stranger.send("GET", f"{POLICIES}/{n}"), 404),
                refused(await stranger.send("GET", f"{POLICIES}/{n}/versions"), 404),
                refused(await stranger.send("DELETE", f"{POLICIES}/{n}"), 404),
                refused(await stranger.send("PUT", ASSIGNED, {"policy": n}), 404),
            ]
            told.append([(e["message"].replace(n, "NAME"), e["code"]) for e in errors])
        assert told[0] == told[1]
        assert name not in [p["name"] for p in (await stranger.good("GET", POLICIES))["data"]]
    # what is assigned to it, a tenant can read
    made = await platform.good("PUT", ASSIGNED, {"policy": "house", "tenant_id": tenant.id})
    seen = await tenant.good("GET", f"{POLICIES}/house")
    assert (seen["own"], seen["made_by"], seen["document"]["entities"]) == (
        False,
        None,
        ALLOW["entities"],
    )
    refused(await other.send("GET", f"{POLICIES}/house"), 404)
    refused(await tenant.send("DELETE", f"{POLICIES}/house"), 404)
    # the same name in two tenants is two policies
    assert (await other.good("PUT", f"{POLICIES}/own", ALLOW))["number"] == 1
    assert (await tenant.good("GET", f"{POLICIES}/own"))["document"]["entities"] != ALLOW[
        "entities"
    ]
    assert made["id"] in [a["id"] for a in (await tenant.good("GET", ASSIGNED))["data"]]
    assert made["id"] not in [a["id"] for a in (await other.good("GET", ASSIGNED))["data"]]


async def test_who_may_change_what(platform: Tenant, tenant: Tenant) -> None:
    other = await new_tenant(platform.house)
    for tenant_id in ("*", other.id):
        wanted = {"policy": "strict", "tenant_id": tenant_id}
        refused(await tenant.send("PUT", ASSIGNED, wanted), 403)
    for_all = await platform.good("PUT", ASSIGNED, {"policy": "default", "tenant_id": "*"})
    others = await other.good("PUT", ASSIGNED, {"policy": "default"})
    refused(await tenant.send("DELETE", f"{ASSIGNED}/{for_all['id']}"), 403)
    refused(await tenant.send("DELETE", f"{ASSIGNED}/{others['id']}"), 404)
    refused(await platform.send("PUT", ASSIGNED, {"policy": "default", "tenant_id": "nobody"}), 404)
    await platform.good("DELETE", f"{ASSIGNED}/{others['id']}")

    reader = await tenant.with_scopes("guardrails:read")
    assert (await reader.send("GET", POLICIES))[0] == 200
    writer = await tenant.with_scopes("guardrails:write")
    assert (await writer.send("PUT", f"{POLICIES}/own", BLOCK))[0] == 200
    refusals: tuple[tuple[Tenant, str, str, Any], ...] = (
        (reader, "PUT", f"{POLICIES}/own", ALLOW),
        (reader, "DELETE", f"{POLICIES}/own", None),
        (writer, "PUT", ASSIGNED, {"policy": "own"}),
        (writer, "GET", ASSIGNED, None),
        # documents of the default tenant can be assigned to everybody
        (await platform.with_scopes("guardrails:write"), "PUT", f"{POLICIES}/house", ALLOW),
    )
    for who, method, path, body in refusals:
        assert refused(await who.send(method, path, body), 403)["code"] == "insufficient_scope"
    local = await platform.with_scopes("admin")
    refused(await local.send("PUT", ASSIGNED, {"policy": "default", "tenant_id": "*"}), 403)


@pytest.mark.parametrize("route", ["/v1/nothing", "GET /v1/chat/completions", "/v2/*", "chat"])
async def test_a_route_that_is_none_is_refused(tenant: Tenant, route: str) -> None:
    error = refused(await tenant.send("PUT", ASSIGNED, {"policy": "strict", "route": route}), 400)
    assert error["param"] == "route"


@pytest.mark.slow
async def test_gateways_on_one_database_follow_each_other_and_a_kill_loses_nothing(
    new_gateway: Callable[..., Gateway], new_postgres_url: Callable[[], str]
) -> None:
    url = new_postgres_url()
    env = {"OSTIARY_DATABASE_URL": url, "OSTIARY_EMBEDDED_RETRIEVAL": "false"}

    def good(gateway: Gateway, method: str, path: str, body: Any = None) -> dict[str, Any]:
        status, reply, _ = send(gateway, method, path, body)
        assert status == 200, reply
        return reply

    def judged(gateway: Gateway) -> tuple[str, str]:
        told = good(gateway, "POST", MODERATIONS, {"input": MAIL})["results"][0]["ostiary"]
        return told["policy"], told["action"]

    first = new_gateway(**env).start()
    assert judged(first) == ("default", "mask")
    good(first, "PUT", f"{POLICIES}/own", BLOCK)
    good(first, "PUT", ASSIGNED, {"policy": "own", "route": MODERATIONS})
    assert judged(first) == ("own", "block")
    second = new_gateway(**env).start()
    assert judged(second) == ("own", "block")
    good(second, "PUT", f"{POLICIES}/own", ALLOW)
    assert judged(second) == ("own", "allow")
    wait_for(lambda: judged(first) == ("own", "allow"), 15, "the other gateway")
    good(first, "PUT", f"{POLICIES}/own", BLOCK)
    first.kill()
    wait_for(lambda: judged(second) == ("own", "block"), 15, "the other gateway")
    assert good(second, "GET", f"{POLICIES}/own")["number"] == 3
