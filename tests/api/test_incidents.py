"""Incidents from outside: a late source is told, survives kill -9, acts and closes itself."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, insert, select

from app.ids import new_id
from app.settings import normal_url
from app.store.models import connectors, vector_stores
from app.store.models_incidents import incident_events, incidents
from tests.api.calls import new_key, new_store, refused, send
from tests.conftest import Gateway, free_port, wait_for
from tests.monitoring.receiver import receiving

POLICIES, WEBHOOKS, INCIDENTS = "/v1/admin/alert_policies", "/v1/admin/webhooks", "/v1/incidents"
LONG_AGO_S = 100_000


def good(house: Gateway, method: str, path: str, body: Any = None, **headers: str) -> Any:
    status, found, _ = send(house, method, path, body, headers)
    assert status < 300, found
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that looks often; its one allowed receiver does not listen yet."""
    folder = tmp_path_factory.mktemp("incidents")
    (folder / "followed").mkdir()
    (folder / "followed" / "rates.md").write_text("# Rates\n\nThe toll is 3 crowns.\n")
    source = {"kind": "folder", "path": str(folder / "followed"), "tenants": ["*"], "watch": False}
    env = {
        "OSTIARY_SOURCES": json.dumps({"followed": source}),
        "OSTIARY_WEBHOOK_ORIGINS": json.dumps([f"http://127.0.0.1:{free_port()}"]),
        "OSTIARY_WEBHOOK_PRIVATE": "true",
        "OSTIARY_ALERT_EVERY_S": "0.2",
        "OSTIARY_AUDIT_BODIES": "true",
    }
    server = Gateway(folder / "data", env)
    server.start()
    yield server
    server.stop()


def age(house: Gateway, by_s: float) -> None:
    """Move the time of the connectors' last whole sync."""
    with sqlite3.connect(house.data_dir / "ostiary.db", timeout=30) as connection:
        connection.execute("UPDATE connectors SET whole_at = ?", (time.time() - by_s,))


def incident(house: Gateway, state: str) -> Callable[[], Any]:
    return lambda: (good(house, "GET", f"{INCIDENTS}?state={state}")["data"] or [None])[0]


def acted(house: Gateway, incident_id: str) -> Callable[[], Any]:
    def look() -> Any:
        found = good(house, "GET", f"{INCIDENTS}/{incident_id}")
        assert found["action"]["state"] != "failed", found["action"]
        return found if found["action"]["state"] == "completed" else None

    return look


def searched(house: Gateway, store: str) -> str:
    builds = good(house, "GET", f"/v1/vector_stores/{store}/builds")["data"]
    return str(next(b["id"] for b in builds if b["searched"]))


