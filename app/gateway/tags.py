"""Tags of the caller's own, by which costs are summed and budgets are set."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.errors import BadRequest
from app.gateway.call import Principal

HEADER = b"x-ostiary-tags"
MOST = 8  # of a call, with those of its key
NAME = r"[a-z][a-z0-9_.-]{0,31}"
VALUE = r"[A-Za-z0-9][A-Za-z0-9_.:@/-]{0,63}"
_TAG = re.compile(f"({NAME})=({VALUE})")


def tags_of(principal: Principal, headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The tags of a call: those of its key, which hold, and those that the header adds.

    Raises:
        BadRequest: the header is malformed, names too many, or contradicts the key.
    """
    tags = dict(principal.tags)
    if (given := headers.get(HEADER)) is None:
        return tags
    for part in given.decode("latin-1").split(","):
        match = _TAG.fullmatch(part.strip())
        if match is None:
            raise _bad(
                "is name=value pairs between commas, as project=apollo,team=search. A name has "
                "up to 32 of a-z 0-9 _ . - and begins with a letter; a value has up to 64 "
                "letters, digits and _ . : @ / - and begins with a letter or digit."
            )
        name, value = match.groups()
        if tags.setdefault(name, value) != value:
            if name in dict(principal.tags):
                raise _bad(f"cannot change '{name}', which is fixed for this key. Leave it out.")
            raise _bad(f"gives '{name}' twice. Give it once.")
    if len(tags) > MOST:
        raise _bad(f"may bring a call, with the tags of its key, to {MOST} tags. Send fewer.")
    return tags


def _bad(what: str) -> BadRequest:
    return BadRequest(f"x-ostiary-tags {what}", param="x-ostiary-tags", code="invalid_tags")
