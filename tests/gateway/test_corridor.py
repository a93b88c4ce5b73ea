"""No room can be reached around the corridor, and nothing is answered that was not audited."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import create_engine, select
from starlette.routing import BaseRoute

from app.gateway.corridor import GovernedRoute, Scope
from app.main import create_app
from app.settings import Settings
from app.store.models import audit
from tests.conftest import Gateway

# Addresses that need no credential; each is here because someone argued for it.
OPEN = {
    "/healthz": "liveness",
    "/readyz": "readiness",
    "/metrics": "scraped inside the network, holds no tenant's data",
    "/openapi.json": "the contract",
    "/docs": "the contract, for people",
    "/docs/assets": "scripts of /docs",
    "/static": "style sheets and scripts",
    "/": "the sign-in page; it shows nothing before signing in",
    "/ui/sign-in": "takes the key",
    "/ui/sign-out": "forgets the key",
}


# what a model reads goes past the guardrails
SCREENED = ("chat/completions", "completions", "responses", "embeddings", "rerank", "moderations")


def routes_of(app: FastAPI) -> list[BaseRoute]:
    """Every route, those of included routers too."""
    return [found.original_route for found in iter_route_contexts(app.routes)]


def test_every_route_is_governed_or_on_the_short_open_list(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    governed = [r for r in routes_of(app) if isinstance(r, GovernedRoute)]
    others = {getattr(r, "path", "?") for r in routes_of(app) if not isinstance(r, GovernedRoute)}
    assert others <= set(OPEN), f"ungoverned: {others - set(OPEN)}"
    assert len(governed) > 30
    texts = {f"/v1/{name}" for name in SCREENED} | {"/ui/ask"}
    for route in governed:
        if route.path in texts and "POST" in (route.methods or ()):
            assert "input" in route.required.screens, route.path


def test_a_governed_route_without_a_scope_cannot_be_built() -> None:
    router = APIRouter(route_class=GovernedRoute)
    with pytest.raises(TypeError, match="exactly one Scope"):

        @router.get("/forgotten")
        def forgotten() -> None: ...


async def test_every_governed_route_refuses_a_call_without_credentials(gateway: Gateway) -> None:
    app = create_app(Settings(data_dir=gateway.data_dir))
    async with aiohttp.ClientSession() as session:
        for route in routes_of(app):
            if not isinstance(route, GovernedRoute):
                continue
            path = route.path.replace("{", "").replace("}", "").replace(":path", "")
            for method in route.methods or ():
                async with session.request(method, gateway.url + path) as reply:
                    assert reply.status == 401, f"{method} {path} answered {reply.status}"
                    error = (await reply.json())["error"]
                    assert error["code"] == "invalid_api_key"
                    assert error["request_id"] == reply.headers["x-request-id"]


def chat(gateway: Gateway, text: str = "Hello", **headers: str) -> tuple[dict[str, str], bytes]:
    request = urllib.request.Request(
        gateway.url + "/v1/chat/completions",
        json.dumps({"model": "stub", "messages": [{"role": "user", "content": text}]}).encode(),
        {
            "authorization": f"Bearer {gateway.key}",
            "content-type": "application/json",
            **headers,
        },
    )
    with urllib.request.urlopen(request) as reply:
        return {k.lower(): v for k, v in reply.headers.items()}, reply.read()


def records(gateway: Gateway, request_id: str) -> list[dict[str, object]]:
    engine = create_engine(gateway.database_url)
    try:
        with engine.connect() as connection:
            query = select(audit.c.record).where(audit.c.request_id == request_id)
            return [json.loads(record) for record in connection.scalars(query)]
    finally:
        engine.dispose()


def test_one_call_leaves_one_record_that_says_who_what_and_how_much(gateway: Gateway) -> None:
    headers, body = chat(gateway, "Write to jane.roe@example.com", **{"x-request-id": "audit-one"})
    assert headers["x-request-id"] == "audit-one"
    assert headers["x-ostiary-guardrails"] == "masked=1;blocked=0"
    (record,) = records(gateway, "audit-one")
    usage = json.loads(body)["usage"]
    assert record["route"] == "POST /v1/chat/completions"
    assert record["key_id"] and record["principal"] == f"key:{record['key_id']}"
    assert (record["prompt_tokens"], record["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert float(headers["x-ostiary-cost-usd"]) == pytest.approx(record["cost_nano_usd"] / 1e9)  # type: ignore[operator]
    assert record["findings"] == [
        {"direction": "input", "entity": "EMAIL_ADDRESS", "action": "mask", "count": 1}
    ]
    assert "jane.roe" not in json.dumps(record)
    assert record["outcome"] == "ok"


def test_a_blocked_call_is_refused_without_the_value_and_audited(gateway: Gateway) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        chat(gateway, "My SSN is 536-22-8726.", **{"x-request-id": "audit-blocked"})
    assert caught.value.code == 400
    error = json.loads(caught.value.read())["error"]
    assert error["code"] == "guardrail_violation"
    assert "US_SSN" in error["message"] and "536" not in error["message"]
    (record,) = records(gateway, "audit-blocked")
    assert (record["status"], record["error_code"]) == (400, "guardrail_violation")


def test_a_stream_is_audited_before_its_last_event(gateway: Gateway) -> None:
    request = urllib.request.Request(
        gateway.url + "/v1/chat/completions",
        json.dumps(
            {"model": "stub", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        ).encode(),
        {
            "authorization": f"Bearer {gateway.key}",
            "content-type": "application/json",
            "x-request-id": "audit-stream",
        },
    )
    with urllib.request.urlopen(request) as reply:
        for line in reply:
            if line.strip() == b"data: [DONE]":
                assert len(records(gateway, "audit-stream")) == 1
                break
        else:
            pytest.fail("the stream did not end with [DONE]")


def test_without_a_working_audit_log_the_call_is_refused(
    new_gateway: Callable[..., Gateway], fake_model_server: str
) -> None:
    server = new_gateway(OSTIARY_LLM_URL=fake_model_server, OSTIARY_LLM_MODEL="stub").start()
    assert chat(server)[0]["x-request-id"]
    with sqlite3.connect(server.data_dir / "ostiary.db") as connection:
        connection.execute("ALTER TABLE audit RENAME TO audit_gone")
    with pytest.raises(urllib.error.HTTPError) as caught:
        chat(server)
    assert caught.value.code == 503
    assert json.loads(caught.value.read())["error"]["code"] == "audit_unavailable"
    with sqlite3.connect(server.data_dir / "ostiary.db") as connection:
        connection.execute("ALTER TABLE audit_gone RENAME TO audit")
    assert chat(server)[0]["x-request-id"]


def test_keys_never_reach_the_log_or_the_database(gateway: Gateway) -> None:
    chat(gateway)
    secret = gateway.key.rsplit("-", 1)[1].encode()
    for path in gateway.data_dir.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path.name


class TestScope:
    def test_a_scope_grants_itself_its_family_and_nothing_else(self) -> None:
        from app.gateway.call import Principal

        def may(*granted: str) -> bool:
            return Principal("t", "s", None, frozenset(granted)).may(Scope("chat:write").name)

        assert may("chat:write") and may("chat:*") and may("*")
        assert not may("chat:read") and not may("files:*") and not may()