def test_a_late_source_is_told_after_a_kill_acted_on_and_closes_itself(house: Gateway) -> None:
    origin = json.loads(house.env["OSTIARY_WEBHOOK_ORIGINS"])[0]
    hook = good(
        house, "POST", WEBHOOKS, {"url": f"{origin}/in"}, **{"idempotency-key": "one-webhook"}
    )
    secret = hook["secret"]
    assert secret.startswith("whsec_")
    store = new_store(house)
    path = f"/v1/vector_stores/{store}/connectors"
    made = good(house, "POST", path, {"source": "followed", "freshness_s": 3600})
    wait_for(lambda: good(house, "GET", f"{path}/{made['id']}")["fresh"])
    rule: dict[str, Any] = {
        "kind": "freshness",
        "subject": "vs_*",
        "owner": "search team",
        "severity": "high",
    }
    rule |= {"webhook_id": hook["id"], "action": "reembed", "approval": True}
    rule |= {"close_after_s": 0.0, "cooldown_s": 0.0, "acknowledge_within_s": 3600.0}
    policy = good(house, "POST", POLICIES, rule)

    age(house, LONG_AGO_S)
    found = wait_for(incident(house, "open"))
    assert (found["kind"], found["subject"]) == ("freshness", store)
    assert (found["severity"], found["owner"]) == ("high", "search team")
    assert found["details"] == {"connectors": [made["id"]]}
    house.kill()
    with receiving(int(origin.rpartition(":")[2])) as receiver:
        house.start()
        wait_for(lambda: receiver.messages, 20, "the webhook")
        event = receiver.messages[0].verified(secret)
        assert (event["type"], event["data"]["id"]) == ("incident.opened", found["id"])

        reading = new_key(house, scopes=["incidents:read"])["key"]
        header = {"authorization": f"Bearer {reading}"}
        assert good(house, "GET", f"{INCIDENTS}?severity=high", **header)["data"]
        assert good(house, "GET", f"{INCIDENTS}?severity=low", **header)["data"] == []
        one = f"{INCIDENTS}/{found['id']}"
        refused(send(house, "POST", f"{one}/acknowledge", headers=header), 403)
        taken = good(house, "POST", f"{one}/acknowledge", **{"x-request-id": "ack-1"})
        assert (taken["state"], taken["escalates_at"]) == ("acknowledged", None)
        assert taken["action"]["state"] == "waiting" and searched(house, store) == "original"
        good(house, "POST", f"{one}/approve")
        wait_for(acted(house, found["id"]), 60, "the build")
        new_build = searched(house, store)
        assert new_build != "original"

        age(house, 0)
        closed = wait_for(incident(house, "closed"))
        assert (closed["closed_by"], closed["id"]) == ("system:incidents", found["id"])
        history = [line["change"] for line in good(house, "GET", one)["history"]]
        assert history == [
            *("opened", "acknowledged", "approved"),
            *("action_started", "action_completed", "closed"),
        ]
        told = [f"incident.{change}" for change in history]
        wait_for(lambda: sorted(receiver.events(secret)) == sorted(told), 20, "all webhooks")

        rule |= {"action": "fall_back", "approval": False}
        good(house, "PUT", f"{POLICIES}/{policy['id']}", rule)
        age(house, LONG_AGO_S)
        second = wait_for(incident(house, "open"))
        wait_for(acted(house, second["id"]), 60, "the earlier build")
        assert searched(house, store) == "original"
        age(house, 0)
        wait_for(lambda: good(house, "GET", f"{INCIDENTS}/{second['id']}")["state"] == "closed")

    records = good(house, "GET", "/v1/audit?limit=100")["data"]
    changed = [
        (r["route"], r["lineage"]["incident"]["id"])
        for r in records
        if r["door"] == "incident" and r["lineage"]["incident"].get("changed", True)
    ]
    for each in (found["id"], second["id"]):
        for route in ("opened", "action", "action_started", "action_completed", "closed"):
            assert changed.count((f"incident:{route}", each)) == 1, route
    (record,) = good(house, "GET", "/v1/audit?request_id=ack-1")["data"]
    assert record["lineage"]["incident"] == {"id": found["id"], "change": "acknowledged"}
    for name in ("ostiary.db", "ostiary.db-wal", "serve.log"):
        assert secret.encode() not in (house.data_dir / name).read_bytes(), name


def test_a_secret_is_shown_once_and_its_successor_too(house: Gateway) -> None:
    origin = json.loads(house.env["OSTIARY_WEBHOOK_ORIGINS"])[0]
    made = good(house, "POST", WEBHOOKS, {"url": f"{origin}/b", "description": "b"})
    secret = made.pop("secret")
    path = f"{WEBHOOKS}/{made['id']}"
    assert good(house, "GET", path) == made
    rotated = good(house, "POST", f"{path}/rotate", {"grace_seconds": 60.0})
    assert rotated["secret"] != secret and rotated["old_secret_until"] > rotated["rotated_at"]
    assert good(house, "GET", f"{path}/deliveries")["data"] == []
    listed = json.dumps(good(house, "GET", WEBHOOKS))
    assert made["id"] in listed
    assert secret not in listed and rotated["secret"] not in listed
    assert good(house, "DELETE", path)["deleted"]
    refused(send(house, "GET", path), 404)
    for url in ("http://127.0.0.1:1/in", "https://hooks.example.org/in"):
        error = refused(send(house, "POST", WEBHOOKS, {"url": url}))
        assert error["param"] == "url" and "OSTIARY_WEBHOOK_ORIGINS" in error["message"]


BAD_RULES: list[tuple[dict[str, Any], int]] = [
    ({"kind": "rain"}, 400),
    ({"action": "retrain", "model": "m"}, 400),
    ({"severity": "awful"}, 400),
    ({"escalate_to": ["next"]}, 400),
    ({"action": "reembed"}, 400),  # of a feature: which store?
    ({"action": "reembed", "model": "smollm2-135m-instruct"}, 400),
    ({"action": "fall_back", "model": "smollm2-135m-instruct", "vector_store_id": "vs_1"}, 400),
    ({"vector_store_id": "vs_1"}, 400),
    ({"subject": "[ab]*"}, 400),
    ({"webhook_id": "wh_none"}, 404),
    ({"action": "reembed", "vector_store_id": "vs_none"}, 404),
    ({"action": "fall_back", "model": "none"}, 404),
]


@pytest.mark.parametrize(("change", "status"), BAD_RULES)
def test_a_policy_that_could_not_work_is_refused(
    house: Gateway, change: dict[str, Any], status: int
) -> None:
    rule = {"kind": "drift", "owner": "someone", **change}
    refused(send(house, "POST", POLICIES, rule), status)


