"""The session cookie of our own pages: an API key that no script can read."""

from __future__ import annotations

from urllib.parse import unquote

COOKIE = "ostiary_session"


def cookie_of(headers: dict[bytes, bytes]) -> str:
    """The key in the session cookie, or ''."""
    for pair in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return unquote(value)
    return ""
