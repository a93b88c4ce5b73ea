"""Addresses, cursors, headers and credentials that are wrong: a clear 4xx in the one shape."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.api.calls import (
    SECRET,
    new_key,
    new_store,
    refused,
    send,
    with_key,
)
from tests.conftest import Gateway, wait_for


@pytest.mark.parametrize("name", ["nope", "a" * 128, "..%2f..%2fetc%2fpasswd", "%F0%9F%9A%AA"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files/{}"),
        ("GET", "/v1/files/{}/content"),
        ("DELETE", "/v1/files/{}"),
        ("GET", "/v1/vector_stores/{}"),
        ("POST", "/v1/vector_stores/{}"),
        ("DELETE", "/v1/vector_stores/{}"),
        ("POST", "/v1/vector_stores/{}/search"),
        ("GET", "/v1/vector_stores/{}/files"),
        ("GET", "/v1/vector_stores/{store}/files/{}"),
        ("GET", "/v1/vector_stores/{store}/files/{}/content"),
        ("DELETE", "/v1/vector_stores/{store}/files/{}"),
        ("GET", "/v1/vector_stores/{store}/file_batches/{}"),
        ("POST", "/v1/vector_stores/{store}/file_batches/{}/cancel"),
        ("GET", "/v1/jobs/{}"),
        ("GET", "/v1/jobs/{}/events"),
        ("POST", "/v1/jobs/{}/cancel"),
        ("GET", "/v1/responses/{}"),
        ("DELETE", "/v1/responses/{}"),
        ("GET", "/v1/models/{}"),
        ("GET", "/v1/drift/{}"),
        ("DELETE", "/v1/admin/keys/{}"),
    ],
)
def test_an_unknown_id_is_not_found(house: Gateway, method: str, path: str, name: str) -> None:
    if "{store}" in path:
        path = path.replace("{store}", new_store(house))
    body = {"query": "x"} if path.endswith("search") else None
    body = {} if method == "POST" and body is None else body
    reply = send(house, method, path.replace("{}", name), body)
    status, _, headers = reply
    if "x-request-id" not in headers:  # a slash in the name makes it an address we do not have
        assert status == 404 and "%2f" in name
        return
    refused(reply, 400, 404)
    if name == "nope":
        assert status == 404


@pytest.mark.parametrize("name", ["a" * 129, "a%00b", "a" * 5000])
@pytest.mark.parametrize("path", ["/v1/files/{}", "/v1/vector_stores/{}", "/v1/jobs/{}"])
def test_an_id_that_cannot_be_one_is_refused(house: Gateway, path: str, name: str) -> None:
    refused(send(house, "GET", path.format(name)), 400, 404)


@pytest.mark.parametrize(
    "query",
    [
        "after=a%00b",
        "after=not%20an%20id",
        "after=" + "a" * 200,
        "after=%F0%9F%9A%AA",
        "after=%ff",
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=1e3",
        "limit=" + "9" * 40,
    ],
)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/vector_stores", "/v1/audit"])
def test_a_bad_page_is_refused(house: Gateway, path: str, query: str) -> None:
    refused(send(house, "GET", f"{path}?{query}"))


@pytest.mark.parametrize("path", ["/v1/files", "/v1/vector_stores"])
def test_an_unknown_order_is_refused(house: Gateway, path: str) -> None:
    assert refused(send(house, "GET", f"{path}?order={SECRET}"))["param"] == "order"


def test_two_cursors_at_once_are_refused(house: Gateway) -> None:
    error = refused(send(house, "GET", "/v1/vector_stores?after=vs_1&before=vs_2"))
    assert error["param"] == "before"
    store = new_store(house)
    refused(send(house, "GET", f"/v1/vector_stores/{store}/files?after=a&before=b"))


@pytest.mark.parametrize("key", [" ", "k" * 256, "schlüssel"])
def test_a_bad_idempotency_key_is_refused(house: Gateway, key: str) -> None:
    headers = {"idempotency-key": key.encode().decode("latin-1")}
    error = refused(send(house, "POST", "/v1/vector_stores", {}, headers))
    assert error["param"] == "Idempotency-Key"


@pytest.mark.parametrize("value", ["x" * 129, "a b", "<script>", "ü"])
def test_a_bad_request_id_is_refused_and_not_repeated(house: Gateway, value: str) -> None:
    headers = {"x-request-id": value.encode().decode("latin-1")}
    reply = send(house, "GET", "/v1/models", headers=headers)
    error = refused(reply)
    assert error["param"] == "x-request-id"
    assert reply[2]["x-request-id"] != value


def test_an_address_that_is_none_and_a_method_that_is_wrong(house: Gateway) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/files", 405),
        ("GET", "/v1/chat/completions", 405),
    ):
        found, body, _ = send(house, method, path)
        assert found == status and body["error"]["message"]


# -- credentials --------------------------------------------------------------------------


def test_an_expired_key_is_refused_by_its_name_of_trouble(house: Gateway) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1)
    made = new_key(house, expires_at=until.isoformat())
    assert with_key(house, made["key"])[0] == 200
    wait_for(lambda: time.time() > until.timestamp())
    error = refused(with_key(house, made["key"]), 401)
    assert error["code"] == "expired_api_key"
    assert made["key"] not in json.dumps(error)


def test_a_revoked_key_is_refused_at_once(house: Gateway) -> None:
    made = new_key(house)
    assert with_key(house, made["key"])[0] == 200
    assert send(house, "DELETE", f"/v1/admin/keys/{made['id']}")[0] == 200
    assert refused(with_key(house, made["key"]), 401)["code"] == "revoked_api_key"


@pytest.mark.parametrize(
    "credential",
    ["", "Bearer", "Bearer ", "Bearer osk-", "Basic a", "Bearer osk-ü", "Bearer " + "x" * 9000],
)
def test_no_credential_or_a_broken_one_is_refused(house: Gateway, credential: str) -> None:
    headers = {"authorization": credential.encode().decode("latin-1")}
    reply = send(house, "GET", "/v1/models", headers=headers)
    error = refused(reply, 401)
    assert error["code"] == "invalid_api_key"
    assert reply[2]["www-authenticate"] == "Bearer"
