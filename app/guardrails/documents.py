"""Policy documents as JSON: read with exact errors, in the one form that their version hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from app.guardrails.policy import SHIPPED, Policy, PolicyError, load_policy

LONGEST_TOLD = 400  # characters of a message


class BadDocument(PolicyError):
    """A document that is no policy; ``place`` is where in it, as ``entities.US_SSN.input``."""

    def __init__(self, place: str, why: str) -> None:
        self.place = _short(place)
        super().__init__(_short(f"{place}: {why}" if place else why))


def read_document(name: str, values: Mapping[str, Any]) -> Policy:
    """The policy that a document describes, with its version.

    Raises:
        BadDocument: it is none; the message names the place.
    """
    if values.get("name", name) != name:
        raise BadDocument("name", f"This document is stored as '{name}'; leave its name out")
    if "version" in values:
        raise BadDocument("version", "The gateway gives versions; leave it out")
    try:
        orjson.dumps(values)  # what JSON can hold as Python reads it, but no database
        policy = Policy(**{**values, "name": name})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        why = first["msg"].removeprefix("Value error, ")
        raise BadDocument(".".join(str(p) for p in first["loc"]), why) from None
    except (TypeError, RecursionError):
        raise BadDocument(
            "", "The document is nested too deeply, or holds a broken character or number"
        ) from None
    return policy.model_copy(update={"version": version_of(document_of(policy))})


def document_of(policy: Policy) -> dict[str, Any]:
    """The one document of all that mean the same: what is as usual is left out."""
    return policy.model_dump(mode="json", exclude={"version"}, exclude_defaults=True)


def version_of(document: Mapping[str, Any]) -> str:
    """The hash of a document."""
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def shipped_policies() -> dict[str, Policy]:
    """The policies that come with the gateway, by name."""
    found = (load_policy(path.stem) for path in sorted(SHIPPED.glob("*.toml")))
    return {policy.name: policy for policy in found}


def named(policy: Policy) -> str:
    """As records name it: ``support@1a2b3c4d5e6f``."""
    return f"{policy.name}@{policy.version}"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TOLD else text[: LONGEST_TOLD - 1] + "…"
