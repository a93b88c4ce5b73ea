"""Whom an erasure is about, and what belongs to that person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, or_

from app.gateway.call import Principal


@dataclass(frozen=True, slots=True)
class Person:
    """A user as access lists name one, or the subject of a key or token.

    Attributes:
        user: the name; None where only a subject is known.
        subjects: as audit records have them, of each key in a line of rotations.
        owners: as files, responses and batches have them.
    """

    tenant_id: str
    user: str | None
    subjects: frozenset[str]
    owners: frozenset[str]

    @classmethod
    def known(
        cls, tenant_id: str, user: str | None, key_ids: Sequence[str], token_sub: str | None
    ) -> Person:
        """The person of a name, or of keys (the first of the line first), or of tokens."""
        subjects = {f"key:{key_id}" for key_id in key_ids}
        owners = set[str]()
        if user is not None:
            named = Principal(tenant_id, "", None, frozenset(), user=user)
            owners.add(named.owner)
        elif key_ids:
            owners.add(f"key:{key_ids[0]}")
        if token_sub is not None:
            token = f"oidc:{token_sub}"
            subjects.add(token)
            owners.add(Principal(tenant_id, token, None, frozenset()).owner)
        return cls(tenant_id, user, frozenset(subjects), frozenset(owners))

    def owns(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        """Whether a column names the person as the owner.

        What an application made for groups alone stands under its own name and a slash.
        """
        own = [o for o in self.owners if not o.startswith(("user:", "long:"))]
        return or_(
            column.in_(sorted(self.owners)),
            *(column.startswith(f"{owner}/", autoescape=True) for owner in own),
        )

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether an audit record is of a call that the person made, or that was made for one."""
        acting = record.get("acting_for")
        acted_for = acting.get("user") if acting else None
        if acted_for is not None:
            return bool(acted_for == self.user)
        if self.user is not None and record.get("user") == self.user:
            return True
        return record.get("principal") in self.subjects
