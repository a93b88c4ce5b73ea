"""A folder that a vector store follows, in this process, without a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from app.gateway.identity import Tenant
from app.retrieval.connectors.connector import Connector, KnownItem
from app.retrieval.connectors.connectors import Connectors
from app.retrieval.connectors.declared import DeclaredSources
from app.retrieval.connectors.documents import Documents
from app.retrieval.connectors.schedule import Schedule
from app.retrieval.connectors.settings import FolderSettings, SourceSettings
from app.retrieval.connectors.sync import Sync
from app.settings import normal_url
from app.store.models import connector_items, connectors, files, passages, vector_store_files
from tests.retrieval.stores import TENANT, House, free_pass, made_call, until


async def find_tenant(tenant_id: str) -> Tenant:
    return Tenant(tenant_id, tenant_id, 0.0, None, None)


class Followed:
    """Services of one process over a database, and the folder ``docs`` beside it."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.docs = house, folder / "docs"
        self.docs.mkdir(exist_ok=True)
        (self.docs / ".keep").touch()
        self.declared: dict[str, SourceSettings] = {
            "docs": FolderSettings(kind="folder", tenants=["*"], path=self.docs)
        }
        self.build()

    def build(self) -> None:
        """Services anew; after ``House.reopen``, as a restart gives them."""
        house = self.house
        sources = DeclaredSources(self.declared, find_tenant)
        self.schedule = Schedule(house.db, house.jobs)
        self.documents = Documents(
            house.db,
            house.files,
            house.stores,
            house.attached,
            house.ingestion,
            house.folder / "scratch",
        )
        self.sync = Sync(house.db, house.jobs, house.stores, sources, self.schedule, self.documents)
        self.sync.govern = free_pass
        self.connectors = Connectors(house.db, house.stores, sources, self.schedule)

    def write(self, name: str, text: str) -> None:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def follow(self, store_id: str, **given: Any) -> Connector:
        wanted: dict[str, Any] = {
            "source": "docs",
            "path": "",
            "include": [],
            "exclude": [],
            "freshness_s": 604_800,
            "attributes": {},
            "access": "source",
            "chunking": {},
        }
        return await self.connectors.create(made_call(), store_id, **{**wanted, **given})

    async def row(self, connector_id: str) -> Connector:
        query = select(connectors).where(connectors.c.id == connector_id)
        async with self.house.db.read() as connection:
            return Connector(**(await connection.execute(query)).mappings().one())

    async def ended(self, connector_id: str) -> Connector:
        """The connector, when its sync has ended."""

        async def look() -> Connector | None:
            found = await self.row(connector_id)
            return None if found.running else found

        return await until(look, 60)

    async def make_due(self, connector_id: str, **values: Any) -> None:
        await self.set(connector_id, next_sync_at=1.0, **values)

    async def set(self, connector_id: str, **values: Any) -> None:
        """Change a connector's row, as time does."""
        mine = connectors.c.id == connector_id
        async with self.house.db.write() as connection:
            await connection.execute(update(connectors).where(mine).values(**values))

    async def items(self, connector_id: str) -> dict[str, KnownItem]:
        query = select(connector_items).where(connector_items.c.connector_id == connector_id)
        async with self.house.db.read() as connection:
            rows = (await connection.execute(query)).mappings()
            return {row["key"]: KnownItem(**row) for row in rows}

    async def left(self) -> tuple[int, int, int, int]:
        """How many live files, attached files, files of passages and blobs there are."""
        queries = (
            select(func.count()).select_from(files).where(files.c.deleted_at.is_(None)),
            select(func.count()).select_from(vector_store_files),
            select(func.count(passages.c.file_id.distinct())),
        )
        async with self.house.db.read() as connection:
            counts = [int(await connection.scalar(query) or 0) for query in queries]
        blobs = [p for p in (self.house.folder / "files").iterdir() if "partial" not in p.name]
        return counts[0], counts[1], counts[2], len(blobs)


@asynccontextmanager
async def followed(database_url: str, folder: Path) -> AsyncIterator[Followed]:
    """A followed folder whose jobs run."""
    sqlite = database_url.startswith("sqlite")
    jobs_url = normal_url(None, folder / "jobs.db") if sqlite else database_url
    house = House(database_url, jobs_url, folder)
    await house.create_tables()
    made = Followed(house, folder)
    await house.jobs.start()
    yield made
    await house.jobs.close()
    await house.close()


__all__ = ["TENANT", "Followed", "followed"]
