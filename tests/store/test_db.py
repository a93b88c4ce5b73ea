"""A query in one step gives what a connection gives."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import insert, select

from app.errors import BadRequest
from app.store.db import Database
from app.store.migrate import migrate
from app.store.models import tenants


async def test_rows_are_those_of_a_connection(database_url: str) -> None:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db)
    new = [{"id": f"t{n}", "name": f"name {n}", "created_at": float(n)} for n in range(3)]
    async with db.write() as connection:
        await connection.execute(insert(tenants), new)
    query = select(tenants).where(tenants.c.id.in_([t["id"] for t in new])).order_by(tenants.c.id)
    async with db.read() as connection:
        expected = (await connection.execute(query)).mappings().all()
    assert [dict(r) for r in await db.rows(query)] == [dict(r) for r in expected]
    # many at once, more than there are threads to read in
    found = await asyncio.gather(*(db.rows(query) for _ in range(40)))
    assert all(len(rows) == 3 for rows in found)

    one = await db.one_or_none(query.where(tenants.c.id == "t1"))
    assert one is not None and one["name"] == "name 1"
    assert await db.one_or_none(query.where(tenants.c.id == "none")) is None
    with pytest.raises(AssertionError):
        await db.one_or_none(query)
    await db.close()


async def test_a_write_is_seen_by_the_query_after_it(database_url: str) -> None:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db)
    for n in range(20):
        async with db.write() as connection:
            values = {"id": f"t{n}", "name": f"name {n}", "created_at": 0.0}
            await connection.execute(insert(tenants).values(values))
        assert await db.one_or_none(select(tenants).where(tenants.c.id == f"t{n}")) is not None
    await db.close()


async def test_a_value_that_no_column_holds_is_the_callers_error(database_url: str) -> None:
    db = Database(database_url)
    await asyncio.to_thread(migrate, db)
    with pytest.raises(BadRequest):
        await db.rows(select(tenants).where(tenants.c.id == "\ud800"))
    await db.close()
