"""The retrieval services over a real database and the real embedder, without a gateway."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from app.gateway.call import Call, Principal
from app.ids import new_id
from app.pools import Pool
from app.retrieval.builds import Builds
from app.retrieval.collections import VectorStores
from app.retrieval.embedding import OnnxEmbedder, packaged_bge_dir
from app.retrieval.engines.choice import Engines
from app.retrieval.files import FileService
from app.retrieval.index import StoreIndex
from app.retrieval.ingestion import Ingestion, _new_passage
from app.retrieval.search import Searches
from app.retrieval.store_files import StoreFile, StoreFiles
from app.retrieval.types import AttributeValue, Hit
from app.settings import normal_url
from app.store.blobs import Blobs
from app.store.db import Database
from app.store.jobs import Jobs
from app.store.models import metadata

T = TypeVar("T")
TENANT = "t1"
TEXTS = (
    "Employees receive 27 days of paid holiday each year.",
    "Trains are booked through the travel desk in Lyon.",
    "The boiler is serviced in October by the caretaker.",
    "Visitors sign the red book at the reception.",
    "Backups of the ledger are kept for seven years.",
)


@cache
def embedder() -> OnnxEmbedder:
    return OnnxEmbedder(packaged_bge_dir(), 2)


def made_call(tenant: str = TENANT) -> Call:
    principal = Principal(tenant, "key:k1", "k1", frozenset({"*"}))
    return Call(new_id("call_"), new_id("req_"), "rest", "POST /v1/x", principal)


@asynccontextmanager
async def free_pass(door: str, route: str, principal: Principal) -> AsyncIterator[Call]:
    """A corridor that lets everything through."""
    yield Call(new_id("call_"), new_id("req_"), door, route, principal)


class House:
    """Files, vector stores and ingestion of one process; ``reopen`` is a restart of it."""

    def __init__(
        self,
        database_url: str,
        jobs_url: str,
        folder: Path,
        engines: Engines | None = None,
        models: dict[str, OnnxEmbedder] | None = None,
    ) -> None:
        self.url, self.jobs_url, self.folder = database_url, jobs_url, folder
        self.engines, self.models = engines or Engines(), models or {"bge-small-en": embedder()}
        self.db = Database(database_url)
        self._build()

    def _build(self) -> None:
        self.query_pool, self.work_pool = Pool("query", 2), Pool("ingest", 2, 100_000)
        self.stores = VectorStores(
            self.db,
            # of its own, so that a test may hold it up
            {name: copy(model) for name, model in self.models.items()},
            self.query_pool,
            self.work_pool,
            self.folder / "indexes",
            self.engines,
        )
        self.searches = Searches(self.db, self.stores, self.query_pool)
        self.files = FileService(self.db, Blobs(str(self.folder / "files")), 10**9)
        self.jobs = Jobs(self.db, self.jobs_url, "local", look_s=0.05)
        self.attached = StoreFiles(self.db, self.stores)
        self.ingestion = Ingestion(
            self.jobs,
            self.files,
            self.stores,
            self.attached,
            self.work_pool,
            self.folder / "scratch",
        )
        self.builds = Builds(self.db, self.stores, self.jobs, self.work_pool, 0.95)
        self.ingestion.govern = self.builds.govern = free_pass

    async def create_tables(self) -> None:
        await asyncio.to_thread(metadata.create_all, self.db.sync_engine)

    async def reopen(self) -> None:
        """Forget all that is in memory, as a restart does."""
        await self.stores.close()
        self.query_pool.close()
        self.work_pool.close()
        self._build()

    async def close(self) -> None:
        await self.stores.close()
        self.query_pool.close()
        self.work_pool.close()
        await self.db.close()

    @asynccontextmanager
    async def using(self, store_id: str) -> AsyncIterator[StoreIndex]:
        """The opened index of a store."""
        async with self.stores.using(await self.stores.get(TENANT, store_id)) as index:
            yield index

    async def new_store(self, **given: Any) -> str:
        wanted = {
            "name": None,
            "description": None,
            "metadata": {},
            "chunking": {},
            "expires_after_days": None,
        }
        return (await self.stores.create(made_call(), **{**wanted, **given})).id

    async def upload(self, text: str | bytes, filename: str = "a.md") -> str:
        data = text if isinstance(text, bytes) else text.encode()
        file = await self.files.upload(made_call(), filename, "assistants", io.BytesIO(data))
        return file.id

    async def attach(
        self, store_id: str, file_id: str, attributes: dict[str, AttributeValue] | None = None
    ) -> str:
        """Attach a file and return the id of the job that is to ingest it."""
        _, fresh = await self.attached.attach(
            made_call(), store_id, [file_id], attributes or {}, {}
        )
        return fresh[file_id]

    async def index(self, store_id: str, file_id: str, job_id: str, texts: Sequence[str]) -> bool:
        """Do what the job's last step does, with passages of the test's own."""
        pieces = [
            {"ordinal": n, "text": text, "page": None, "section": None}
            for n, text in enumerate(texts)
        ]
        new = [_new_passage(store_id, job_id, p, 10) for p in pieces]
        store = await self.stores.get(TENANT, store_id)
        vectors = await self.stores.embedder_of(store).embed_passages(list(texts))
        async with self.using(store_id) as index:
            size = sum(map(len, texts))
            return await index.add(file_id, job_id, new, vectors, size, store.build)

    async def put(
        self,
        store_id: str,
        *texts: str,
        attributes: dict[str, AttributeValue] | None = None,
        filename: str = "a.md",
    ) -> str:
        """Upload, attach and index one file of the given passages."""
        file_id = await self.upload("\n\n".join(texts), filename)
        job_id = await self.attach(store_id, file_id, attributes)
        assert await self.index(store_id, file_id, job_id, texts)
        return file_id

    async def search(
        self, store_id: str, query: str, filters: dict[str, Any] | None = None, k: int = 10
    ) -> list[Hit]:
        return await self.searches.hits(made_call(), [store_id], query, k, filters)

    async def compact(self, store_id: str) -> None:
        """Compact now, and wait for it."""
        async with self.using(store_id) as index:
            index.compact_soon()
            assert index._compacting is not None
            await index._compacting


@asynccontextmanager
async def running(
    database_url: str,
    folder: Path,
    engines: Engines | None = None,
    models: dict[str, OnnxEmbedder] | None = None,
) -> AsyncIterator[House]:
    """A house whose jobs run."""
    sqlite = database_url.startswith("sqlite")
    jobs_url = normal_url(None, folder / "jobs.db") if sqlite else database_url
    made = House(database_url, jobs_url, folder, engines, models)
    await made.create_tables()
    await made.jobs.start()
    yield made
    await made.jobs.close()
    await made.close()


async def until(found: Callable[[], Awaitable[T | None]], seconds: float = 30) -> T:
    """Ask again and again until there is an answer; returns it."""
    async with asyncio.timeout(seconds):
        while (answer := await found()) is None:
            await asyncio.sleep(0.02)
    return answer


async def ended(house: House, store: str, file_id: str) -> StoreFile:
    """The file of a store, when its ingestion has come to an end."""

    async def look() -> StoreFile | None:
        file = await house.attached.file(made_call(), store, file_id)
        return None if file.status == "in_progress" else file

    return await until(look)


async def job_over(house: House, job_id: str, seconds: float = 30) -> str:
    """The status of a job, when nothing more will happen to it."""

    async def look() -> str | None:
        job = await house.jobs.get(TENANT, job_id)
        return job.status if job.over else None

    return await until(look, seconds)


def files_of(hits: Sequence[Hit]) -> list[str]:
    return list(dict.fromkeys(h.passage.file_id for h in hits))
