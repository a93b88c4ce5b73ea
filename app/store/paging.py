"""Cursor pages over tables whose ids sort by time."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from sqlalchemy import Column, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import BadRequest
from app.store.db import Database

CURSOR = re.compile(r"[A-Za-z0-9_-]{1,64}")
T = TypeVar("T")
Row: TypeAlias = dict[str, Any]
Keep = Callable[[AsyncConnection, list[Row]], Awaitable[list[Row]]]
READ_AT_ONCE = 500  # rows, where some of them may not be kept


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and whether more follow."""

    rows: list[T]
    has_more: bool


async def page_of(
    db: Database,
    query: Select[Any],
    key: Column[str],
    *,
    limit: int,
    order: str,
    after: str | None = None,
    before: str | None = None,
    keep: Keep | None = None,
) -> Page[Row]:
    """Run ``query`` for one page in the order of ``key`` (``asc`` or ``desc``).

    The page ``before`` an id holds the rows just before it; ``has_more`` tells whether more
    follow in the direction of paging. An id that was deleted meanwhile still marks its place.
    Rows that ``keep`` does not return are on no page, and do not follow.

    Raises:
        BadRequest: a cursor that is no id.
    """
    for name, cursor in (("after", after), ("before", before)):
        if cursor is not None and not CURSOR.fullmatch(cursor):
            raise BadRequest(f"`{name}` must be an id of the last page.", param=name)
    up = order == "asc"
    if after is not None:
        query = query.where(key > after if up else key < after)
    if before is not None:
        query = query.where(key < before if up else key > before)
        up = not up  # from the cursor backwards
    size = limit + 1 if keep is None else max(limit + 1, READ_AT_ONCE)
    query = query.order_by(key.asc() if up else key.desc()).limit(size)
    rows: list[Row] = []
    async with db.read() as connection:
        more = query
        while True:
            found = [dict(r) for r in (await connection.execute(more)).mappings()]
            rows += found if keep is None else await keep(connection, found)
            if len(rows) > limit or len(found) < size:
                break
            last = found[-1][key.key]
            more = query.where(key > last if up else key < last)
    page = rows[:limit]
    return Page(page[::-1] if before is not None else page, len(rows) > limit)
