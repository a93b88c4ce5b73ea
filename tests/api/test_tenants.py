"""Two tenants in one house: neither sees, counts, changes or collides with the other's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.calls import Reply, multipart, refused, send
from tests.conftest import Gateway, wait_for

TEXT = b"# Rates\n\nThe harbour fee of the northern pier is 42 crowns a day.\n"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's key, and what it made in the house."""

    gateway: Gateway
    id: str
    key: str
    file: str = ""
    store: str = ""
    batch: str = ""
    response: str = ""
    job: str = ""
    followed: str = ""  # the store of the connector
    connector: str = ""

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        sent = {"authorization": f"Bearer {self.key}", **headers}
        return send(self.gateway, method, path, body, sent)

    def ok(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        status, found, _ = self.send(method, path, body, **headers)
        assert status < 300, found
        return found

    def upload(self, content: bytes = TEXT, key: str | None = None) -> dict[str, Any]:
        body, headers = multipart(content, "rates.md")
        return self.ok(
            "POST", "/v1/files", body, **headers, **({"idempotency-key": key} if key else {})
        )


def new_tenant(gateway: Gateway, name: str) -> Tenant:
    status, made, _ = send(gateway, "POST", "/v1/admin/tenants", {"name": name})
    assert status == 201, made
    key = {"name": "k", "scopes": ["*"], "tenant_id": made["id"]}
    status, given, _ = send(gateway, "POST", "/v1/admin/keys", key)
    assert status == 201, given
    return Tenant(gateway, made["id"], given["key"])


@pytest.fixture(scope="module")
def owner(gateway: Gateway) -> Tenant:
    """A tenant with one of everything."""
    tenant = new_tenant(gateway, "harbour")
    file = tenant.upload()["id"]
    store = tenant.ok("POST", "/v1/vector_stores", {"name": "rates"})["id"]
    path = f"/v1/vector_stores/{store}"
    batch = tenant.ok("POST", f"{path}/file_batches", {"file_ids": [file]})["id"]
    wait_for(lambda: tenant.ok("GET", path)["file_counts"]["completed"] == 1)
    response = tenant.ok("POST", "/v1/responses", {"model": "stub", "input": "Hello"})["id"]
    job = next(
        r["lineage"]["job"] for r in tenant.ok("GET", "/v1/audit")["data"] if r["door"] == "job"
    )
    followed = tenant.ok("POST", "/v1/vector_stores", {"name": "tolls"})["id"]
    path = f"/v1/vector_stores/{followed}/connectors"
    connector = tenant.ok("POST", path, {"source": "followed"})["id"]
    wait_for(lambda: tenant.ok("GET", f"{path}/{connector}")["fresh"])
    return Tenant(
        gateway, tenant.id, tenant.key, file, store, batch, response, job, followed, connector
    )


@pytest.fixture(scope="module")
def stranger(gateway: Gateway, owner: Tenant) -> Iterator[Tenant]:
    """A tenant with nothing; whatever it tried, the owner's things are as they were."""
    yield new_tenant(gateway, "market")
    path = f"/v1/vector_stores/{owner.store}"
    assert owner.ok("GET", path)["file_counts"]["completed"] == 1
    assert owner.ok("GET", path)["name"] == "rates"
    assert owner.ok("GET", f"{path}/files/{owner.file}")["attributes"] == {}
    assert owner.ok("GET", f"/v1/jobs/{owner.job}")["status"] == "completed"
    assert owner.ok("GET", f"/v1/responses/{owner.response}")["id"] == owner.response
    assert owner.ok("POST", f"{path}/search", {"query": "harbour fee"})["data"]
    path = f"/v1/vector_stores/{owner.followed}"
    assert owner.ok("GET", f"{path}/connectors/{owner.connector}")["state"] == "idle"
    assert owner.ok("POST", f"{path}/search", {"query": "toll"})["data"]


FOREIGN = (
    ("GET", "/v1/files/{file}", None),
    ("GET", "/v1/files/{file}/content", None),
    ("DELETE", "/v1/files/{file}", None),
    ("GET", "/v1/vector_stores/{store}", None),
    ("POST", "/v1/vector_stores/{store}", {"name": "mine"}),
    ("DELETE", "/v1/vector_stores/{store}", None),
    ("POST", "/v1/vector_stores/{store}/search", {"query": "harbour fee"}),
    ("GET", "/v1/vector_stores/{store}/files", None),
    ("POST", "/v1/vector_stores/{store}/files", {"file_id": "{mine}"}),
    ("GET", "/v1/vector_stores/{store}/files/{file}", None),
    ("POST", "/v1/vector_stores/{store}/files/{file}", {"attributes": {"a": "b"}}),
    ("GET", "/v1/vector_stores/{store}/files/{file}/content", None),
    ("DELETE", "/v1/vector_stores/{store}/files/{file}", None),
    ("POST", "/v1/vector_stores/{store}/file_batches", {"file_ids": ["{mine}"]}),
    ("GET", "/v1/vector_stores/{store}/file_batches/{batch}", None),
    ("POST", "/v1/vector_stores/{store}/file_batches/{batch}/cancel", None),
    ("GET", "/v1/vector_stores/{store}/file_batches/{batch}/files", None),
    ("POST", "/v1/vector_stores/{followed}/connectors", {"source": "followed"}),
    ("GET", "/v1/vector_stores/{followed}/connectors", None),
    ("GET", "/v1/vector_stores/{followed}/connectors/{connector}", None),
    ("POST", "/v1/vector_stores/{followed}/connectors/{connector}", {"enabled": False}),
    ("POST", "/v1/vector_stores/{followed}/connectors/{connector}/sync", None),
    ("GET", "/v1/vector_stores/{followed}/connectors/{connector}/items", None),
    ("DELETE", "/v1/vector_stores/{followed}/connectors/{connector}", None),
    ("GET", "/v1/vector_stores/{my_store}/connectors/{connector}", None),
    ("DELETE", "/v1/vector_stores/{my_store}/connectors/{connector}", None),
    ("GET", "/v1/jobs/{job}", None),
    ("GET", "/v1/jobs/{job}/events", None),
    ("POST", "/v1/jobs/{job}/cancel", None),
    ("GET", "/v1/responses/{response}", None),
    ("DELETE", "/v1/responses/{response}", None),
    ("POST", "/v1/vector_stores", {"file_ids": ["{file}"]}),
    ("POST", "/v1/vector_stores/{my_store}/files", {"file_id": "{file}"}),
    ("POST", "/v1/vector_stores/{my_store}/file_batches", {"file_ids": ["{mine}", "{file}"]}),
    ("GET", "/v1/vector_stores/{my_store}/files/{file}", None),
    ("GET", "/v1/vector_stores/{my_store}/file_batches/{batch}", None),
    (
        "POST",
        "/v1/responses",
        {"model": "stub", "input": "Go on", "previous_response_id": "{response}"},
    ),
    (
        "POST",
        "/v1/responses",
        {
            "model": "stub",
            "input": "What is the harbour fee?",
            "tools": [{"type": "file_search", "vector_store_ids": ["{my_store}", "{store}"]}],
        },
    ),
    (
        "POST",
        "/v1/chat/completions",
        {
            "model": "stub",
            "messages": [{"role": "user", "content": "What is the harbour fee?"}],
            "ostiary": {"vector_store_ids": ["{store}"]},
        },
    ),
)


@pytest.mark.parametrize(
    ("method", "path", "body"), FOREIGN, ids=[f"{m} {p}" for m, p, _ in FOREIGN]
)
def test_what_is_anothers_is_not_found_and_looks_as_if_it_never_was(
    owner: Tenant, stranger: Tenant, method: str, path: str, body: Any
) -> None:
    mine = {
        "{mine}": stranger.upload()["id"],
        "{my_store}": stranger.ok("POST", "/v1/vector_stores", {})["id"],
    }
    theirs = {
        "{file}": owner.file,
        "{store}": owner.store,
        "{batch}": owner.batch,
        "{job}": owner.job,
        "{response}": owner.response,
        "{followed}": owner.followed,
        "{connector}": owner.connector,
    }
    nobodys = {name: value[:-6] + "ffffff" for name, value in theirs.items()}
    told = []
    for ids in ({**theirs, **mine}, {**nobodys, **mine}):
        text = json.dumps([path, body])
        for name, value in ids.items():
            text = text.replace(name, value)
        address, content = json.loads(text)
        error = refused(stranger.send(method, address, content), 404)
        for value in ids.values():
            error["message"] = error["message"].replace(value, "ID")
        told.append({k: v for k, v in error.items() if k != "request_id"})
    assert told[0] == told[1]


def test_lists_hold_ones_own_alone(owner: Tenant, gateway: Gateway) -> None:
    other = new_tenant(gateway, "lighthouse")
    mine = other.upload()["id"]
    assert [f["id"] for f in other.ok("GET", "/v1/files")["data"]] == [mine]
    assert other.ok("GET", "/v1/vector_stores")["data"] == []
    assert owner.file in [f["id"] for f in owner.ok("GET", "/v1/files")["data"]]
    assert other.ok("GET", f"/v1/vector_stores?after={owner.store}&order=asc")["data"] == []
    keys = other.ok("GET", "/v1/admin/keys")["data"]
    assert {k["tenant_id"] for k in keys} == {other.id}


def test_audit_usage_and_drift_are_ones_own_alone(owner: Tenant, gateway: Gateway) -> None:
    other = new_tenant(gateway, "customs")
    first = other.send("GET", "/v1/models", **{"x-request-id": "customs-1"})
    assert first[0] == 200
    records = other.ok("GET", "/v1/audit")["data"]
    assert [r["request_id"] for r in records] == ["customs-1"]
    assert {r["tenant_id"] for r in records} == {other.id}
    assert owner.ok("GET", "/v1/audit?request_id=customs-1")["data"] == []
    verdict = other.ok("GET", "/v1/audit/verify")
    assert verdict["valid"] and verdict["records"] == 2
    usage = other.ok("GET", "/v1/usage")["data"]
    assert sum(row["calls"] for row in usage) == 3
    assert sum(row["embedding_tokens"] for row in usage) == 0
    features = [row["feature"] for row in other.ok("GET", "/v1/drift")["data"]]
    assert features and not any("search" in f or "responses" in f for f in features)
    theirs = next(
        row["feature"]
        for row in owner.ok("GET", "/v1/drift")["data"]
        if "/v1/responses" in row["feature"]
    )
    from urllib.parse import quote

    assert owner.send("GET", f"/v1/drift/{quote(theirs, safe='')}")[0] == 200
    refused(other.send("GET", f"/v1/drift/{quote(theirs, safe='')}"), 404)


def test_one_idempotency_key_in_two_tenants_is_two_requests(
    owner: Tenant, stranger: Tenant
) -> None:
    one, two = owner.upload(b"one", "same"), stranger.upload(b"two", "same")
    assert one["id"] != two["id"]
    assert owner.upload(b"one", "same")["id"] == one["id"]
    assert stranger.upload(b"two", "same")["id"] == two["id"]
    made = [
        tenant.ok("POST", "/v1/vector_stores", {"name": "n"}, **{"idempotency-key": "store"})["id"]
        for tenant in (owner, stranger, owner, stranger)
    ]
    assert made[0] == made[2] != made[1] == made[3]


def test_a_file_is_read_by_its_owner_alone_in_a_shared_search(
    owner: Tenant, stranger: Tenant
) -> None:
    store = stranger.ok("POST", "/v1/vector_stores", {"file_ids": [stranger.upload()["id"]]})["id"]
    path = f"/v1/vector_stores/{store}"
    wait_for(lambda: stranger.ok("GET", path)["file_counts"]["completed"] == 1)
    hits = stranger.ok("POST", f"{path}/search", {"query": "harbour fee"})["data"]
    assert hits and owner.file not in [h["file_id"] for h in hits]


NEEDED = (
    ("GET", "/v1/models", "models:read"),
    ("GET", "/v1/files", "files:read"),
    ("DELETE", "/v1/files/file-x", "files:write"),
    ("GET", "/v1/vector_stores", "vector_stores:read"),
    ("POST", "/v1/vector_stores", "vector_stores:write"),
    ("POST", "/v1/vector_stores/vs_x/search", "vector_stores:search"),
    ("GET", "/v1/sources", "connectors:read"),
    ("GET", "/v1/vector_stores/vs_x/connectors", "connectors:read"),
    ("POST", "/v1/vector_stores/vs_x/connectors", "connectors:write"),
    ("DELETE", "/v1/vector_stores/vs_x/connectors/cn_x", "connectors:write"),
    ("GET", "/v1/jobs/job_x", "jobs:read"),
    ("POST", "/v1/jobs/job_x/cancel", "jobs:write"),
    ("POST", "/v1/chat/completions", "chat:write"),
    ("POST", "/v1/responses", "responses:write"),
    ("GET", "/v1/responses/resp_x", "responses:read"),
    ("POST", "/v1/embeddings", "embeddings:write"),
    ("GET", "/v1/guardrails/policies", "guardrails:read"),
    ("DELETE", "/v1/guardrails/policies/x", "guardrails:write"),
    ("POST", "/v1/guardrails/policies/x/try", "guardrails:use"),
    ("GET", "/v1/usage", "monitoring:read"),
    ("GET", "/v1/drift", "monitoring:read"),
    ("POST", "/v1/drift/references", "monitoring:write"),
    ("GET", "/v1/incidents", "incidents:read"),
    ("POST", "/v1/incidents/inc_x/close", "incidents:write"),
    ("GET", "/v1/budgets", "admin"),
    ("GET", "/v1/audit", "audit:read"),
    ("GET", "/v1/admin/keys", "admin"),
    ("GET", "/v1/admin/policies", "admin"),
    ("GET", "/v1/admin/tenants", "admin:platform"),
)


@pytest.fixture(scope="module")
def limited(owner: Tenant) -> dict[str, Tenant]:
    """A key of the owner for each scope alone."""
    made = {}
    for scope in sorted({scope for _, _, scope in NEEDED}):
        key = owner.ok("POST", "/v1/admin/keys", {"name": scope, "scopes": [scope]})
        made[scope] = Tenant(owner.gateway, owner.id, key["key"])
    return made


@pytest.mark.parametrize(
    ("method", "path", "scope"), NEEDED, ids=[s + " " + p for _, p, s in NEEDED]
)
def test_a_key_opens_the_doors_of_its_scope_and_no_other(
    limited: dict[str, Tenant], method: str, path: str, scope: str
) -> None:
    body = {} if method == "POST" else None
    for held, key in limited.items():
        status, found, _ = key.send(method, path, body)
        if held == scope:
            assert status != 403 or scope == "admin:platform", found
        else:
            assert status == 403, (held, path, found)
            assert found["error"]["code"] == "insufficient_scope"


def test_a_tenants_administrator_reaches_no_other_tenant(owner: Tenant, stranger: Tenant) -> None:
    body = {"name": "k", "scopes": ["files:read"], "tenant_id": stranger.id}
    refused(owner.send("POST", "/v1/admin/keys", body), 403)
    refused(owner.send("GET", "/v1/admin/tenants"), 403)
    refused(owner.send("POST", "/v1/admin/tenants", {"name": "more"}), 403)
    refused(owner.send("DELETE", f"/v1/admin/tenants/{stranger.id}"), 403)
    key = stranger.ok("GET", "/v1/admin/keys")["data"][0]["id"]
    refused(owner.send("DELETE", f"/v1/admin/keys/{key}"), 404)
    refused(owner.send("POST", f"/v1/admin/keys/{key}/rotate", {}), 404)
    assert stranger.send("GET", "/v1/models")[0] == 200


def test_a_disabled_tenant_is_out_at_once_and_the_others_are_not(
    owner: Tenant, gateway: Gateway
) -> None:
    gone = new_tenant(gateway, "closed")
    assert gone.send("GET", "/v1/models")[0] == 200
    assert send(gateway, "DELETE", f"/v1/admin/tenants/{gone.id}")[0] == 204
    assert refused(gone.send("GET", "/v1/models"), 403)["code"] == "tenant_unavailable"
    assert owner.send("GET", "/v1/models")[0] == 200
