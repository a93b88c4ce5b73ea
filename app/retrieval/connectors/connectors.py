"""The connectors of one gateway: made, shown, changed, deleted."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Conflict, NotFound
from app.gateway.call import Call
from app.ids import new_id
from app.retrieval.access import AccessList, access_list, require_seen, sees
from app.retrieval.collections import VectorStores
from app.retrieval.connectors.connector import Connector, KnownItem
from app.retrieval.connectors.declared import DeclaredSources
from app.retrieval.connectors.schedule import Schedule
from app.retrieval.types import AttributeValue
from app.store.db import Database
from app.store.models import connector_items, connectors, vector_store_files
from app.store.paging import Page, page_of


class Connectors:
    """What keeps the vector stores of a tenant in step with places outside."""

    def __init__(
        self, db: Database, stores: VectorStores, declared: DeclaredSources, schedule: Schedule
    ) -> None:
        self._db, self._stores, self._schedule = db, stores, schedule
        self.declared = declared

    async def create(
        self,
        call: Call,
        store_id: str,
        *,
        source: str,
        path: str,
        include: list[str],
        exclude: list[str],
        freshness_s: int,
        attributes: dict[str, AttributeValue],
        access: AccessList | str | None,
        chunking: dict[str, Any],
    ) -> Connector:
        """Follow a part of a source; the first sync begins at once.

        Args:
            access: who may see the documents: ``"source"`` for whom the source lets see them, a
                list, or None for whoever may search the store.

        Raises:
            NotFound: the store does not exist, or the tenant may not follow the source.
            Forbidden: the list would hide the documents from the caller.
            Conflict: the store has expired.
        """
        store = await self._stores.searchable(call.tenant_id, store_id)
        self._stores.embedder_of(store)
        await self.declared.require(call.tenant_id, source)
        stored: Any = access
        if isinstance(access, AccessList):
            require_seen(call.principal, access)
            stored = access.stored()
        connector_id, now = new_id("cn_"), time.time()
        async with self._db.write() as connection:
            await connection.execute(
                insert(connectors).values(
                    id=connector_id,
                    tenant_id=call.tenant_id,
                    vector_store_id=store_id,
                    source=source,
                    path=path,
                    include=include,
                    exclude=exclude,
                    attributes=attributes,
                    access=stored,
                    chunking=chunking,
                    owner=call.principal.owner,
                    freshness_s=freshness_s,
                    enabled=True,
                    next_sync_at=now,
                    removed=0,
                    failures=0,
                    allow_removal=False,
                    listing=0,
                    listed=0,
                    created_at=now,
                    keep_documents=False,
                )
            )
        await self._schedule.begin(connector_id)
        return await self.get(call.tenant_id, store_id, connector_id)

    async def get(self, tenant_id: str, store_id: str, connector_id: str) -> Connector:
        """Raises NotFound for an unknown or deleted id, or another tenant's."""
        await self._stores.get(tenant_id, store_id)
        query = select(connectors).where(
            connectors.c.id == connector_id,
            connectors.c.tenant_id == tenant_id,
            connectors.c.vector_store_id == store_id,
            connectors.c.deleted_at.is_(None),
        )
        row = await self._db.one_or_none(query)
        if row is None:
            raise NotFound("connector", connector_id)
        return Connector(**row)

    async def page(self, tenant_id: str, store_id: str, **paging: Any) -> Page[Connector]:
        """One page of a store's connectors."""
        await self._stores.get(tenant_id, store_id)
        query = select(connectors).where(
            connectors.c.vector_store_id == store_id, connectors.c.deleted_at.is_(None)
        )
        found = await page_of(self._db, query, connectors.c.id, **paging)
        return Page([Connector(**r) for r in found.rows], found.has_more)

    async def change(
        self,
        tenant_id: str,
        store_id: str,
        connector_id: str,
        enabled: bool | None,
        freshness_s: int | None,
    ) -> Connector:
        """Pause, resume, or set another freshness; a sync that runs goes on to its end.

        Resumed, a connector syncs as soon as its time has come, which may be at once.
        """
        old = await self.get(tenant_id, store_id, connector_id)
        values: dict[str, Any] = {}
        if enabled is not None:
            values["enabled"] = enabled
        if freshness_s is not None:
            values["freshness_s"] = freshness_s
            if old.began_at is not None and not old.running:
                soon = old.began_at + freshness_s / 2
                values["next_sync_at"] = min(soon, old.next_sync_at or soon)
        async with self._db.write() as connection:
            await connection.execute(
                update(connectors).where(connectors.c.id == connector_id).values(**values)
            )
        return await self.get(tenant_id, store_id, connector_id)

    async def sync(
        self, tenant_id: str, store_id: str, connector_id: str, allow_removal: bool
    ) -> str:
        """Begin a sync now, of a paused connector too; returns the id of its job.

        Raises:
            NotFound: as :meth:`get`.
            Conflict: a sync runs already.
        """
        await self.get(tenant_id, store_id, connector_id)
        job_id = await self._schedule.begin(connector_id, allow_removal=allow_removal)
        if job_id is None:
            await self.get(tenant_id, store_id, connector_id)
            raise Conflict(
                "A sync of this connector is running. Wait for its job, or cancel it.",
                code="sync_under_way",
            )
        return job_id

    async def delete(self, tenant_id: str, store_id: str, connector_id: str, keep: bool) -> str:
        """Delete a connector; its documents follow, unless they are kept, by a job.

        The job is the sync that runs, which then does nothing else any more, else a new one.

        Returns:
            the id of that job.
        """
        await self.get(tenant_id, store_id, connector_id)
        mine = connectors.c.id == connector_id
        async with self._db.write() as connection:
            gone = await connection.execute(
                update(connectors)
                .where(mine, connectors.c.deleted_at.is_(None))
                .values(
                    deleted_at=time.time(),
                    keep_documents=keep,
                    next_sync_at=time.time(),
                    failures=0,
                )
            )
        if not gone.rowcount:
            raise NotFound("connector", connector_id)
        job_id = await self._schedule.begin(connector_id)
        if job_id is None:
            async with self._db.read() as connection:
                job_id = await connection.scalar(select(connectors.c.job_id).where(mine))
        return str(job_id)

    async def items(
        self, call: Call, store_id: str, connector_id: str, *, status: str | None, **paging: Any
    ) -> Page[KnownItem]:
        """One page of the documents that the caller may see.

        A key tells something too: where a document has no file here, only who made the
        connector sees it, and where it has one, who may see the file as it is listed here and
        in the source.
        """
        connector = await self.get(call.tenant_id, store_id, connector_id)
        who = call.principal
        query = select(connector_items).where(connector_items.c.connector_id == connector_id)
        if status is not None:
            query = query.where(connector_items.c.status == status)
        made_by_him = connector.made_by(who)

        async def keep(
            connection: AsyncConnection, rows: list[dict[str, Any]]
        ) -> list[dict[str, Any]]:
            table = vector_store_files.c
            files = [r["file_id"] for r in rows if r["file_id"] is not None]
            query = select(table.file_id, table.access).where(
                table.vector_store_id == store_id, table.file_id.in_(files)
            )
            lists = {r.file_id: access_list(r.access) for r in await connection.execute(query)}

            def seen(row: dict[str, Any]) -> bool:
                if row["file_id"] not in lists:
                    return made_by_him
                wanted = connector.readers(access_list(row["access"]))
                return sees(who, lists[row["file_id"]]) and sees(who, wanted)

            return [r for r in rows if seen(r)]

        found = await page_of(
            self._db,
            query,
            connector_items.c.id,
            **paging,
            keep=None if who.sees_all else keep,
        )
        return Page([KnownItem(**r) for r in found.rows], found.has_more)
