"""Who may read a file by its modes and those of the folders above it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from functools import cache

from app.retrieval.access import AccessList

_ACL = "system.posix_acl_access"


@dataclass(frozen=True, slots=True)
class Readers:
    """Who comes as far as this: everyone, or these users and the members of these groups.

    Whoever comes through one folder as its owner and through the next as a member of a group
    is not counted, since modes do not tell that he is both.
    """

    everyone: bool
    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def passing(self, found: os.stat_result, parent: int, name: str) -> Readers:
        """Those who also come through a folder: its bits for passing."""
        return self._and(_granted(found, parent, name, stat.S_IXUSR))

    def reading(self, found: os.stat_result, parent: int, name: str) -> Readers:
        """Those who also may read a file."""
        return self._and(_granted(found, parent, name, stat.S_IRUSR))

    def _and(self, other: Readers) -> Readers:
        if self.everyone:
            return other
        if other.everyone:
            return self
        return Readers(False, self.users & other.users, self.groups & other.groups)


EVERYONE = Readers(True)


def _granted(found: os.stat_result, parent: int, name: str, bit: int) -> Readers:
    """Who has the right that ``bit`` is for the owner; ``>> 3`` is the group's, ``>> 6`` others'.

    With an ACL the group's bits are a mask, which says who may at most: only the owner is
    sure then.
    """
    users = frozenset({found.st_uid} if found.st_mode & bit else ())
    if _has_acl(parent, name):
        return Readers(False, users)
    if not found.st_mode & bit >> 3:
        return Readers(False, users)  # others' bits are not the group's
    if found.st_mode & bit >> 6:
        return EVERYONE
    return Readers(False, users, frozenset({found.st_gid}))


def _has_acl(parent: int, name: str) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    try:
        return bool(os.getxattr(f"/proc/self/fd/{parent}/{name}", _ACL, follow_symlinks=False))
    except OSError as error:  # without an answer, as without /proc, there may be one
        return error.errno not in (errno.ENODATA, errno.ENOTSUP)


class Names:
    """The names of users and groups; who has none is known by his number."""

    def __init__(self) -> None:
        self._user, self._group = cache(_user), cache(_group)

    def access(self, readers: Readers) -> AccessList | None:
        """The access list of those who may read; None: everyone."""
        if readers.everyone:
            return None
        return AccessList(
            frozenset(map(self._user, readers.users)), frozenset(map(self._group, readers.groups))
        )


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
