"""Access lists from outside: every door, for those who may not see a file and those who may."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.routing import iter_route_contexts

import app
from app.gateway.corridor import GovernedRoute
from app.main import create_app
from app.retrieval.files import FileService
from app.retrieval.search import Searches, find
from app.retrieval.store_files import StoreFiles
from tests.api.access_house import (
    ASKED,
    SECRET_FACT,
    SECRET_NAME,
    Caller,
    House,
    chat,
    grounded,
)

FORM = "application/x-www-form-urlencoded"

STORE = "/v1/vector_stores/{store}"
CONNECTORS = "/v1/vector_stores/{followed}/connectors"
FILE = f"{STORE}/files/{{file}}"
SEARCH = {"query": ASKED}
NOT_THERE, SILENT, TOTALS = "not there", "silent", "totals"
Attempt = tuple[str, Any, str]  # address, body, what those who may not see it get

# What somebody asks of the secret file at each door: it is not there for him, or the reply is
# silent about it. Whoever may see it finds it at every silent door.
DOORS: dict[tuple[str, str], list[Attempt]] = {
    ("POST", "/v1/chat/completions"): [
        ("/v1/chat/completions", chat(), SILENT),
        ("/v1/chat/completions", chat(stream=True), SILENT),
    ],
    ("POST", "/v1/responses"): [
        ("/v1/responses", grounded("{store}", store=False), SILENT),
        ("/v1/responses", grounded("{store}", store=False, stream=True), SILENT),
        (
            "/v1/responses",
            {"model": "stub", "input": "Go on", "previous_response_id": "{response}"},
            NOT_THERE,
        ),
    ],
    ("GET", "/v1/responses/{response_id}"): [("/v1/responses/{response}", None, NOT_THERE)],
    ("DELETE", "/v1/responses/{response_id}"): [("/v1/responses/{response}", None, NOT_THERE)],
    ("GET", "/v1/files"): [
        ("/v1/files", None, SILENT),
        ("/v1/files?purpose=assistants&order=asc", None, SILENT),
    ],
    ("POST", "/v1/batches"): [
        (
            "/v1/batches",
            {
                "input_file_id": "{file}",
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            },
            NOT_THERE,
        ),
    ],
    ("GET", "/v1/files/{file_id}"): [("/v1/files/{file}", None, NOT_THERE)],
    ("GET", "/v1/files/{file_id}/content"): [("/v1/files/{file}/content", None, NOT_THERE)],
    ("DELETE", "/v1/files/{file_id}"): [("/v1/files/{file}", None, NOT_THERE)],
    ("POST", "/v1/vector_stores"): [
        ("/v1/vector_stores", {"file_ids": ["{file}"]}, NOT_THERE),
    ],
    ("GET", "/v1/vector_stores"): [("/v1/vector_stores", None, TOTALS)],
    ("GET", "/v1/vector_stores/{vector_store_id}"): [(STORE, None, TOTALS)],
    ("POST", "/v1/vector_stores/{vector_store_id}"): [(STORE, {"name": "harbour"}, TOTALS)],
    ("POST", "/v1/vector_stores/{vector_store_id}/search"): [
        (f"{STORE}/search", {**SEARCH, **options}, SILENT)
        for options in (
            {},
            {"rewrite_query": True},
            {"filters": {"type": "ne", "key": "a", "value": "b"}},
            {"ranking_options": {"ranker": "cross-encoder"}},
            {"ranking_options": {"ranker": "late-interaction"}},
            {"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 1}}},
            {"ranking_options": {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}}},
            {"ostiary": {"expand": {"by": "section"}, "drop_near_duplicates": True}},
            {"ostiary": {"expand": {"reach": 10}, "diversity": 0.9, "operators": False}},
        )
    ],
    ("POST", "/v1/vector_stores/{vector_store_id}/files"): [
        ("/v1/vector_stores/{mine}/files", {"file_id": "{file}"}, NOT_THERE),
        (f"{STORE}/files", {"file_id": "{file}"}, NOT_THERE),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/files"): [
        (f"{STORE}/files", None, SILENT),
        (f"{STORE}/files?filter=completed&limit=1&order=asc", None, SILENT),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/files/{file_id}"): [(FILE, None, NOT_THERE)],
    ("POST", "/v1/vector_stores/{vector_store_id}/files/{file_id}"): [
        (FILE, {"attributes": {"a": "b"}}, NOT_THERE),
        (FILE, {"ostiary": {"access": None}}, NOT_THERE),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/files/{file_id}/content"): [
        (f"{FILE}/content", None, NOT_THERE),
    ],
    ("DELETE", "/v1/vector_stores/{vector_store_id}/files/{file_id}"): [(FILE, None, NOT_THERE)],
    ("POST", "/v1/vector_stores/{vector_store_id}/file_batches"): [
        ("/v1/vector_stores/{mine}/file_batches", {"file_ids": ["{open}", "{file}"]}, NOT_THERE),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}"): [
        (f"{STORE}/file_batches/{{batch}}", None, TOTALS),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files"): [
        (f"{STORE}/file_batches/{{batch}}/files", None, SILENT),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/builds"): [(f"{STORE}/builds", None, TOTALS)],
    ("GET", "/v1/vector_stores/{vector_store_id}/builds/{build_id}"): [
        (f"{STORE}/builds/original", None, TOTALS),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/connectors"): [(CONNECTORS, None, TOTALS)],
    ("GET", "/v1/vector_stores/{vector_store_id}/connectors/{connector_id}"): [
        (f"{CONNECTORS}/{{connector}}", None, TOTALS),
    ],
    ("POST", "/v1/vector_stores/{vector_store_id}/connectors/{connector_id}"): [
        (f"{CONNECTORS}/{{connector}}", {"enabled": True}, TOTALS),
    ],
    ("GET", "/v1/vector_stores/{vector_store_id}/connectors/{connector_id}/items"): [
        (f"{CONNECTORS}/{{connector}}/items", None, SILENT),
        (f"{CONNECTORS}/{{connector}}/items?status=completed&order=asc", None, SILENT),
    ],
    ("GET", "/v1/jobs/{job_id}"): [("/v1/jobs/{job}", None, TOTALS)],
    ("GET", "/v1/jobs/{job_id}/events"): [("/v1/jobs/{job}/events", None, TOTALS)],
    ("GET", "/v1/usage"): [("/v1/usage", None, TOTALS)],
    ("GET", "/v1/drift"): [("/v1/drift", None, TOTALS)],
    ("GET", "/ui/ask"): [("/ui/ask", None, TOTALS)],
    ("POST", "/ui/ask"): [("/ui/ask", "form", SILENT), ("/ui/ask", "stream", SILENT)],
    ("GET", "/ui/documents/{store_id}/{file_id}"): [
        ("/ui/documents/{store}/{file}", None, NOT_THERE),
        ("/ui/documents/{store}/{file}?at=0", None, NOT_THERE),
    ],
}
# Doors that hold nothing of a file, each with its reason.
BESIDE = {
    ("GET", "/v1/models"): "models",
    ("GET", "/v1/models/{model:path}"): "models",
    ("POST", "/v1/embeddings"): "what the caller sent",
    ("POST", "/v1/completions"): "what the caller sent",
    ("POST", "/v1/rerank"): "what the caller sent",
    ("POST", "/v1/moderations"): "what the caller sent",
    ("GET", "/v1/batches"): "the caller's own, and no texts: tests/api/test_batches.py",
    ("GET", "/v1/batches/{batch_id}"): "the caller's own, and no texts",
    ("POST", "/v1/batches/{batch_id}/cancel"): "a state",
    ("POST", "/v1/files"): "the caller's own file",
    ("DELETE", "/v1/vector_stores/{vector_store_id}"): "deletes, shows nothing",
    ("POST", "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel"): "totals",
    ("POST", "/v1/vector_stores/{vector_store_id}/builds"): "totals",
    ("POST", "/v1/vector_stores/{vector_store_id}/builds/{build_id}/activate"): "totals",
    ("DELETE", "/v1/vector_stores/{vector_store_id}/builds/{build_id}"): "deletes",
    ("GET", "/v1/sources"): "names and kinds",
    ("POST", "/v1/vector_stores/{vector_store_id}/connectors"): "what the caller sent",
    ("POST", "/v1/vector_stores/{vector_store_id}/connectors/{connector_id}/sync"): "a state",
    ("DELETE", "/v1/vector_stores/{vector_store_id}/connectors/{connector_id}"): "deletes",
    ("POST", "/v1/jobs/{job_id}/cancel"): "a state",
    ("POST", "/v1/guardrails/analyze"): "what the caller sent",
    ("POST", "/v1/guardrails/anonymize"): "what the caller sent",
    ("POST", "/v1/guardrails/deanonymize"): "what the caller sent",
    ("GET", "/v1/guardrails/policies"): "policies",
    ("GET", "/v1/guardrails/policies/{name}"): "the policy",
    ("PUT", "/v1/guardrails/policies/{name}"): "the policy",
    ("DELETE", "/v1/guardrails/policies/{name}"): "the policy",
    ("GET", "/v1/guardrails/policies/{name}/versions"): "the policy",
    ("POST", "/v1/guardrails/policies/{name}/try"): "what the caller sent",
    ("GET", "/v1/admin/policies"): "policies",
    ("PUT", "/v1/admin/policies"): "policies",
    ("DELETE", "/v1/admin/policies/{assignment_id}"): "policies",
    ("GET", "/v1/drift/{feature:path}"): "numbers",
    ("POST", "/v1/budgets"): "money",
    ("GET", "/v1/budgets"): "money",
    ("GET", "/v1/budgets/{budget_id}"): "money",
    ("POST", "/v1/budgets/{budget_id}"): "money",
    ("DELETE", "/v1/budgets/{budget_id}"): "money",
    ("GET", "/v1/drift/report"): "numbers",
    ("GET", "/v1/drift/{feature:path}/report"): "numbers",
    ("GET", "/v1/drift/references"): "times and counts",
    ("POST", "/v1/drift/references"): "times and counts",
    ("GET", "/v1/drift/references/{version}"): "times and counts",
    ("DELETE", "/v1/drift/references/{version}"): "deletes",
    ("GET", "/v1/audit"): "for auditors: ids of files, and texts where bodies are kept",
    ("GET", "/v1/audit/verify"): "a verdict",
    ("GET", "/v1/audit/export"): "for auditors, as /v1/audit",
    ("GET", "/v1/audit/keys"): "public keys",
    ("GET", "/v1/audit/checkpoints"): "hashes",
    ("POST", "/v1/audit/checkpoints"): "hashes",
    ("POST", "/v1/audit/retention"): "a job",
    ("POST", "/v1/audit/erasures"): "a job",
    ("GET", "/v1/audit/erasures/{erasure_id}"): "counts",
    ("GET", "/v1/admin/tenants/{tenant_id}/audit_retention"): "days",
    ("PUT", "/v1/admin/tenants/{tenant_id}/audit_retention"): "days",
    ("DELETE", "/v1/admin/tenants/{tenant_id}/audit_retention"): "days",
    ("POST", "/v1/admin/tenants"): "tenants",
    ("GET", "/v1/admin/tenants"): "tenants",
    ("DELETE", "/v1/admin/tenants/{tenant_id}"): "tenants",
    ("GET", "/v1/admin/models"): "model servers",
    ("PUT", "/v1/admin/models/{model:path}"): "model servers",
    ("POST", "/v1/admin/deployments"): "model servers",
    ("POST", "/v1/admin/deployments/{deployment_id:path}"): "model servers",
    ("DELETE", "/v1/admin/deployments/{deployment_id:path}"): "model servers",
    ("GET", "/v1/admin/comparisons/{model:path}"): "measures of model servers, no texts",
    ("POST", "/v1/admin/promotions"): "model servers",
    ("POST", "/v1/admin/rollbacks"): "model servers",
    ("POST", "/v1/admin/keys"): "keys",
    ("GET", "/v1/admin/keys"): "keys",
    ("POST", "/v1/admin/keys/{key_id}/rotate"): "keys",
    ("DELETE", "/v1/admin/keys/{key_id}"): "keys",
    ("GET", "/v1/incidents"): "features and stores by name, numbers; no texts",
    ("GET", "/v1/incidents/{incident_id}"): "as the list",
    ("POST", "/v1/incidents/{incident_id}/acknowledge"): "as the list",
    ("POST", "/v1/incidents/{incident_id}/approve"): "as the list; its job shows nobody a file",
    ("POST", "/v1/incidents/{incident_id}/close"): "as the list",
    ("POST", "/v1/admin/alert_policies"): "rules, no texts",
    ("GET", "/v1/admin/alert_policies"): "rules, no texts",
    ("GET", "/v1/admin/alert_policies/{policy_id}"): "rules, no texts",
    ("PUT", "/v1/admin/alert_policies/{policy_id}"): "rules, no texts",
    ("DELETE", "/v1/admin/alert_policies/{policy_id}"): "rules, no texts",
    ("POST", "/v1/admin/webhooks"): "addresses and secrets of receivers",
    ("GET", "/v1/admin/webhooks"): "addresses of receivers",
    ("GET", "/v1/admin/webhooks/{webhook_id}"): "addresses of receivers",
    ("POST", "/v1/admin/webhooks/{webhook_id}/rotate"): "secrets of receivers",
    ("DELETE", "/v1/admin/webhooks/{webhook_id}"): "addresses of receivers",
    ("GET", "/v1/admin/webhooks/{webhook_id}/deliveries"): "which changes of incidents were told",
}


def test_every_route_is_asked_for_the_secret_or_argued_for() -> None:
    found = {
        (method, c.original_route.path)
        for c in iter_route_contexts(create_app().routes)
        if isinstance(c.original_route, GovernedRoute)
        for method in c.original_route.methods
    }
    assert found == set(DOORS) | set(BESIDE)
    assert not set(DOORS) & set(BESIDE)


# Methods that work on files for nobody in particular: jobs, sweeps, totals.
FOR_NOBODY = {
    StoreFiles: {"entry", "fail", "cancel_file", "unfinished", "backlog", "batch", "cancel_batch"},
    FileService: {"row", "erase", "sweep", "count"},
    Searches: set(),
}


def test_whatever_shows_a_file_takes_the_call_that_asks() -> None:
    """Neither a search nor another service can be used without saying for whom."""
    for service, others in FOR_NOBODY.items():
        for name, method in inspect.getmembers(service, inspect.iscoroutinefunction):
            parameters = list(inspect.signature(method).parameters)
            if not name.startswith("_"):
                assert (parameters[1:2] != ["call"]) == (name in others), name
    rooms = [Path(app.__file__).parent / room for room in ("api", "ui", "llm")]
    for source in (file for room in rooms for file in room.rglob("*.py")):
        if source.name == "batches.py":
            continue  # its job reads the file that its call was shown
        assert not re.search(r"\.(entry|row)\(", source.read_text()), source
    visible = inspect.signature(find).parameters["files"]
    assert visible.default is inspect.Parameter.empty


def asked(house: House, caller: Caller, method: str, attempt: Attempt, ids: Any) -> tuple[int, str]:
    address, body, _ = attempt
    more = {}
    if body in ("form", "stream"):
        more["content-type"] = FORM
        more["accept"] = "text/event-stream" if body == "stream" else "text/html"
        body = urlencode({"q": ASKED, "store": house.ids["store"]})
    return caller.send(method, house.filled(address, ids), house.filled(body, ids), **more)


@pytest.mark.parametrize("door", DOORS, ids=" ".join)
def test_a_file_is_not_there_for_those_whom_its_list_does_not_name(
    house: House, door: tuple[str, str]
) -> None:
    method, _ = door
    for who, caller in house.others.items():
        ids = dict(house.ids)
        if any("{mine}" in attempt[0] for attempt in DOORS[door]):
            ids["mine"] = caller.ok("POST", "/v1/vector_stores", {})["id"]
        for attempt in DOORS[door]:
            status, text = asked(house, caller, method, attempt, ids)
            if attempt[2] != NOT_THERE:
                assert status == 200, (who, text)
                assert not house.tells(text), (who, attempt, text)
                continue
            nobodys = {
                n: v if n in ("store", "mine") else v[:-6] + "ffffff" for n, v in ids.items()
            }
            if attempt[0].startswith(f"{STORE}/files"):
                nobodys["open"] = ids["open"]
            told = [(status, text), asked(house, caller, method, attempt, nobodys)]
            assert [s for s, _ in told] == [404, 404], (who, attempt, told)
            if method == "GET" and "/ui/" in attempt[0]:
                assert SECRET_NAME not in text and SECRET_FACT not in text
                continue
            plain = []
            for each, mapping in zip(told, (ids, nobodys), strict=True):
                error = json.loads(each[1])["error"]
                for value in mapping.values():
                    error["message"] = error["message"].replace(value, "ID")
                plain.append({k: v for k, v in error.items() if k != "request_id"})
            assert plain[0] == plain[1], (who, attempt)


READS = [
    (method, attempt)
    for (method, _), attempts in DOORS.items()
    for attempt in attempts
    if attempt[2] == SILENT or (method == "GET" and attempt[2] == NOT_THERE)
]


@pytest.mark.parametrize(("method", "attempt"), READS, ids=lambda v: str(v)[:60])
def test_whoever_the_list_names_finds_the_file_at_the_same_doors(
    house: House, method: str, attempt: Attempt
) -> None:
    of_the_asker = attempt[0].startswith("/v1/responses/")
    for who, caller in house.admitted.items():
        if of_the_asker and "user" not in who:
            continue  # a kept response is read by who asked for it, and who sees all
        status, text = asked(house, caller, method, attempt, house.ids)
        assert status == 200, (who, text)
        if "limit=1" not in attempt[0]:
            assert house.tells(text), (who, attempt, text)


def test_a_kept_response_is_read_by_who_asked_for_it_alone(house: House) -> None:
    path = f"/v1/responses/{house.ids['response']}"
    for who, caller in house.admitted.items():
        seen = "user" in who or "sees all" in who
        assert caller.send("GET", path)[0] == (200 if seen else 404), who
