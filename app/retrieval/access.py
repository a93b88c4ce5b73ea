"""Access lists, and the one rule that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.errors import Forbidden
from app.gateway.call import SEES_ALL, Principal

MOST_NAMES = 500  # users, and groups, of one list


@dataclass(frozen=True, slots=True)
class AccessList:
    """Who may see a file in one vector store: these users, and the members of these groups."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def stored(self) -> dict[str, list[str]]:
        """The value of its column."""
        return {"users": sorted(self.users), "groups": sorted(self.groups)}


def access_list(stored: Mapping[str, Sequence[str]] | None) -> AccessList | None:
    """The list of a column's value; None: whoever may search the store."""
    if stored is None:
        return None
    return AccessList(frozenset(stored["users"]), frozenset(stored["groups"]))


def sees(who: Principal, access: AccessList | None) -> bool:
    """Whether somebody may see a file that has this list. All other rules come down to this."""
    if access is None or who.sees_all:
        return True
    return who.user in access.users or not who.groups.isdisjoint(access.groups)


def require_seen(who: Principal, access: AccessList | None) -> None:
    """Raises Forbidden when a list would hide the file from the one who sets it."""
    if not sees(who, access):
        raise Forbidden(
            "This access list would hide the file from you. Name yourself or a group of yours "
            f"in it, or use a key with the scope '{SEES_ALL}'.",
            code="access_locks_out",
            param="ostiary.access",
        )
