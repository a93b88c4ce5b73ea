"""Every scope that a key can have, and what it allows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from app.errors import BadRequest
from app.gateway.acting import IMPERSONATE
from app.gateway.call import SEES_ALL

SCOPES = {
    "chat:write": "chat completions",
    "completions:write": "completions of plain text",
    "responses:write": "responses, deleting kept ones, asking on the page",
    "responses:read": "reading kept responses",
    "embeddings:write": "embeddings",
    "batches:read": "batches of calls",
    "batches:write": "starting and cancelling batches; each line needs its own scope too",
    "rerank:write": "judging documents against a query",
    "models:read": "listing models",
    "files:read": "listing, describing and downloading files",
    "files:write": "uploading and deleting files",
    "vector_stores:read": "stores, their files and the text of their files; the page",
    "vector_stores:write": "making, changing, filling and deleting stores",
    "vector_stores:search": "searching stores",
    "connectors:read": "sources, connectors and what became of their documents",
    "connectors:write": "following sources, syncing now, pausing and deleting connectors",
    "jobs:read": "the state of jobs",
    "jobs:write": "cancelling jobs",
    "guardrails:use": "moderations, finding and replacing personal data as a service",
    "guardrails:reveal": "turning encrypted values back",
    "guardrails:read": "the guardrail policies that the tenant can see",
    "guardrails:write": "storing and deleting the tenant's own guardrail policies",
    "monitoring:read": "usage and drift",
    "incidents:read": "incidents with their history",
    "incidents:write": "acknowledging, approving and closing incidents",
    "monitoring:write": "freezing and deleting references of drift",
    "audit:read": "reading, verifying and exporting the audit log of the tenant",
    "admin": "the own tenant's keys, budgets, assigned policies, alert policies and webhooks, "
    "audit retention and erasures",
    "admin:platform": "tenants; keys, policies and retention of all; in the default tenant only",
    SEES_ALL: "no access list binds the key; of no route",
    IMPERSONATE: "naming whom a call is for; of no route",
}
_GIVEN = {"*", *SCOPES, *(f"{name.partition(':')[0]}:*" for name in SCOPES)}


def require_known(scopes: Iterable[str]) -> None:
    """Refuse a scope that would open nothing.

    Raises:
        BadRequest: there is no such scope.
    """
    for scope in scopes:
        if scope not in _GIVEN:
            near = difflib.get_close_matches(scope, sorted(_GIVEN), 3, 0.5)
            near += [name for name in sorted(_GIVEN) if scope in name.split(":")]
            hint = f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
            raise BadRequest(
                f"There is no scope '{scope}'.{hint} docs/identity.md lists them all.",
                code="unknown_scope",
                param="scopes",
            )
