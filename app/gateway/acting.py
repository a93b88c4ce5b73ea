"""For whom a call acts: the person that an application names in headers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import unquote

from app.errors import BadRequest, Forbidden
from app.gateway.call import Principal

IMPERSONATE = "access:impersonate"
USER, GROUPS = b"x-ostiary-user", b"x-ostiary-groups"
LONGEST_NAME = 256  # characters of a user or group
MOST_GROUPS = 1000
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")


def is_name(text: str) -> bool:
    """Whether ``text`` can name a user or group: 1 to 256 characters, no control characters."""
    return _NAME.fullmatch(text) is not None and text == text.strip()


def acting_for(principal: Principal, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
    """The principal of a call, which sees what the person named in its headers may see.

    Names are percent-encoded UTF-8; groups are separated by commas. Groups without a user are
    those of nobody known by name.

    Raises:
        Forbidden: the headers are there and the key lacks the scope.
        BadRequest: a header stands there twice; a name is empty, too long or not encoded.
    """
    given: dict[bytes, bytes] = {}
    for header, value in headers:
        if header not in (USER, GROUPS):
            continue
        if header in given:  # of two, a proxy and we might believe different ones
            raise BadRequest(f"Send {header.decode()} once.", param=header.decode())
        given[header] = value
    if not given:
        return principal
    if not principal.may(IMPERSONATE):
        raise Forbidden(
            f"This credential lacks the scope '{IMPERSONATE}', so it cannot name a user or "
            f"groups. Leave out {USER.decode()} and {GROUPS.decode()}, or ask an administrator "
            "for a key that has it."
        )
    user = _decoded(given[USER], USER) if USER in given else None
    parts = [part for part in given.get(GROUPS, b"").split(b",") if part.strip()]
    if len(parts) > MOST_GROUPS:
        raise BadRequest(
            f"{GROUPS.decode()} names more than {MOST_GROUPS} groups. Name only those that "
            "access lists use.",
            param=GROUPS.decode(),
        )
    groups = frozenset(_decoded(part, GROUPS) for part in parts)
    return replace(principal, user=user, groups=groups, acting=True)


def _decoded(value: bytes, header: bytes) -> str:
    try:
        name = unquote(value.strip().decode("ascii"), errors="strict")
    except UnicodeError:
        name = ""
    if not is_name(name):
        raise BadRequest(
            f"{header.decode()} holds a name that is empty, longer than {LONGEST_NAME} characters "
            "or not percent-encoded UTF-8. Encode it as in an address: jane%40example.org.",
            param=header.decode(),
        )
    return name
