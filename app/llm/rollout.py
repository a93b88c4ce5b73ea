"""Which callers a candidate for a model's server answers, and how many calls are copied to one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping

from app.gateway.call import Call
from app.monitoring.cost import TokenPrice

_NAMED = ("safety_identifier", "user")  # the end user, as applications tell it in a body


@dataclass(frozen=True, slots=True)
class Rollout:
    """How candidates of a model are tried.

    Attributes:
        canary_share: of the callers, 0 to 1, whom canaries answer.
        shadow_share: of the calls, 0 to 1, that are copied to shadows.
        price: of a candidate's tokens in the comparison; None: as the model's.
        since: when it was set, Unix seconds.
    """

    canary_share: float
    shadow_share: float
    price: TokenPrice | None
    since: float

    @property
    def under_way(self) -> bool:
        """Whether callers or copies are sent to candidates."""
        return bool(self.canary_share or self.shadow_share)

    @classmethod
    def from_row(cls, row: RowMapping) -> Rollout:
        """As the database keeps it."""
        price = None if row["price"] is None else TokenPrice(**row["price"])
        return cls(row["canary_share"], row["shadow_share"], price, row["since"])


def place_of(call: Call, body: dict[str, Any]) -> float:
    """Where a caller stands between 0 and 1; those below the share are the canary's.

    The same for every call of a person, where one is known, or of a conversation.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(body["model"]), call.tenant_id, *_caller(call, body)):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return int.from_bytes(digest.digest(), "big") / 2**64


def _caller(call: Call, body: dict[str, Any]) -> tuple[str, ...]:
    if call.principal.user is not None:
        return "user", call.principal.user
    key = call.principal.first or call.principal.subject
    for field in _NAMED:
        named = body.get(field)
        if isinstance(named, str) and named:
            return "end-user", key, named
    return "conversation", key, _beginning(body)


def _beginning(body: dict[str, Any]) -> str:
    """What stays the same while a conversation goes on."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return str(body.get("prompt"))
    begun = []
    for message in messages:
        begun.append(str(message.get("content")))
        if message.get("role") == "user":
            break
    return "\0".join(begun)
