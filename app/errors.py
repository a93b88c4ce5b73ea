"""The errors a caller can meet, each with the one wire shape of the API."""

from __future__ import annotations

from typing import Any


class OstiaryError(Exception):
    """An error whose message is written for the caller and says what to do.

    The message must never hold a secret, a path of the machine or a detected PII value.
    """

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.headers = headers or {}

    def body(self, request_id: str | None) -> dict[str, Any]:
        """Return the JSON body of the reply."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
                "request_id": request_id,
            }
        }


class BadRequest(OstiaryError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class Unauthenticated(OstiaryError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class BudgetExceeded(OstiaryError):
    status, type, code = 402, "budget_error", "budget_exceeded"


class Forbidden(OstiaryError):
    status, type, code = 403, "permission_error", "insufficient_scope"


class NotFound(OstiaryError):
    """``NotFound("vector store", id)``: unknown, deleted, or another tenant's."""

    status, type, code = 404, "invalid_request_error", "not_found"

    def __init__(self, thing: str, name: str, *, remedy: str = "", **kw: Any) -> None:
        shown = name if len(name) <= 80 else name[:77] + "..."
        remedy = remedy or "Check the id; it may have been deleted or belong to another tenant."
        super().__init__(f"No {thing} named {shown!r} was found. {remedy}", **kw)


class Conflict(OstiaryError):
    status, type, code = 409, "invalid_request_error", "conflict"


class TooLarge(OstiaryError):
    status, type, code = 413, "invalid_request_error", "payload_too_large"


class Unprocessable(OstiaryError):
    status, type, code = 422, "invalid_request_error", "unprocessable"


class RateLimited(OstiaryError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class ClientClosed(OstiaryError):
    """The client went away; nobody reads this, it stands in the audit record."""

    status, type, code = 499, "client_error", "client_closed"


class GuardrailViolation(OstiaryError):
    """A policy refused the text; tells entity types and counts, never the values."""

    status, type, code = 400, "guardrail_violation", "guardrail_violation"

    def __init__(
        self,
        policy: str,
        direction: str,
        counts: dict[str, int],
        *,
        remedy: str = "Remove these values and send the request again.",
    ) -> None:
        found = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()))
        super().__init__(
            f"The {direction} was refused by the guardrail policy '{policy}': found {found}. "
            f"{remedy}"
        )
        self.policy = policy
        self.counts = counts


class Unavailable(OstiaryError):
    status, type, code = 503, "server_error", "unavailable"


class MissingExtra(Unavailable):
    """An optional part of the package is not installed."""

    code = "missing_extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed. Run: pip install 'ostiary[{extra}]'")
