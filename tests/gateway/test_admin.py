"""The administration's door: who may manage which tenants and keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app.api.admin import router
from app.gateway.call import DEFAULT_TENANT
from app.gateway.corridor import Corridor
from app.gateway.idempotency import Idempotency
from app.gateway.identity import Identity
from app.gateway.limits import Limits, MemoryCounters, spent_since
from app.gateway.scopes import SCOPES
from app.gateway.streams import MemoryStreams
from app.guardrails.assignments import Choice
from app.guardrails.policy import load_policy
from app.main import _on_ostiary_error, _on_validation_error
from app.monitoring.audit import AuditLog
from app.monitoring.cost import Prices
from app.monitoring.drift import DriftMonitor
from app.monitoring.metrics import Metrics
from app.store.db import Database
from app.store.models import audit, idempotency
from tests.conftest import ADMIN_KEY

KEYS, TENANTS = "/v1/admin/keys", "/v1/admin/tenants"


class Door:
    """The admin routes behind the real corridor."""

    def __init__(self, client: httpx.AsyncClient, identity: Identity, db: Database) -> None:
        self.client = client
        self.identity = identity
        self.db = db

    async def call(
        self, method: str, path: str, json: Any = None, *, key: str = ADMIN_KEY, **headers: str
    ) -> tuple[int, Any]:
        reply = await self.client.request(
            method,
            path,
            json=json,
            headers={
                "authorization": f"Bearer {key}",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
        )
        return reply.status_code, reply.json() if reply.content else None

    async def key(self, tenant_id: str, *scopes: str) -> tuple[str, str]:
        row, key = await self.identity.create_key(tenant_id, "made", scopes)
        return row.id, key


@pytest.fixture
async def door(db: Database) -> AsyncIterator[Door]:
    from fastapi.exceptions import RequestValidationError

    from app.errors import OstiaryError

    identity = Identity(db)
    await identity.bootstrap(ADMIN_KEY)
    audit_log = AuditLog(db)
    audit_log.start()
    limits = Limits(
        MemoryCounters(),
        MemoryStreams(),
        rpm=1000,
        tpm=1000,
        tenant_rpm=1000,
        max_streams=10,
        budget_usd_per_day=None,
        spent=spent_since(db),
        budget_of=identity.budget_of,
    )
    app = FastAPI()
    app.include_router(router)
    app.add_exception_handler(OstiaryError, _on_ostiary_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.state.services = SimpleNamespace(identity=identity)
    app.state.corridor = Corridor(
        identity,
        limits,
        Idempotency(db, "one"),
        Prices(0.0, 0.0, 0.0),
        DriftMonitor(db),
        audit_log,
        Metrics(),
        choose=lambda tenant_id, route: Choice("default", load_policy("default")),
        max_json_bytes=10_000,
        max_file_bytes=10_000,
        keep_bodies=False,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        yield Door(client, identity, db)
    audit_log.close()


async def test_a_key_is_shown_once_used_rotated_and_revoked(door: Door) -> None:
    expires = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    status, made = await door.call(
        "POST", KEYS, {"name": "ci", "scopes": ["admin"], "expires_at": expires, "rate_rpm": 9}
    )
    assert status == 201 and made["object"] == "api_key"
    assert (made["tenant_id"], made["scopes"], made["rate_rpm"]) == (DEFAULT_TENANT, ["admin"], 9)
    assert datetime.fromisoformat(made["expires_at"]) == datetime.fromisoformat(expires)
    status, listed = await door.call("GET", KEYS, key=made["key"])
    assert status == 200 and made["id"] in {row["id"] for row in listed["data"]}
    assert made["key"] not in str(listed) and "secret_hash" not in str(listed)

    status, new = await door.call("POST", f"{KEYS}/{made['id']}/rotate", {"grace_seconds": 60})
    assert status == 201 and new["scopes"] == ["admin"] and new["key"] != made["key"]
    for key in (made["key"], new["key"]):
        assert (await door.call("GET", KEYS, key=key))[0] == 200
    status, revoked = await door.call("DELETE", f"{KEYS}/{made['id']}")
    assert status == 200 and revoked["revoked_at"]
    status, error = await door.call("GET", KEYS, key=made["key"])
    assert (status, error["error"]["code"]) == (401, "revoked_api_key")
    assert (await door.call("GET", KEYS, key=new["key"]))[0] == 200


async def test_a_tenants_admin_manages_its_own_keys_only(door: Door) -> None:
    status, tenant = await door.call("POST", TENANTS, {"name": "acme", "budget_usd_per_day": 2})
    assert status == 201 and tenant["budget_usd_per_day"] == 2
    status, made = await door.call(
        "POST", KEYS, {"name": "their admin", "scopes": ["*"], "tenant_id": tenant["id"]}
    )
    assert status == 201
    theirs, (ours, _) = made["key"], await door.key(DEFAULT_TENANT, "chat:write")
    status, own = await door.call("POST", KEYS, {"name": "k", "scopes": ["*"]}, key=theirs)
    assert status == 201 and own["tenant_id"] == tenant["id"]
    _, listed = await door.call("GET", KEYS, key=theirs)
    assert {row["tenant_id"] for row in listed["data"]} == {tenant["id"]}
    for method, path in (("DELETE", f"{KEYS}/{ours}"), ("POST", f"{KEYS}/{ours}/rotate")):
        assert (await door.call(method, path, {}, key=theirs))[0] == 404
    body = {"name": "k", "scopes": ["chat:write"], "tenant_id": DEFAULT_TENANT}
    assert (await door.call("POST", KEYS, body, key=theirs))[0] == 403
    assert (await door.call("GET", TENANTS, key=theirs))[0] == 403
    assert (await door.call("POST", TENANTS, {"name": "x"}, key=theirs))[0] == 403
    assert (await door.call("DELETE", f"{TENANTS}/{tenant['id']}", key=theirs))[0] == 403


async def test_only_the_platforms_admins_manage_tenants(door: Door) -> None:
    _, keys_only = await door.key(DEFAULT_TENANT, "admin")
    _, platform = await door.key(DEFAULT_TENANT, "admin:platform")
    _, reader = await door.key(DEFAULT_TENANT, "chat:*")
    assert (await door.call("GET", TENANTS, key=keys_only))[0] == 403
    assert (await door.call("GET", TENANTS, key=platform))[0] == 200
    assert (await door.call("GET", KEYS, key=reader))[0] == 403
    _, tenant = await door.call("POST", TENANTS, {"name": "acme"})
    _, theirs = await door.key(tenant["id"], "chat:write")
    _, listed = await door.call("GET", KEYS, key=keys_only)
    assert {row["tenant_id"] for row in listed["data"]} == {DEFAULT_TENANT}
    assert (await door.call("POST", TENANTS, {"name": "acme"}))[0] == 409
    assert (await door.call("DELETE", f"{TENANTS}/{tenant['id']}"))[0] == 204
    status, error = await door.call("GET", KEYS, key=theirs)
    assert (status, error["error"]["code"]) == (403, "tenant_unavailable")
    assert (await door.call("DELETE", f"{TENANTS}/{DEFAULT_TENANT}"))[0] == 409
    assert (await door.call("DELETE", f"{TENANTS}/tn_none"))[0] == 404


async def test_nobody_can_get_rights_that_he_lacks(door: Door) -> None:
    _, weak = await door.key(DEFAULT_TENANT, "admin", "chat:*")
    strong, _ = await door.key(DEFAULT_TENANT, "*")
    for scopes in (["*"], ["files:read"], ["admin:platform"], ["chat:write", "*"]):
        body = {"name": "k", "scopes": scopes}
        assert (await door.call("POST", KEYS, body, key=weak))[0] == 403
    body = {"name": "k", "scopes": ["chat:write", "admin"]}
    assert (await door.call("POST", KEYS, body, key=weak))[0] == 201
    assert (await door.call("POST", f"{KEYS}/{strong}/rotate", {}, key=weak))[0] == 403
    assert (await door.identity.find_key(None, strong)).rotated_to is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "scopes": ["*"]},
        {"name": "k", "scopes": []},
        {"name": "k", "scopes": ["Chat Write"]},
        {"name": "k", "scopes": ["*"], "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "k", "scopes": ["*"], "expires_at": "2101-01-01T00:00:00"},
        {"name": "k", "scopes": ["*"], "rate_rpm": 0},
        {"name": "k", "scopes": ["*"], "tenant_id": "a\x00b"},
        {"name": "a\x00b", "scopes": ["*"]},
        {"name": "k", "scopes": ["*"], "surplus": 1},
        ["k"],
    ],
)
async def test_a_bad_key_request_is_told_so(door: Door, body: Any) -> None:
    status, error = await door.call("POST", KEYS, body)
    assert status == 400 and error["error"]["request_id"]


async def test_a_scope_that_would_open_nothing_is_refused(door: Door) -> None:
    for scope, meant in (("search", "vector_stores:search"), ("chat:wirte", "chat:write")):
        status, error = await door.call("POST", KEYS, {"name": "k", "scopes": ["admin", scope]})
        assert (status, error["error"]["code"]) == (400, "unknown_scope")
        assert scope in error["error"]["message"] and meant in error["error"]["message"]
    assert len(await door.identity.list_keys(None)) == 1
    for scope in (*SCOPES, "chat:*", "access:*", "*"):
        assert (await door.call("POST", KEYS, {"name": "k", "scopes": [scope]}))[0] == 201


async def test_a_key_of_a_scope_that_is_gone_can_still_be_rotated(door: Door) -> None:
    old, _ = await door.key(DEFAULT_TENANT, "of_yesterday:write", "admin")
    status, new = await door.call("POST", f"{KEYS}/{old}/rotate", {})
    assert status == 201 and new["scopes"] == ["of_yesterday:write", "admin"]


async def test_unknown_ids_are_not_found(door: Door) -> None:
    assert (await door.call("DELETE", f"{KEYS}/0123456789abcdef"))[0] == 404
    assert (await door.call("POST", f"{KEYS}/0123456789abcdef/rotate", {}))[0] == 404
    assert (await door.call("DELETE", f"{KEYS}/a%00b"))[0] == 400
    status, _ = await door.call("POST", KEYS, {"name": "k", "scopes": ["*"], "tenant_id": "none"})
    assert status == 404


async def test_a_repeated_request_shows_the_same_key_which_is_stored_nowhere(door: Door) -> None:
    body = {"name": "k", "scopes": ["*"]}
    first = await door.call("POST", KEYS, body, idempotency_key="once")
    again = await door.call("POST", KEYS, body, idempotency_key="once")
    assert first == again and first[0] == 201
    assert len(await door.identity.list_keys(None)) == 2
    secret = first[1]["key"].encode()
    async with door.db.read() as connection:
        stored = await connection.scalar(select(idempotency.c.body))
        records = list(await connection.scalars(select(audit.c.record)))
    assert secret not in stored and not any(secret.decode() in r for r in records)
    assert len(records) == 2 and ADMIN_KEY not in "".join(records)


async def test_nobody_can_give_a_key_the_sight_of_others(door: Door) -> None:
    row, weak = await door.identity.create_key(
        DEFAULT_TENANT, "made", ["admin"], user="ann", groups=["staff", "board"]
    )
    theirs, _ = await door.identity.create_key(DEFAULT_TENANT, "bob's", ["admin"], user="bob")
    for more in ({"user": "bob"}, {"groups": ["staff", "directors"]}):
        body = {"name": "k", "scopes": ["admin"], **more}
        assert (await door.call("POST", KEYS, body, key=weak))[0] == 403
        status, made = await door.call("POST", KEYS, body)
        assert status == 201 and made["user"] == more.get("user")
    assert (await door.call("POST", f"{KEYS}/{theirs.id}/rotate", {}, key=weak))[0] == 403
    body = {"name": "k", "scopes": ["admin"], "user": "ann", "groups": ["board"]}
    status, made = await door.call("POST", KEYS, body, key=weak)
    assert status == 201 and (made["user"], made["groups"]) == ("ann", ["board"])
    status, made = await door.call("POST", f"{KEYS}/{row.id}/rotate", {}, key=weak)
    assert status == 201 and made["groups"] == ["staff", "board"] and "first_id" not in made
    listed = (await door.call("GET", KEYS))[1]["data"]
    assert {k["user"] for k in listed} == {"ann", "bob", None}


@pytest.mark.parametrize(
    "sight", [{"user": ""}, {"user": " x"}, {"user": "a\x00"}, {"groups": "g"}, {"groups": [7]}]
)
async def test_a_name_that_nobody_can_have_is_refused(door: Door, sight: Any) -> None:
    status, _ = await door.call("POST", KEYS, {"name": "k", "scopes": ["*"], **sight})
    assert status == 400
