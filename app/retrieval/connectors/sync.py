"""The durable job that brings a vector store in step with a connector's source."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import delete, select

from app.errors import OstiaryError
from app.gateway.call import Call
from app.retrieval.collections import VectorStores
from app.retrieval.connectors.base import Source
from app.retrieval.connectors.connector import Connector, KnownItem
from app.retrieval.connectors.declared import DeclaredSources
from app.retrieval.connectors.documents import Documents
from app.retrieval.connectors.listing import note_listing
from app.retrieval.connectors.schedule import KIND, Schedule
from app.retrieval.ingestion import Govern
from app.store.db import Database
from app.store.jobs import Job, Jobs
from app.store.models import connector_items, connectors

SYNCS = 4  # at once in one gateway, beside its other jobs
FETCHES = 4  # documents of one sync at once
BATCH = 200  # documents read from SQL at a time
_ITEMS = connector_items.c

Work = Callable[[Job, Call, Connector], Awaitable[None]]
Each = Callable[[KnownItem], Awaitable[None]]


class Sync:
    """List, permissions, remove, fetch, settle: five steps, each of which may be run again.

    Who may see a document is set right before any bytes are fetched, and what is gone goes
    before anything is added. Nothing waits for other jobs: a sync has slots of its own and does
    the steps of an ingestion itself.
    """

    def __init__(
        self,
        db: Database,
        jobs: Jobs,
        stores: VectorStores,
        declared: DeclaredSources,
        schedule: Schedule,
        documents: Documents,
    ) -> None:
        self._db, self._stores = db, stores
        self._declared, self._schedule, self._documents = declared, schedule, documents
        self._busy: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.govern: Govern | None = None  # set once by the wiring, before any job runs
        work: list[tuple[str, Work]] = [
            ("list", self._list),
            ("permissions", self._permissions),
            ("remove", self._remove),
            ("fetch", self._fetch),
        ]
        steps = [(name, partial(self._step, name, step)) for name, step in work]
        jobs.register(KIND, [*steps, ("settle", self._settle)], schedule.ended, apart=SYNCS)

    async def _step(self, name: str, work: Work, job: Job) -> None:
        connector = await self._schedule.current(job)
        if connector is None or connector.deleted_at is not None:
            return  # the last step removes what is to be removed
        async with self._governed(job, name, connector) as call:
            await work(job, call, connector)

    @asynccontextmanager
    async def _governed(self, job: Job, name: str, connector: Connector) -> AsyncIterator[Call]:
        """A step as a governed call; its failure is told to the connector's owner.

        One step at a time: a cancelled sync may still be at its last document.
        """
        assert self.govern is not None
        try:
            async with (
                self._busy[connector.id],
                self.govern("job", f"job:{KIND}/{name}", connector.principal) as call,
            ):
                call.lineage.update(job=job.id, connector=connector.id)
                yield call
        except OstiaryError as error:
            await self._schedule.note_error(job, error.code, error.message)
            # a message may name a document; the job is for everybody in the tenant
            raise OstiaryError(
                "The sync failed. GET /v1/vector_stores/{vector_store_id}/connectors/"
                "{connector_id} tells why.",
                code=error.code,
            ) from error

    @asynccontextmanager
    async def _opened(self, connector: Connector) -> AsyncIterator[Source]:
        source = await self._declared.open(connector.tenant_id, connector.source)
        try:
            yield source
        finally:
            await source.aclose()

    # -- steps --------------------------------------------------------------------------

    async def _list(self, job: Job, call: Call, connector: Connector) -> None:
        await self._stores.searchable(connector.tenant_id, connector.vector_store_id)
        try:
            async with self._opened(connector) as source:
                call.lineage["listing"] = await note_listing(self._db, connector, source)
        except OstiaryError:
            # what was read of the access lists holds, whatever became of the rest
            await self._permissions(job, call, connector)
            raise

    async def _permissions(self, job: Job, call: Call, connector: Connector) -> None:
        store = await self._stores.get(connector.tenant_id, connector.vector_store_id)
        done = 0
        async with self._stores.using(store, store.version) as index:
            async for batch in self._batches(connector, _ITEMS.relabel):
                for known in batch:
                    await self._documents.relabel(call, connector, index, known)
                done += len(batch)
        call.lineage["relabelled"] = done

    async def _remove(self, job: Job, call: Call, connector: Connector) -> None:
        if connector.listed != connector.listing:
            return  # the listing has no end: what it lacks may be there
        missing = _ITEMS.listing != connector.listing
        done = 0
        async for batch in self._batches(connector, missing):
            for known in batch:
                if not await self._schedule.goes_on(job):
                    return
                await self._documents.remove(call, connector, known)
                done += 1
        call.lineage["removed"] = done

    async def _fetch(self, job: Job, call: Call, connector: Connector) -> None:
        store = await self._stores.searchable(connector.tenant_id, connector.vector_store_id)
        self._stores.embedder_of(store)  # before documents fail for want of it
        pending = (_ITEMS.status == "pending") & (_ITEMS.listing == connector.listing)
        done = 0
        async with self._opened(connector) as source:

            async def bring(known: KnownItem) -> None:
                nonlocal done
                if await self._schedule.goes_on(job):
                    await self._documents.bring(call, connector, source, known)
                    done += 1

            async for batch in self._batches(connector, pending):
                await _spread(bring, batch)
                if not await self._schedule.goes_on(job):
                    break
        call.lineage["fetched"] = done

    async def _settle(self, job: Job) -> None:
        connector = await self._schedule.current(job)
        if connector is None:
            return
        async with self._governed(job, "settle", connector) as call:
            if connector.deleted_at is None:
                counts = await self._schedule.completed(job)
                if counts is not None:
                    call.lineage["documents"] = counts
                    return
                connector = await self._schedule.current(job)  # deleted a moment ago
            if connector is not None:
                await self._leave(call, connector)

    async def _leave(self, call: Call, connector: Connector) -> None:
        """Remove a deleted connector: its documents where they are not kept, then its rows."""
        done = 0
        async for batch in self._batches(connector):
            for known in batch:
                await self._documents.leave(call, connector, known)
                done += 1
        call.lineage["kept" if connector.keep_documents else "removed"] = done
        async with self._db.write() as connection:
            await connection.execute(delete(connectors).where(connectors.c.id == connector.id))
        self._busy.pop(connector.id, None)

    async def _batches(
        self, connector: Connector, *conditions: Any
    ) -> AsyncIterator[list[KnownItem]]:
        """The known documents that fulfil the conditions, in the order of their ids."""
        mine = select(connector_items).where(_ITEMS.connector_id == connector.id, *conditions)
        last = ""
        while True:
            query = mine.where(_ITEMS.id > last).order_by(_ITEMS.id).limit(BATCH)
            rows = await self._db.rows(query)
            if not rows:
                return
            last = rows[-1]["id"]
            yield [KnownItem(**row) for row in rows]


async def _spread(work: Each, items: Iterable[KnownItem]) -> None:
    """Do ``work`` for all items, a few at a time; the first error stops the others."""
    left = iter(items)

    async def some() -> None:
        for item in left:
            await work(item)

    tasks = [asyncio.create_task(some()) for _ in range(FETCHES)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
