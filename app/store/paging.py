"""Cursor pages over tables whose ids sort by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select

from app.store.db import Database

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
    """Run ``query`` for one page in the order of ``key`` (``asc`` or ``desc``)."""
    up = order == "asc"
    if after is not None:
        query = query.where(key > after if up else key < after)
    if before is not None:
        query = query.where(key < before if up else key > before)
    query = query.order_by(key.asc() if up else key.desc()).limit(limit + 1)
    async with db.read() as connection:
        rows = [dict(r) for r in (await connection.execute(query)).mappings()]
    return Page(rows[:limit], len(rows) > limit)
