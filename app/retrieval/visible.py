"""Which files somebody may see, in SQL and in the memory of a search."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.gateway.call import Principal
from app.retrieval.access import AccessList, access_list, sees
from app.retrieval.engines.base import AllBut, Files
from app.store.models import vector_store_files

MOST_HIDDEN = 10_000  # files that a search leaves out rather than lists the others
REMEMBERED = 500_000  # file ids that one store keeps as what its latest callers may see
Row = Mapping[Any, Any]
R = TypeVar("R", bound=Row)
_NONE: frozenset[str] = frozenset()


async def visible_files(connection: AsyncConnection, who: Principal, found: Sequence[R]) -> list[R]:
    """Those rows of the table ``files`` whose file somebody may see, in their order.

    A file is seen where one of the vector stores that it is in shows it. One that is in none
    is seen by whom it belongs to.
    """
    if who.sees_all or not found:
        return list(found)
    lists: dict[str, list[AccessList | None]] = defaultdict(list)
    table = vector_store_files.c
    attached = select(table.file_id, table.access).where(
        table.file_id.in_([r["id"] for r in found])
    )
    for file_id, stored in await connection.execute(attached):
        lists[file_id].append(access_list(stored))
    return [
        row
        for row in found
        if any(sees(who, each) for each in lists[row["id"]])
        or (not lists[row["id"]] and row["owner"] is not None and row["owner"] == who.owner)
    ]


class StoreAccess:
    """The access lists of one store's files, in memory: what a search may look through.

    It gives what :func:`app.retrieval.access.sees` says of every file, without looking at every
    file.
    """

    def __init__(
        self, stored: Iterable[tuple[str, Mapping[str, Sequence[str]] | None]] = ()
    ) -> None:
        self._lists: dict[str, AccessList | None] = {}
        self._open: set[str] = set()
        self._listed: set[str] = set()
        self._of_user: dict[str, set[str]] = {}
        self._of_group: dict[str, set[str]] = {}
        self._visible: dict[tuple[str | None, frozenset[str]], frozenset[str] | AllBut | None] = {}
        made: dict[tuple[tuple[str, ...], ...], AccessList | None] = {}  # most lists are of many
        for file_id, access in stored:
            if access is None:
                self.put(file_id, None)
                continue
            key = (tuple(access["users"]), tuple(access["groups"]))
            if key not in made:
                made[key] = access_list(access)
            self.put(file_id, made[key])

    def put(self, file_id: str, access: AccessList | None) -> None:
        """Note a file's list, also in place of an earlier one."""
        self.drop(file_id)
        self._lists[file_id] = access
        if access is None:
            self._open.add(file_id)
            return
        self._listed.add(file_id)
        for names, files in ((access.users, self._of_user), (access.groups, self._of_group)):
            for name in names:
                files.setdefault(name, set()).add(file_id)

    def drop(self, file_id: str) -> None:
        """Forget a file: nobody finds it any more where lists are asked."""
        self._visible.clear()
        access = self._lists.pop(file_id, None)
        self._open.discard(file_id)
        self._listed.discard(file_id)
        if access is None:
            return
        for names, files in ((access.users, self._of_user), (access.groups, self._of_group)):
            for name in names:
                files[name].discard(file_id)
                if not files[name]:
                    del files[name]

    def visible_to(self, who: Principal) -> Files | None:
        """The files that somebody may see; None: all, since no list keeps one from him."""
        if who.sees_all or not self._listed:
            return None
        key = (who.user, who.groups)
        if key not in self._visible:
            mine = [self._of_group.get(group, _NONE) for group in who.groups]
            if who.user is not None:
                mine.append(self._of_user.get(who.user, _NONE))
            hidden = self._listed.difference(*mine)
            found: frozenset[str] | AllBut | None = None
            if len(hidden) > min(MOST_HIDDEN, len(self._lists) // 2):
                found = frozenset(self._open.union(*mine))
            elif hidden:
                found = AllBut(frozenset(hidden))
            if sum(map(_size, self._visible.values())) + _size(found) > REMEMBERED:
                self._visible.clear()
            self._visible[key] = found
        return self._visible[key]


def _size(files: frozenset[str] | AllBut | None) -> int:
    return 0 if files is None else len(files.hidden if isinstance(files, AllBut) else files)
