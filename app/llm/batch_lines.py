"""The lines of a batch: read from its file, checked, and written as results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from app.ids import new_id

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/moderations",
)
MOST_LINES = 50_000
MOST_ERRORS = 100  # told of a file
LONGEST_ID = 512


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch; ``number`` counts from 1."""

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line, in the shape of the API's ``errors``."""

    line: int | None
    code: str
    message: str
    param: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "line": self.line,
        }


def read(stream: IO[bytes], endpoint: str, longest: int) -> Iterator[Line | Fault]:
    """Each line that is not blank, or what is wrong with it; blocking.

    Args:
        longest: bytes of a line.
    """
    seen: set[str] = set()
    number = 0
    while data := stream.readline(longest + 1):
        number += 1
        if len(data) > longest:
            yield Fault(number, "line_too_long", f"The line has more than {longest:,} bytes.")
            return
        if data.strip():
            found = _line(number, data, endpoint)
            if isinstance(found, Line):
                if found.custom_id in seen:
                    message = "The custom_id was used before in this file. Make each its own."
                    found = Fault(number, "duplicate_custom_id", message, "custom_id")
                else:
                    seen.add(found.custom_id)
            yield found


def _line(number: int, data: bytes, endpoint: str) -> Line | Fault:
    try:
        item = orjson.loads(data)
    except orjson.JSONDecodeError:
        item = None
    if not isinstance(item, dict):
        return Fault(number, "invalid_json_line", "The line is no JSON object.")
    custom_id = item.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= LONGEST_ID:
        message = f"Give each line a custom_id of 1 to {LONGEST_ID} characters."
        return Fault(number, "invalid_custom_id", message, "custom_id")
    if item.get("method", "POST") != "POST":
        return Fault(number, "invalid_method", "The method of a line is POST.", "method")
    if item.get("url") != endpoint:
        message = f"The url of every line is the endpoint of the batch, {endpoint}."
        return Fault(number, "mismatched_url", message, "url")
    body = item.get("body")
    if not isinstance(body, dict):
        return Fault(number, "invalid_body", "The body of a line is a JSON object.", "body")
    if body.get("stream"):
        return Fault(number, "stream_in_batch", "A batch cannot stream: leave it out.", "body")
    return Line(number, custom_id, body)


def faults_of(stream: IO[bytes], endpoint: str, longest: int) -> tuple[int, list[Fault]]:
    """How many lines a file has, and what is wrong with it; blocking, closes the stream."""
    count, found = 0, list[Fault]()
    with stream:
        for line in read(stream, endpoint, longest):
            count += 1
            if isinstance(line, Fault):
                found.append(line)
            if len(found) == MOST_ERRORS:
                break
            if count > MOST_LINES:
                message = f"A batch has at most {MOST_LINES:,} lines. Make several."
                return count, [Fault(None, "too_many_lines", message)]
    if not count:
        found = [Fault(None, "empty_file", "The file has no lines.")]
    return count, found


def result(
    line: Line, status: int | None, request_id: str, body: Any, error: dict[str, Any] | None
) -> str:
    """A line of the output or error file; ``status`` is None where nothing was asked."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return orjson.dumps(
        {
            "id": new_id("batch_req_"),
            "custom_id": line.custom_id,
            "response": None if status is None else response,
            "error": error,
        }
    ).decode()
