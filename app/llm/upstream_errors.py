"""What goes wrong with a model server, told in our own error shape."""

from __future__ import annotations

import re
from typing import Any

from app.errors import BadRequest, NotFound, OstiaryError, RateLimited, Unavailable

_HIDDEN = re.compile(
    r"\w+://\S+|(?<![\w/])(?:/[\w.@+-]+){2,}/?|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
)
_ECHO = re.compile(r"(?s)(,?\s*['\"]?input(?:_value)?['\"]?\s*[:=]).*")
_REMEDY = "Try again in a moment, or ask the operator whether the model server runs."
UNKNOWN_MODEL = "GET /v1/models lists the models that are served."


class UpstreamUnavailable(Unavailable):
    """The model server cannot answer now; `gone` when nothing answered at its address."""

    code = "llm_unavailable"

    def __init__(self, message: str, *, gone: bool = False, code: str | None = None) -> None:
        super().__init__(f"{message} {_REMEDY}", code=code)
        self.gone = gone


class UpstreamCut(UpstreamUnavailable):
    """The model server broke off in the middle of a stream; what was sent is incomplete."""

    code = "upstream_cut"


def told(message: object) -> str:
    """Return the model server's sentence without addresses, paths or the caller's values."""
    text = _ECHO.sub("", str(message))
    return _HIDDEN.sub("[hidden]", text).strip()[:500] or "no reason was given"


def rejection(
    status: int, reply: Any, *, model: str = "", retry_after: str | None = None
) -> OstiaryError:
    """Return our error for an error reply of the model server."""
    error = reply.get("error") if isinstance(reply, dict) else None
    detail = error if isinstance(error, dict) else {"message": error or ""}
    if status in (401, 403):
        # The gateway's own credentials; the caller's key was fine.
        return UpstreamUnavailable(
            "The model server refused the gateway's key (operator: set OSTIARY_LLM_API_KEY)."
        )
    if status >= 500:
        return UpstreamUnavailable(f"The model server failed with status {status}.")
    message, param = told(detail.get("message")), detail.get("param")
    param = param if isinstance(param, str) and len(param) < 100 else None
    if status == 404 and "model" in message:
        return NotFound("model", model, remedy=UNKNOWN_MODEL, param="model", code="model_not_found")
    if status == 429:
        headers = {"retry-after": retry_after} if retry_after else None
        return RateLimited("The model server is busy. Wait, then send again.", headers=headers)
    refused = BadRequest(f"The model server refused the request: {message}", param=param)
    refused.status = status if status in (400, 404, 408, 409, 413, 415, 422) else 400
    return refused