def test_a_tenant_knows_nothing_of_anothers_policies_webhooks_and_incidents(
    house: Gateway,
) -> None:
    origin = json.loads(house.env["OSTIARY_WEBHOOK_ORIGINS"])[0]
    hook = good(house, "POST", WEBHOOKS, {"url": f"{origin}/c"})
    policy = good(house, "POST", POLICIES, {"kind": "drift", "owner": "me"})
    tenant = good(house, "POST", "/v1/admin/tenants", {"name": "stranger"})["id"]
    key = new_key(house, tenant_id=tenant, scopes=["*"])["key"]
    header = {"authorization": f"Bearer {key}"}
    for path in (POLICIES, WEBHOOKS, INCIDENTS):
        assert good(house, "GET", path, **header)["data"] == []
    mine = {"kind": "drift", "owner": "me"}
    for method, path, body in (
        ("GET", f"{POLICIES}/{policy['id']}", None),
        ("PUT", f"{POLICIES}/{policy['id']}", mine),
        ("DELETE", f"{POLICIES}/{policy['id']}", None),
        ("POST", POLICIES, {**mine, "webhook_id": hook["id"]}),
        ("GET", f"{WEBHOOKS}/{hook['id']}", None),
        ("POST", f"{WEBHOOKS}/{hook['id']}/rotate", {}),
        ("GET", f"{WEBHOOKS}/{hook['id']}/deliveries", None),
        ("DELETE", f"{WEBHOOKS}/{hook['id']}", None),
        *(
            (method, f"{INCIDENTS}/inc_1{action}", body)
            for method, action, body in (
                ("GET", "", None),
                ("POST", "/acknowledge", None),
                ("POST", "/approve", None),
                ("POST", "/close", {"reason": "mine"}),
            )
        ),
    ):
        refused(send(house, method, path, body, header), 404)
    model = {**mine, "action": "fall_back", "model": "smollm2-135m-instruct"}
    refused(send(house, "POST", POLICIES, model, header), 403)


@pytest.mark.slow
def test_two_gateways_on_one_database_open_one_incident(
    new_postgres_url: Callable[[], str], new_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    url = new_postgres_url()
    env = {"OSTIARY_DATABASE_URL": url, "OSTIARY_EMBEDDED_RETRIEVAL": "false"}
    env["OSTIARY_ALERT_EVERY_S"] = "0.05"
    houses = [new_gateway(**env, OSTIARY_INSTANCE=name) for name in ("a", "b")]
    for house in houses:
        house.start()
    good(houses[0], "POST", POLICIES, {"kind": "freshness", "owner": "me", "close_after_s": 0.0})
    engine = create_engine(normal_url(url, tmp_path))
    stores = [new_id("vs_") for _ in range(20)]
    with engine.begin() as connection:
        for store in stores:
            connection.execute(insert(vector_stores).values(store_row(store)))
            connection.execute(insert(connectors).values(connector_row(store)))
    of = incidents.c
    count = select(func.count(), func.count(of.closed_at)).select_from(incidents)

    def counts(opened: int, closed: int) -> bool:
        with engine.connect() as connection:
            return tuple(connection.execute(count).one()) == (opened, closed)

    wait_for(lambda: counts(20, 0), 30, "an incident for each store")
    with engine.begin() as connection:
        connection.execute(connectors.update().values(whole_at=time.time()))
    wait_for(lambda: counts(20, 20), 30, "their ends")
    with engine.connect() as connection:
        events = incident_events.c
        lines = connection.execute(
            select(events.change, func.count()).group_by(events.change)
        ).all()
    assert sorted(tuple(line) for line in lines) == [("closed", 20), ("opened", 20)]
    engine.dispose()


def store_row(store: str) -> dict[str, Any]:
    row: dict[str, Any] = {c.name: None for c in vector_stores.columns if c.nullable}
    return row | {
        "id": store,
        "tenant_id": "default",
        "metadata": {},
        "embedding_model": "e",
        "dim": 4,
        "engine": "faiss",
        "build": "original",
        "chunking": {},
        "version": 0,
        "created_at": 0.0,
        "last_active_at": 0.0,
    }


def connector_row(store: str) -> dict[str, Any]:
    row: dict[str, Any] = {c.name: None for c in connectors.columns if c.nullable}
    counted = ("removed", "failures", "listing", "listed")
    return row | {
        "id": new_id("cn_"),
        "tenant_id": "default",
        "vector_store_id": store,
        "source": "s",
        "path": "",
        "include": [],
        "exclude": [],
        "attributes": {},
        "chunking": {},
        "owner": "o",
        "freshness_s": 60,
        "enabled": True,
        "allow_removal": False,
        "created_at": 0.0,
        "whole_at": 0.0,
        "keep_documents": False,
        **dict.fromkeys(counted, 0),
    }
