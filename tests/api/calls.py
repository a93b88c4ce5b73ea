"""Requests as a caller sends them, bad ones too, and what every refusal must be like."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.conftest import Gateway

SECRET = "jane.roe@example.com"  # sent in many of the bad fields: must not come back
Reply = tuple[int, dict[str, Any], dict[str, str]]


def send(
    house: Gateway,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Reply:
    """One request; ``body`` is sent as it is when it is bytes, else as JSON."""
    sent = {"authorization": f"Bearer {house.key}", **(headers or {})}
    if body is not None and not isinstance(body, bytes) and not hasattr(body, "__next__"):
        body = json.dumps(body).encode()
    if body is not None:
        sent.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=60)
    try:
        connection.request(method, path, body, sent, **more)
        reply = connection.getresponse()
        data = reply.read()
        found = {k.lower(): v for k, v in reply.getheaders()}
        return reply.status, json.loads(data) if data else {}, found
    finally:
        connection.close()


def refused(reply: Reply, *statuses: int) -> dict[str, Any]:
    """Check that a reply is a refusal in our shape that gives nothing away; returns it."""
    status, body, headers = reply
    assert status in (statuses or (400,)), (status, body)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["message"] and error["type"] and error["code"]
    assert error["code"] not in ("internal_error", "audit_unavailable")
    assert error["request_id"] == headers["x-request-id"]
    told = json.dumps(body)
    for hidden in (SECRET, "Traceback", "site-packages", "/work", "/tmp", ".py", "sqlalchemy"):
        assert hidden.lower() not in told.lower()
    return error


def multipart(
    content: bytes = b"text",
    filename: str | bytes = "a.txt",
    fields: tuple[tuple[str, str], ...] = (("purpose", "assistants"),),
    with_file: bool = True,
) -> tuple[bytes, dict[str, str]]:
    name = filename if isinstance(filename, bytes) else filename.encode()
    out = b""
    for key, value in fields:
        out += b'--B\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (
            key.encode(),
            value.encode(),
        )
    if with_file:
        out += b'--B\r\ncontent-disposition: form-data; name="file"; filename="%s"\r\n' % name
        out += b"content-type: application/octet-stream\r\n\r\n" + content + b"\r\n"
    return out + b"--B--\r\n", {"content-type": "multipart/form-data; boundary=B"}


def chat(content: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "stub", "messages": [{"role": "user", "content": content}], **fields}


def new_store(house: Gateway, **fields: Any) -> str:
    status, body, _ = send(house, "POST", "/v1/vector_stores", {"name": "s", **fields})
    assert status == 200, body
    return str(body["id"])


def upload(house: Gateway, content: bytes, filename: str | bytes = "a.txt") -> Reply:
    body, headers = multipart(content, filename)
    return send(house, "POST", "/v1/files", body, headers)


def new_key(house: Gateway, **fields: Any) -> dict[str, Any]:
    body = {"name": "k", "scopes": ["models:read"], **fields}
    status, made, _ = send(house, "POST", "/v1/admin/keys", body)
    assert status == 201, made
    return made


def with_key(house: Gateway, key: str) -> Reply:
    return send(house, "GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
