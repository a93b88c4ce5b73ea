"""Cursor pages over tables whose ids sort by time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select

from app.errors import BadRequest
from app.store.db import Database

CURSOR = re.compile(r"[A-Za-z0-9_-]{1,64}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and whether more follow."""

    rows: list[T]
    has_more: bool


async def page_of(
    db: Database,
    query: Select[Any],
    key: ColumnElement[str],
    *,
    limit: int,
    order: str,
    after: str | None = None,
    before: str | None = None,
) -> Page[dict[str, Any]]:
    """Run ``query`` for one page in the order of ``key`` (``asc`` or ``desc``).

    The page ``before`` an id holds the rows just before it; ``has_more`` tells whether more
    follow in the direction of paging. An id that was deleted meanwhile still marks its place.

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
    query = query.order_by(key.asc() if up else key.desc()).limit(limit + 1)
    async with db.read() as connection:
        rows = [dict(r) for r in (await connection.execute(query)).mappings()]
    page = rows[:limit]
    return Page(page[::-1] if before is not None else page, len(rows) > limit)
