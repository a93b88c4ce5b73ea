"""Costs over REST: tags, usage by any grouping, budgets, and sums that a kill does not change."""

from __future__ import annotations

import csv
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.calls import chat, new_store, refused, send, upload
from tests.api.test_tenants import Tenant, new_tenant
from tests.conftest import ROOT, Gateway, wait_for

CHAT, BUDGETS = "/v1/chat/completions", "/v1/budgets"


@pytest.fixture(scope="module")
def tenant(gateway: Gateway) -> Tenant:
    return new_tenant(gateway, f"costs {time.monotonic_ns()}")


def with_key(tenant: Tenant, **fields: Any) -> Tenant:
    made = tenant.ok("POST", "/v1/admin/keys", {"name": "k", "scopes": ["*"], **fields})
    return Tenant(tenant.gateway, tenant.id, made["key"])


def costs_of(tenant: Tenant, text: str = "Hello", **headers: str) -> int:
    """Nano-USD of a chat, as its reply tells it."""
    status, body, told = tenant.send("POST", CHAT, chat(text), **headers)
    assert status == 200, body
    assert float(told["x-ostiary-cost-usd"]) == pytest.approx(body["usage"]["cost_usd"])
    return round(float(told["x-ostiary-cost-usd"]) * 1e9)


def test_usage_is_summed_by_the_callers_own_tags(tenant: Tenant) -> None:
    fixed = with_key(tenant, tags={"team": "search"})
    headers = {"x-ostiary-tags": "project=apollo"}
    apollo = sum(costs_of(fixed, **headers) for _ in range(2))
    gemini = costs_of(tenant, **{"x-ostiary-tags": "project=gemini"})
    rows = tenant.ok("GET", "/v1/usage?group_by=tag:project&group_by=tag:team")["data"]
    found = {
        (r["groups"]["tag:project"], r["groups"]["tag:team"]): r["cost_nano_usd"] for r in rows
    }
    assert found["apollo", "search"] == apollo > 0
    assert found["gemini", None] == gemini > 0
    record = fixed.ok("GET", "/v1/audit?limit=5")["data"]
    tagged = [r["tags"] for r in record if r["route"] == f"POST {CHAT}"]
    assert {"project": "apollo", "team": "search"} in tagged
    error = refused(fixed.send("POST", CHAT, chat(), **{"x-ostiary-tags": "team=x"}))
    assert (error["code"], error["param"]) == ("invalid_tags", "x-ostiary-tags")


