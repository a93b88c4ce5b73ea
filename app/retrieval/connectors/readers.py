"""Reads who may see a document from the values that a source gives; in doubt it is nobody."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

import orjson

from app.gateway.acting import is_name
from app.retrieval.access import MOST_NAMES, AccessList

NOBODY = AccessList()  # only keys with access:all see it


def access_from(users: object, groups: object, *, encoded: bool = False) -> AccessList:
    """The access list of two values: text with commas, a JSON list as text, a list, or None.

    ``encoded`` names are percent-encoded UTF-8. Where one of the values cannot be read,
    nobody is in the list.
    """
    try:
        return AccessList(_names(users, encoded), _names(groups, encoded))
    except ValueError:
        return NOBODY


def _names(value: object, encoded: bool) -> frozenset[str]:
    """Raises ValueError for what is no list of names."""
    names = frozenset(_one(part, encoded) for part in _parts(value))
    if len(names) > MOST_NAMES:
        raise ValueError("too many names")
    return names


def _parts(value: object) -> Iterable[object]:
    if value is None:
        return ()
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        value = orjson.loads(value)  # its JSONDecodeError is a ValueError
    if isinstance(value, list | tuple | set | frozenset):
        return value
    raise ValueError("neither text nor a list")


def _one(part: object, encoded: bool) -> str:
    if not isinstance(part, str):
        raise ValueError("a name that is no text")
    name = unquote(part, errors="strict") if encoded else part  # a UnicodeError is a ValueError
    if not is_name(name):
        raise ValueError("no name")
    return name
