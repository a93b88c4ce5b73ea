"""A model falls back to the servers it had when its answers drift: policy, incident, approval."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from app.monitoring.drift import WINDOW_S
from tests.api.calls import chat
from tests.api.scripted_house import ScriptedHouse, scripted_gateway
from tests.llm.scripted import ScriptedModel

CHAT, INCIDENTS, POLICIES = "/v1/chat/completions", "/v1/incidents", "/v1/admin/alert_policies"
SERVERS, OF_M = "/v1/admin/deployments", {"model": "m"}
LENGTH = "POST /v1/chat/completions|m|output_length"
CALLS = 60
RULE: dict[str, Any] = {
    "kind": "drift",
    "subject": "*|m|output_length",
    "owner": "answers",
    "action": "fall_back",
    "model": "m",
    "cooldown_s": 0.0,
    "close_after_s": 0.0,
}

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


class House(ScriptedHouse):
    """A gateway whose model has had a version, and gets another."""

    newer: ScriptedModel
    added: str

    async def say(self, number: int) -> tuple[str, dict[str, Any]]:
        """What is answered, and the lineage of the call's audit record."""
        status, reply, headers = await self.send(
            "POST", CHAT, chat(f"Question {number}", model="m")
        )
        assert status == 200, reply
        record = await self.record(headers["x-request-id"])
        return str(reply["choices"][0]["message"]["content"]), record["lineage"]

    async def many(self, model: ScriptedModel) -> None:
        """As many calls as a verdict needs, of answers of a few lengths."""
        first = model.text
        for number in range(CALLS):
            model.says(f"{first}{' More.' * (number % 4)}")
            await self.good("POST", CHAT, chat(f"Question {number}", model="m"))
        model.says(first)

    async def promote(self) -> None:
        await self.good("POST", "/v1/admin/promotions", OF_M)

    async def roles(self) -> dict[str, tuple[str, str]]:
        (model,) = (await self.good("GET", "/v1/admin/models"))["data"]
        return {d["id"]: (d["role"], d["state"]) for d in model["deployments"]}

    async def incident(self, action: str, *known: str) -> dict[str, Any]:
        """The open incident that is none of the known, once its action is so far."""
        async with asyncio.timeout(30):
            while True:
                found = (await self.good("GET", f"{INCIDENTS}?state=open"))["data"]
                for one in found:
                    if one["id"] not in known and one["action"]["state"] == action:
                        return dict(one)
                await asyncio.sleep(0.05)

    async def close(self, incident: dict[str, Any]) -> None:
        path = f"{INCIDENTS}/{incident['id']}/close"
        await self.good("POST", path, {"reason": "Looked at."})

    def kept(self) -> int:
        """How many answers the written sketches hold."""
        query = "SELECT coalesce(sum(count), 0) FROM drift_sketches WHERE feature = ?"
        with sqlite3.connect(self.gateway.data_dir / "ostiary.db", timeout=30) as connection:
            return int(connection.execute(query, (LENGTH,)).fetchone()[0])

    def age(self) -> None:
        """Let what was observed be of some hours ago."""
        with sqlite3.connect(self.gateway.data_dir / "ostiary.db", timeout=30) as connection:
            query = 'UPDATE drift_sketches SET "window" = "window" - ?'
            connection.execute(query, (3 * WINDOW_S,))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """The old version has answered for an hour; the newer is promoted and answers longer."""
    data = tmp_path_factory.mktemp("fall_back") / "data"
    settings = {
        "embedded_retrieval": "false",
        "alert_every_s": "0.2",
        "drift_min_count": "30",
        "drift_reference_count": "50",
    }
    async with AsyncExitStack() as stack:
        gateway, model = await stack.enter_async_context(scripted_gateway(data, **settings))
        house = House(gateway, model)
        house.newer = ScriptedModel()
        await house.newer.start()
        stack.push_async_callback(house.newer.stop)
        model.says("The old answer.")
        await house.many(model)
        await asyncio.to_thread(gateway.stop)  # which writes the sketches
        assert house.kept() == CALLS
        house.age()
        await asyncio.to_thread(gateway.start)
        house.newer.says("The new answer is much longer than any of the old ones was. " * 3)
        body = {**OF_M, "url": house.newer.url, "role": "canary"}
        house.added = str((await house.good("POST", SERVERS, body))["id"])
        await house.promote()
        yield house


async def test_a_model_whose_answers_drift_falls_back_when_it_is_approved_and_else_by_itself(
    house: House,
) -> None:
    newer = {"m": ("stable", "draining"), house.added: ("stable", "ready")}
    before = {"m": ("stable", "ready"), house.added: ("canary", "ready")}
    policy = await house.good("POST", POLICIES, {**RULE, "approval": True})
    await house.many(house.newer)
    first = await house.incident("waiting")
    assert (first["kind"], first["subject"]) == ("drift", LENGTH)
    rows = (await house.good("GET", "/v1/drift"))["data"]
    (row,) = (row for row in rows if row["feature"] == LENGTH)
    assert row["drifted"] and row["p"] <= row["p_corrected"] <= row["alpha"]
    assert row["correction"] == "holm"
    assert await house.roles() == newer
    text, lineage = await house.say(1)
    assert text.startswith("The new") and lineage["deployment"] == house.added

    path = f"{INCIDENTS}/{first['id']}"
    await house.good("POST", f"{path}/approve", x_request_id="approved")
    done = await house.incident("completed")
    assert (done["id"], done["action"]["job_id"]) == (first["id"], None)
    assert await house.roles() == before
    text, lineage = await house.say(2)
    assert (text, lineage["deployment"]) == ("The old answer.", "m")
    history = [line["change"] for line in (await house.good("GET", path))["history"]]
    assert history == ["opened", "approved", "action_completed"]

    # still drifted, as the hour holds the new answers; now by itself
    await house.good("PUT", f"{POLICIES}/{policy['id']}", {**RULE, "approval": False})
    await house.promote()
    assert (await house.say(3))[0].startswith("The new")
    await house.close(first)
    second = await house.incident("completed", first["id"])
    assert await house.roles() == before
    assert (await house.say(4))[0] == "The old answer."

    await house.close(second)
    third = await house.incident("failed", first["id"], second["id"])
    assert "nothing was promoted" in third["action"]["error"]
    assert await house.roles() == before

    records = (await house.good("GET", "/v1/audit?limit=100"))["data"]
    begun = {
        r["lineage"]["incident"]["id"]: (r["lineage"]["incident"], r["principal"], r["status"])
        for r in records
        if r["route"] == "incident:action"
    }
    for incident, status in ((first, 200), (second, 200), (third, 409)):
        told, by, code = begun[incident["id"]]
        assert (told["action"], told["target"], code) == ("fall_back", "model/m", status)
        assert by == "system:incidents"
    approved = await house.record("approved")
    assert approved["lineage"]["incident"] == {"id": first["id"], "change": "approved"}
    assert (await house.good("GET", "/v1/audit/verify"))["valid"]


async def test_what_was_fallen_back_to_outlives_a_kill(house: House) -> None:
    await asyncio.to_thread(house.gateway.kill)
    await asyncio.to_thread(house.gateway.start)
    assert {(await house.say(n))[0] for n in range(3)} == {"The old answer."}
