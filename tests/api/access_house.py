"""A house whose files have access lists: who may see the secret one, and who may not."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import iter_route_contexts

from app.gateway.corridor import GovernedRoute
from app.main import create_app
from tests.api.calls import multipart
from tests.conftest import Gateway, wait_for
from tests.gateway.test_oidc import Issuer

# No digits: latencies and counts in replies have them all sooner or later.
SECRET_NAME, SECRET_FACT = "minutes-of-the-board.md", "ninetyfold crowns"
SECRET = f"# Minutes\n\nThe budget of the harbour festival is {SECRET_FACT} in the next year.\n"
OPEN = "# Lamps\n\nThe lamps of the harbour are lit at dusk and put out at dawn.\n"
ASKED = "What is the budget of the harbour festival?"
ACCESS = {"users": ["ann"], "groups": ["board"]}
OF_CALLERS = ("admin", "admin:platform", "audit:read")  # scopes that callers here do not have
SCOPES = sorted(
    {
        c.original_route.required.name
        for c in iter_route_contexts(create_app().routes)
        if isinstance(c.original_route, GovernedRoute)
    }
    - set(OF_CALLERS)
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a credential, and the headers that an application adds."""

    gateway: Gateway
    credential: str
    headers: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, path: str, body: Any = None, **more: str) -> tuple[int, str]:
        """Status and text of a reply; a body of text is a form, other bodies are JSON."""
        sent = {"authorization": f"Bearer {self.credential}", **self.headers, **more}
        if isinstance(body, str):
            body = body.encode()
        elif body is not None and not isinstance(body, bytes):
            body, sent["content-type"] = json.dumps(body).encode(), "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        try:
            connection.request(method, path, body, sent)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None, **more: str) -> dict[str, Any]:
        status, text = self.send(method, path, body, **more)
        assert status < 300, text
        found: dict[str, Any] = json.loads(text)
        return found


@dataclass(frozen=True, slots=True)
class House:
    """A store with an open file and a secret one, those who may see it and those who may not."""

    gateway: Gateway
    issuer: Issuer
    admin: Caller
    ids: dict[str, str]
    admitted: dict[str, Caller]
    others: dict[str, Caller]

    def filled(self, value: Any, ids: dict[str, str] | None = None) -> Any:
        text = json.dumps(value)
        for name, found in (ids or self.ids).items():
            text = text.replace(f"{{{name}}}", found)
        return json.loads(text)

    def tells(self, text: str) -> list[str]:
        """What a text gives away of the secret file."""
        secrets = (self.ids["file"], SECRET_NAME, SECRET_FACT, SECRET_FACT.split()[0])
        return [word for word in secrets if word in text]


def furnished(gateway: Gateway, issuer: Issuer) -> House:
    admin = Caller(gateway, gateway.key)

    def key(*more: str, **given: Any) -> Caller:
        body = {"name": "k", "scopes": [*SCOPES, *more], **given}
        return Caller(gateway, admin.ok("POST", "/v1/admin/keys", body)["key"])

    application = key("access:impersonate", "access:all")

    def acting(**headers: str) -> Caller:
        return Caller(
            gateway, application.credential, {f"x-ostiary-{k}": v for k, v in headers.items()}
        )

    def token(sub: str, *groups: str) -> Caller:
        claims = {"sub": sub, "groups": list(groups), "scope": SCOPES}
        return Caller(gateway, issuer.token(**claims))

    admitted = {
        "the user": key(user="ann"),
        "a member": key(groups=["staff", "board"]),
        "an application for the user": acting(user="ann"),
        "an application for a group": acting(groups="staff,board"),
        "a token of the user": token("ann"),
        "a token of a member": token("zoe", "board"),
        "a key that sees all": key("access:all"),
    }
    others = {
        "another user": key(user="bob", groups=["staff"]),
        "a key of nobody": key(),
        "a namesake of a group": key(user="board", groups=["ann"]),
        "an application for another": acting(user="bob", groups="staff"),
        "an application for no group": acting(groups=""),
        "a token of another": token("bob", "staff"),
    }
    ids = {
        "file": upload(admin, SECRET_NAME, SECRET),
        "open": upload(admin, "lamps.md", OPEN),
        "store": admin.ok("POST", "/v1/vector_stores", {"name": "harbour"})["id"],
    }
    path = f"/v1/vector_stores/{ids['store']}"
    batch = {"file_ids": [ids["file"]], "ostiary": {"access": ACCESS}}
    ids["batch"] = admin.ok("POST", f"{path}/file_batches", batch)["id"]
    admin.ok("POST", f"{path}/files", {"file_id": ids["open"]})
    wait_for(lambda: admin.ok("GET", path)["file_counts"]["completed"] == 2, 60, "the files")
    ids["followed"] = admin.ok("POST", "/v1/vector_stores", {"name": "followed"})["id"]
    path = f"/v1/vector_stores/{ids['followed']}/connectors"
    body = {"source": "minutes", "access": ACCESS}
    ids["connector"] = admin.ok("POST", path, body)["id"]
    wait_for(lambda: admin.ok("GET", f"{path}/{ids['connector']}")["fresh"], 60, "the sync")
    ids["response"] = admitted["the user"].ok("POST", "/v1/responses", grounded(ids["store"]))["id"]
    ids["job"] = next(
        r["lineage"]["job"] for r in admin.ok("GET", "/v1/audit")["data"] if r["door"] == "job"
    )
    return House(gateway, issuer, admin, ids, admitted, others)


def upload(caller: Caller, name: str, text: str) -> str:
    body, headers = multipart(text.encode(), name)
    return str(caller.ok("POST", "/v1/files", body, **headers)["id"])


def grounded(store_id: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "stub",
        "input": ASKED,
        "tools": [{"type": "file_search", "vector_store_ids": [store_id]}],
        "include": ["file_search_call.results"],
        **more,
    }


def chat(**more: Any) -> dict[str, Any]:
    return {
        "model": "stub",
        "messages": [{"role": "user", "content": ASKED}],
        "ostiary": {"vector_store_ids": ["{store}"]},
        **more,
    }
