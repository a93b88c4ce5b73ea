"""What a caller can send wrongly: a clear 4xx in the one error shape, and the house stands."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.calls import (
    SECRET,
    chat,
    multipart,
    new_key,
    new_store,
    refused,
    send,
    upload,
    with_key,
)
from tests.conftest import Gateway, create_database, drop_database, wait_for
from tests.retrieval.documents import make_pdf, zipped


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fake_model_server: str,
) -> Iterator[Gateway]:
    env = {
        "OSTIARY_LLM_URL": fake_model_server,
        "OSTIARY_LLM_MODEL": "stub",
        "OSTIARY_MAX_FILE_BYTES": str(2 * 2**20),
    }
    if request.param == "postgresql":
        env["OSTIARY_DATABASE_URL"] = create_database(request.getfixturevalue("postgres_server"))
    server = Gateway(tmp_path_factory.mktemp("bad") / "data", env).start()
    yield server
    server.stop()
    if request.param == "postgresql":
        drop_database(env["OSTIARY_DATABASE_URL"])


@pytest.fixture(autouse=True)
def still_serves(house: Gateway) -> Iterator[None]:
    yield
    status, body, _ = send(
        house,
        "POST",
        "/v1/chat/completions",
        {"model": "stub", "messages": [{"role": "user", "content": "Are you there?"}]},
    )
    assert status == 200 and body["choices"]


# -- bodies -------------------------------------------------------------------------------

POSTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/vector_stores",
    "/v1/admin/keys",
    "/v1/guardrails/analyze",
)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "jane.roe@example.com"',
        b"",
        b"[]",
        b'"jane.roe@example.com"',
        b"null",
        b"\xff\xfe{}",
        b'{"model": "\xe9jane.roe@example.com"}',
        b'{"a": 1}{"b": 2}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    ],
    ids=[
        "cut",
        "empty",
        "list",
        "string",
        "null",
        "not utf-8",
        "bad utf-8 inside",
        "two values",
        "deep list",
        "deep object",
    ],
)
def test_a_body_that_is_no_json_object_is_refused(house: Gateway, path: str, body: bytes) -> None:
    reply = send(house, "POST", path, body)
    if not (path == "/v1/vector_stores" and body.startswith(b'{"a":' * 2) and reply[0] == 200):
        refused(reply)  # but for this body's unknown fields, which are not read


@pytest.mark.parametrize("path", POSTS[:4])
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", ""])
def test_another_content_type_is_refused(house: Gateway, path: str, kind: str) -> None:
    refused(send(house, "POST", path, chat(SECRET), {"content-type": kind}), 400, 415)


def test_fifty_megabytes_are_refused_with_the_limit(house: Gateway) -> None:
    body = json.dumps(chat("x" * 50_000_000)).encode()
    error = refused(send(house, "POST", "/v1/chat/completions", body), 413)
    assert error["code"] == "payload_too_large" and "10,485,760 bytes" in error["message"]


@pytest.mark.parametrize("key", [{}, {"idempotency-key": "fifty"}], ids=["plain", "keyed"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_fifty_megabytes_of_no_told_length_are_refused(
    house: Gateway, path: str, key: dict[str, str]
) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"model": "stub", "x": "'
        for _ in range(50):
            yield b"x" * 1_000_000

    try:
        reply = send(house, "POST", path, parts(), key, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        return  # hung up on while it was still sending: the gateway is asked again below
    assert refused(reply, 413)["code"] == "payload_too_large"


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(house: Gateway) -> None:
    before = {p.name for p in (house.data_dir / "files").iterdir()}
    error = refused(upload(house, b"x" * (2 * 2**20 + 1), "big.txt"), 413)
    assert "2,097,152" in error["message"] or "2,162,688" in error["message"]
    refused(upload(house, b"x" * (4 * 2**20), "big.txt"), 413)
    assert {p.name for p in (house.data_dir / "files").iterdir()} == before


# -- values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"model": "stub"}, "messages"),
        ("/v1/chat/completions", {"model": "stub", "messages": []}, "messages"),
        ("/v1/chat/completions", {"model": "stub", "messages": SECRET}, "messages"),
        ("/v1/chat/completions", {"model": "stub", "messages": [{}]}, "messages.0.role"),
        ("/v1/chat/completions", {"model": "stub", "messages": [SECRET]}, "messages.0"),
        ("/v1/chat/completions", chat(None), "messages.0"),
        ("/v1/chat/completions", {**chat(), "model": 7}, "model"),
        ("/v1/chat/completions", {**chat(), "model": ""}, "model"),
        ("/v1/chat/completions", {**chat(), "model": "m" * 300}, "model"),
        ("/v1/chat/completions", chat(temperature=SECRET), "temperature"),
        ("/v1/chat/completions", chat(temperature=3), "temperature"),
        ("/v1/chat/completions", chat(temperature=-1e308), "temperature"),
        ("/v1/chat/completions", chat(temperature=float("nan")), None),
        ("/v1/chat/completions", chat(temperature=float("inf")), None),
        ("/v1/chat/completions", chat(max_tokens=0), "max_tokens"),
        ("/v1/chat/completions", chat(max_tokens=1.5), "max_tokens"),
        ("/v1/chat/completions", chat(n=10**30), None),
        ("/v1/chat/completions", chat(stream="yes"), "stream"),
        ("/v1/chat/completions", chat(ostiary={"vector_store_ids": []}), None),
        ("/v1/chat/completions", chat(ostiary={"stores": [SECRET]}), None),
        ("/v1/responses", {"model": "stub"}, "input"),
        ("/v1/responses", {"model": "stub", "input": []}, None),
        ("/v1/responses", {"model": "stub", "input": "x", "tools": [{"type": SECRET}]}, None),
        ("/v1/responses", {"model": "stub", "input": [{"role": "user"}]}, None),
        ("/v1/embeddings", {"model": "bge-small-en", "input": ""}, None),
        ("/v1/embeddings", {"model": "bge-small-en", "input": []}, None),
        ("/v1/embeddings", {"model": "bge-small-en", "input": [1, 2]}, "input"),
        ("/v1/embeddings", {"model": "bge-small-en", "input": "x", "dimensions": 7}, "dimensions"),
        ("/v1/vector_stores", {"name": "n" * 300}, "name"),
        ("/v1/vector_stores", {"metadata": {"k": {"deep": SECRET}}}, "metadata.k"),
        ("/v1/vector_stores", {"metadata": {"k" * 65: "v"}}, None),
        ("/v1/vector_stores", {"expires_after": {"days": 0}}, "expires_after.days"),
        ("/v1/vector_stores", {"expires_after": {"days": 10**400}}, None),
        ("/v1/vector_stores", {"chunking_strategy": {"type": SECRET}}, None),
        ("/v1/vector_stores", {"file_ids": SECRET}, "file_ids"),
        ("/v1/admin/keys", {"name": "k", "scopes": []}, "scopes"),
        ("/v1/admin/keys", {"name": "k", "scopes": ["Not A Scope"]}, "scopes.0"),
        ("/v1/admin/keys", {"name": "k", "scopes": ["*"], "rate_rpm": 10**12}, "rate_rpm"),
        ("/v1/admin/keys", {"name": "k", "scopes": ["*"], "extra": SECRET}, "extra"),
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(
    house: Gateway, path: str, body: dict[str, Any], param: str | None
) -> None:
    error = refused(send(house, "POST", path, body))
    if param is not None:
        assert error["param"] == param


def test_a_number_too_long_to_read_is_refused(house: Gateway) -> None:
    refused(
        send(house, "POST", "/v1/chat/completions", b'{"model": "stub", "n": 1%s}' % (b"0" * 5000))
    )


@pytest.mark.parametrize("value", [2**64, -(2**70), 10**300])
def test_a_number_that_no_json_of_ours_holds_is_refused(house: Gateway, value: int) -> None:
    refused(send(house, "POST", "/v1/chat/completions", chat(seed=value)))


@pytest.mark.parametrize("depth", [100, 300, 900])
def test_deep_values_of_unknown_fields_are_sent_on_or_refused(house: Gateway, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    body = json.dumps(chat())[:-1] + f', "extra": {deep}}}'
    reply = send(house, "POST", "/v1/chat/completions", body.encode())
    if reply[0] != 200:
        refused(reply)


CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
STORES = "/v1/vector_stores"
STORE = "/v1/vector_stores/{store}"


@pytest.mark.parametrize("bad", [b"a\\u0000b", b"a\\ud800b"], ids=["NUL", "lone surrogate"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "%s", "messages": [{"role": "user", "content": "x"}]}),
        (CHAT, chat("%s")),
        (CHAT, chat(user="%s")),
        (CHAT, chat(extra={"%s": 1})),
        (RESPONSES, {"model": "%s", "input": "x"}),
        (RESPONSES, {"model": "stub", "input": "%s"}),
        (RESPONSES, {"model": "stub", "input": "x", "previous_response_id": "%s"}),
        (RESPONSES, {"model": "stub", "input": "x", "metadata": {"k": "%s"}}),
        (RESPONSES, {"model": "stub", "input": "x", "instructions": "%s"}),
        (RESPONSES, {"model": "stub", "input": "x", "user": "%s"}),
        (
            RESPONSES,
            {
                "model": "stub",
                "input": "x",
                "tools": [{"type": "file_search", "vector_store_ids": ["%s"]}],
            },
        ),
        ("/v1/embeddings", {"model": "bge-small-en", "input": "%s"}),
        ("/v1/embeddings", {"model": "%s", "input": "x"}),
        (STORES, {"name": "%s"}),
        (STORES, {"description": "%s"}),
        (STORES, {"metadata": {"k": "%s"}}),
        (STORES, {"metadata": {"%s": "v"}}),
        (STORES, {"file_ids": ["%s"]}),
        (STORE + "/files", {"file_id": "%s"}),
        (STORE + "/file_batches", {"file_ids": ["%s"]}),
        (STORE + "/search", {"query": "%s"}),
        (STORE + "/search", {"query": "x", "filters": {"type": "eq", "key": "%s", "value": 1}}),
        ("/v1/admin/keys", {"name": "%s", "scopes": ["*"]}),
        ("/v1/admin/keys", {"name": "k", "scopes": ["*"], "tenant_id": "%s"}),
        ("/v1/admin/tenants", {"name": "%s"}),
        ("/v1/guardrails/analyze", {"text": "%s", "language": "en"}),
    ],
)
def test_a_character_that_no_database_holds_never_breaks_a_call(
    house: Gateway, path: str, body: dict[str, Any], bad: bytes
) -> None:
    path = path.replace("{store}", new_store(house)) if "{store}" in path else path
    reply = send(house, "POST", path, json.dumps(body).encode().replace(b"%s", bad))
    if reply[0] >= 300:  # where no database meets it, it may pass
        refused(reply, 400, 404)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_an_attribute_that_is_no_number_is_refused(house: Gateway, value: str) -> None:
    store, (_, file, _) = new_store(house), upload(house, b"text")
    body = f'{{"file_id": "{file["id"]}", "attributes": {{"a": {value}}}}}'.encode()
    refused(send(house, "POST", f"/v1/vector_stores/{store}/files", body))


# -- addresses, cursors, headers ------------------------------------------------------------


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


# -- files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        multipart(with_file=False),
        multipart(fields=()),
        multipart(fields=(("purpose", SECRET),)),
        multipart(fields=(("purpose", "a\x00b"),)),
        multipart(filename=""),
        (b"--B\r\ngarbage", {"content-type": "multipart/form-data; boundary=B"}),
        (b"x", {"content-type": "multipart/form-data"}),
        (b"x", {"content-type": "multipart/form-data; boundary=" + "b" * 300}),
        (json.dumps({"file": SECRET}).encode(), {"content-type": "application/json"}),
    ],
    ids=[
        "no file",
        "no purpose",
        "unknown purpose",
        "NUL in purpose",
        "no filename",
        "garbage",
        "no boundary",
        "long boundary",
        "json",
    ],
)
def test_a_bad_upload_is_refused(house: Gateway, made: tuple[bytes, dict[str, str]]) -> None:
    refused(send(house, "POST", "/v1/files", *made))


@pytest.mark.parametrize(
    "filename",
    ["../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", "a\0b.txt", "a\x07.txt", "x" * 2000],
)
def test_a_filename_never_becomes_a_path(house: Gateway, filename: str) -> None:
    reply = upload(house, b"harmless", filename)
    if reply[0] != 200:
        refused(reply)
        return
    made = reply[1]
    assert "\x00" not in made["filename"] and len(made["filename"]) <= 500
    stored = house.data_dir / "files" / made["id"]
    assert stored.read_bytes() == b"harmless"
    outside = {p.name for p in house.data_dir.parent.iterdir()}
    assert outside == {"data"}


@pytest.mark.parametrize(
    ("filename", "content", "code", "told"),
    [
        ("bomb.docx", zipped({"word/document.xml": bytes(60_000_000)}), "invalid_file", "unpack"),
        ("locked.pdf", make_pdf([["Secret."]], password="x"), "invalid_file", "password"),
        ("broken.pdf", b"%PDF-1.7 nothing", "invalid_file", "broken.pdf"),
        ("tool.exe", b"MZ", "unsupported_file", "not supported"),
        ("empty.txt", b" ", "invalid_file", "no text"),
        ("binary.txt", b"\x00\x01\x02", "invalid_file", "binary.txt"),
        ("deep.json", b"[" * 100_000, "invalid_file", "deep.json"),
    ],
)
def test_a_file_that_cannot_be_read_fails_alone_and_says_why(
    house: Gateway, filename: str, content: bytes, code: str, told: str
) -> None:
    good = upload(house, b"The gate opens at nine.", "good.txt")[1]["id"]
    bad = upload(house, content, filename)[1]["id"]
    store = new_store(house, file_ids=[good, bad])
    path = f"/v1/vector_stores/{store}"
    wait_for(lambda: send(house, "GET", path)[1]["file_counts"]["in_progress"] == 0)
    counts = send(house, "GET", path)[1]["file_counts"]
    assert (counts["completed"], counts["failed"]) == (1, 1)
    error = send(house, "GET", f"{path}/files/{bad}")[1]["last_error"]
    assert error["code"] == code
    assert told in error["message"]
    assert "/tmp" not in error["message"] and ".py" not in error["message"]
    assert send(house, "POST", f"{path}/search", {"query": "When does the gate open?"})[1]["data"]


def test_a_store_with_an_unknown_file_is_not_made(house: Gateway) -> None:
    before = len(send(house, "GET", "/v1/vector_stores?limit=100")[1]["data"])
    error = refused(send(house, "POST", "/v1/vector_stores", {"file_ids": ["file-no"]}), 404)
    assert error["param"] == "file_ids"
    assert len(send(house, "GET", "/v1/vector_stores?limit=100")[1]["data"]) == before
