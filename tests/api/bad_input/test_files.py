"""Files that are wrong: refused, or failed alone with the reason."""

from __future__ import annotations

import json

import pytest

from tests.api.calls import (
    SECRET,
    multipart,
    new_store,
    refused,
    send,
    upload,
)
from tests.conftest import Gateway, wait_for
from tests.retrieval.documents import make_pdf, zipped


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