def test_every_grouping_sums_to_the_same_and_to_the_audit_records(tenant: Tenant) -> None:
    costs_of(tenant)
    sums = set()
    now = datetime.now(UTC)
    since = (now - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    until = (now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for group in ("key_id", "model", "route", "day", "component", "tag:project", "tenant_id"):
        report = tenant.ok("GET", f"/v1/usage?group_by={group}&from={since}&to={until}")
        assert report["group_by"] == [group]
        sums.add(sum(row["cost_nano_usd"] for row in report["data"]))
    records = tenant.ok("GET", "/v1/audit?limit=100")["data"]
    assert sums == {sum(r["cost_nano_usd"] for r in records)}
    assert all(sum(r["costs"].values()) == r["cost_nano_usd"] for r in records)


def test_usage_comes_as_csv_where_that_is_accepted(tenant: Tenant) -> None:
    costs_of(tenant)
    connection = http.client.HTTPConnection("127.0.0.1", tenant.gateway.port, timeout=60)
    headers = {"authorization": f"Bearer {tenant.key}", "accept": "text/csv"}
    connection.request("GET", "/v1/usage?group_by=route&group_by=model", headers=headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    assert reply.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    (row,) = [r for r in rows if (r["route"], r["model"]) == (f"POST {CHAT}", "stub")]
    assert int(row["cost_nano_usd"]) > 0
    assert float(row["cost_usd"]) == int(row["cost_nano_usd"]) / 1e9


@pytest.mark.parametrize(
    "query",
    [
        *("group_by=nothing", "group_by=tag:", "group_by=tag:A", "group_by=tag:a%27)--"),
        *("group_by=model&group_by=model", "from=yesterday", "from=2026-01-01T00:00:00"),
        "from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
        "&".join(f"group_by=tag:t{n}" for n in range(7)),
    ],
)
def test_a_malformed_question_for_usage_is_refused(tenant: Tenant, query: str) -> None:
    refused(tenant.send("GET", f"/v1/usage?{query}"))


def test_only_the_platform_sees_the_usage_of_all_tenants(tenant: Tenant, gateway: Gateway) -> None:
    other = new_tenant(gateway, f"more costs {time.monotonic_ns()}")
    cost = costs_of(other)
    path = "/v1/usage?group_by=tenant_id&group_by=route"
    assert {r["group"] for r in tenant.ok("GET", path)["data"]} == {tenant.id}
    rows = send(gateway, "GET", path)[1]["data"]
    assert {tenant.id, other.id} <= {r["group"] for r in rows}
    (mine,) = [r for r in rows if list(r["groups"].values()) == [other.id, f"POST {CHAT}"]]
    assert mine["cost_nano_usd"] == cost
    alone = send(gateway, "GET", "/v1/usage?group_by=route")[1]["data"]
    assert sum(r["cost_nano_usd"] for r in alone) < sum(r["cost_nano_usd"] for r in rows)


def test_a_budget_tells_and_stops_and_its_administrator_lets_calls_pass_again(
    tenant: Tenant,
) -> None:
    cost = costs_of(tenant)
    amount = 2.5 * cost / 1e9
    body = {"name": "Apollo", "amount_usd": amount, "period": "week", "tags": {"project": "a"}}
    made = tenant.ok("POST", BUDGETS, body)
    assert (made["state"], made["spent_usd"], made["alerts"]) == ("within", 0, [])
    tagged = {"x-ostiary-tags": "project=a"}
    statuses = [tenant.send("POST", CHAT, chat(), **tagged)[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 402, 402]
    error = refused(tenant.send("POST", CHAT, chat(), **tagged), 402)
    assert error["code"] == "budget_exceeded" and "'Apollo'" in error["message"]
    assert made["begins_anew_at"] in error["message"]
    costs_of(tenant, **{"x-ostiary-tags": "project=b"})
    # administration goes on, also where a budget is for all calls
    everything = tenant.ok("POST", BUDGETS, {"name": "All", "amount_usd": 1e-6, "period": "day"})
    assert tenant.send("POST", CHAT, chat())[0] == 402
    tenant.ok("DELETE", f"{BUDGETS}/{everything['id']}")
    found = tenant.ok("GET", f"{BUDGETS}/{made['id']}")
    assert found["state"] == "spent" and found["spent_usd"] == pytest.approx(3 * cost / 1e9)
    assert [a["level"] for a in found["alerts"]] == [50, 80, 100]
    changed = tenant.ok("POST", f"{BUDGETS}/{made['id']}", {"amount_usd": 10 * amount})
    assert (changed["state"], changed["alerts"]) == ("within", [])
    costs_of(tenant, **tagged)
    assert [b["name"] for b in tenant.ok("GET", BUDGETS)["data"]] == ["Apollo"]
    assert refused(tenant.send("POST", BUDGETS, body), 409)["code"] == "conflict"
    tenant.ok("DELETE", f"{BUDGETS}/{made['id']}")
    refused(tenant.send("GET", f"{BUDGETS}/{made['id']}"), 404)


def test_a_budget_of_a_model_stops_its_calls_alone(gateway: Gateway) -> None:
    tenant = new_tenant(gateway, f"models {time.monotonic_ns()}")
    made = tenant.ok("POST", BUDGETS, {"name": "stub", "amount_usd": 1e-6, "model": "stub"})
    costs_of(tenant, "A long question. " * 40)
    assert refused(tenant.send("POST", CHAT, chat()), 402)["code"] == "budget_exceeded"
    body = {"model": "bge-small-en", "input": "words"}
    assert tenant.send("POST", "/v1/embeddings", body)[0] == 200
    tenant.ok("DELETE", f"{BUDGETS}/{made['id']}")
    costs_of(tenant)


def test_budgets_are_a_tenants_own_and_those_of_the_platform_stay(
    tenant: Tenant, gateway: Gateway
) -> None:
    body = {"name": "cap", "amount_usd": 5, "tenant_id": tenant.id}
    status, made, _ = send(gateway, "POST", BUDGETS, body)
    assert status == 201 and made["by_platform"]
    path = f"{BUDGETS}/{made['id']}"
    assert tenant.ok("GET", path)["amount_usd"] == 5
    refused(tenant.send("POST", path, {"amount_usd": 500}), 403)
    refused(tenant.send("DELETE", path), 403)
    other = new_tenant(gateway, f"budgets {time.monotonic_ns()}")
    refused(other.send("GET", path), 404)
    assert other.ok("GET", BUDGETS)["data"] == []
    refused(other.send("POST", BUDGETS, body), 403)
    mine = {"name": "k", "amount_usd": 1, "key_id": "0" * 16}
    refused(other.send("POST", BUDGETS, mine), 404)
    assert send(gateway, "DELETE", path)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        *({"name": "b"}, {"amount_usd": 1}, {"name": "b", "amount_usd": 0}),
        *({"name": "b", "amount_usd": "1"}, {"name": "", "amount_usd": 1}),
        {"name": "b", "amount_usd": 1, "period": "year"},
        {"name": "b", "amount_usd": 1, "tags": {"Bad": "x"}},
        {"name": "b", "amount_usd": 1, "unknown": 1},
    ],
)
def test_a_malformed_budget_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    refused(tenant.send("POST", BUDGETS, body))


def checked(house: Gateway) -> str:
    """What ``ostiary usage --check`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "usage", "--check"],
        env=house.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_kill_changes_no_sum_by_any_grouping_and_no_budget(
    new_gateway: Callable[..., Gateway],
    fake_model_server: str,
    request: pytest.FixtureRequest,
    database: str,
) -> None:
    env = {
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_PRICE_GUARDRAILS_USD_PER_CPU_HOUR": "40",
        "OSTIARY_PRICE_SEARCH_USD_PER_K": "0.5",
        "OSTIARY_PRICE_STORAGE_USD_PER_GB_DAY": "1000",
    }
    if database == "postgresql":
        env["OSTIARY_DATABASE_URL"] = request.getfixturevalue("new_postgres_url")()
    house = new_gateway(**env).start()
    assert upload(house, b"The toll is 3 crowns.")[0] == 200
    store = new_store(house)
    body = {"name": "all", "amount_usd": 1000.0, "period": "month"}
    assert send(house, "POST", BUDGETS, body)[0] == 201
    told: list[int] = []
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            try:
                tags = {"x-ostiary-tags": f"worker=w{number}"}
                status, _, headers = send(house, "POST", CHAT, chat("I am Jo Roe."), tags)
                if status == 200:
                    told.append(round(float(headers["x-ostiary-cost-usd"]) * 1e9))
                path = f"/v1/vector_stores/{store}/search"
                status, _, headers = send(house, "POST", path, {"query": "toll"})
                if status == 200:
                    told.append(round(float(headers["x-ostiary-cost-usd"]) * 1e9))
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                return

    workers = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    wait_for(lambda: len(told) > 60, what="calls")
    house.kill()
    over.set()
    for worker in workers:
        worker.join()
    house.start()

    def days() -> list[dict[str, Any]]:
        path = "/v1/usage?group_by=component&group_by=day"
        rows: list[dict[str, Any]] = send(house, "GET", path)[1]["data"]
        return [r for r in rows if r["groups"]["component"] == "storage"]

    wait_for(days, what="the charge of the day's storage")
    by_component = send(house, "GET", "/v1/usage?group_by=component")[1]["data"]
    parts = {r["group"]: r["cost_nano_usd"] for r in by_component}
    assert set(parts) == {"model", "embedding", "retrieval", "guardrails", "storage"}
    assert [r["calls"] for r in days()] == [1]
    records: list[dict[str, Any]] = []
    after = ""
    while page := send(house, "GET", f"/v1/audit?limit=100{after}")[1]["data"]:
        records += page
        after = f"&after={page[-1]['seq']}"
    assert sum(parts.values()) == sum(r["cost_nano_usd"] for r in records) >= sum(told)
    (budget,) = send(house, "GET", BUDGETS)[1]["data"]
    assert round(budget["spent_usd"] * 1e9) == sum(parts.values())
    table = checked(house)
    print(table)
    assert "YES" not in table and "FAULT" not in table
    assert f"{sum(parts.values()) / 1e9:,.9f}" in table
