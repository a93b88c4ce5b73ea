"""Builds of a store's index: made beside the one that is searched, checked, then switched to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from app.errors import Conflict, NotFound, Unavailable
from app.gateway.call import Call
from app.ids import new_id
from app.pools import Pool
from app.retrieval.build_check import measured_recall
from app.retrieval.build_copy import BuildCopy, attached
from app.retrieval.collections import VectorStore, VectorStores
from app.retrieval.contents import passage_count
from app.retrieval.index import Live
from app.retrieval.ingestion import Govern, governed
from app.store.db import Database
from app.store.jobs import Job, Jobs
from app.store.models import (
    build_files,
    index_builds,
    segments,
    vector_stores,
)

KIND = "build_index"
FEW = 8  # files that may be copied while nobody can change the store
NOISE = 0.02  # by which recall on a sample may be below the target


@dataclass(frozen=True, slots=True)
class Build:
    """One build of a store's index. ``passages`` is how many it holds so far."""

    vector_store_id: str
    id: str
    engine: str
    embedding_model: str
    embedding_version: str | None
    dim: int
    status: str  # building, ready, failed
    job_id: str | None
    passages: int
    recall: float | None
    error: dict[str, Any] | None
    created_at: float
    ready_at: float | None
    searched: bool = False  # whether it is the one that searches use; not in its row


class Builds:
    """Moves a store between engines and embedding models while it is searched and written.

    A durable job of two steps copies the vectors (or embeds the texts anew where the model
    differs) and checks counts and recall; then, if asked, catches up while nobody can change
    the store and switches. The build that was searched before is kept, so going back is the
    second step alone.
    """

    def __init__(
        self, db: Database, stores: VectorStores, jobs: Jobs, pool: Pool, recall_target: float
    ) -> None:
        self._db, self._stores, self._jobs, self._pool = db, stores, jobs, pool
        self._recall_target = recall_target
        self.govern: Govern | None = None  # set once by the wiring, before any job runs
        jobs.register(KIND, [("fill", self._fill), ("switch", self._switch)], self._ended)

    # -- what the doors call ------------------------------------------------------------

    async def begin(
        self,
        call: Call,
        store_id: str,
        engine: str | None,
        model: str | None,
        activate: bool,
        job_id: str | None = None,
    ) -> Build:
        """Start a build with this engine and model; those of the store where None.

        Args:
            job_id: of the job to come, where the caller has noted it.

        Raises:
            NotFound: the store or the model does not exist.
            BadRequest: the engine is not configured.
            Conflict: the store has expired, or is being built already.
        """
        store = await self._stores.searchable(call.tenant_id, store_id)
        name, embedder = self._stores.model(model or store.embedding_model)
        self._stores.check_engine(engine or store.engine)
        job_id = job_id or new_id("job_")
        build = Build(
            store.id,
            new_id("ib_"),
            engine or store.engine,
            name,
            embedder.fingerprint,
            embedder.dim,
            "building",
            job_id,
            0,
            None,
            None,
            time.time(),
            None,
        )
        table = index_builds.c
        async with self._db.write() as connection:
            await connection.execute(
                self._db.insert(index_builds)
                .values(**_row(_original(store)))
                .on_conflict_do_nothing()
            )
            # the store's row is what two calls at once queue up for
            await connection.execute(
                update(vector_stores)
                .where(vector_stores.c.id == store.id)
                .values(last_active_at=time.time())
            )
            under_way = select(func.count()).where(
                table.vector_store_id == store.id, table.status == "building"
            )
            if await connection.scalar(under_way):
                raise Conflict(
                    "The index of this vector store is being built already. Wait for it, or "
                    "delete that build.",
                    code="build_under_way",
                )
            await connection.execute(insert(index_builds).values(**_row(build)))
            job = _job(call, build, job_id, activate)
            await self._jobs.record(connection, job)  # with the build: neither is without the other
        await self._jobs.enqueue(job)
        return build

    async def activate(
        self, call: Call, store_id: str, build_id: str, job_id: str | None = None
    ) -> Build:
        """Start switching to a build that is ready; to the one that is searched: nothing.

        Args:
            job_id: as of :meth:`begin`.

        Raises:
            NotFound: the store or the build does not exist.
            Conflict: the build is not ready.
        """
        await self._stores.searchable(call.tenant_id, store_id)
        build = await self.get(call.tenant_id, store_id, build_id)
        if build.status != "ready":
            raise Conflict(
                f"The build is {build.status}, so it cannot be searched.", code="build_not_ready"
            )
        if build.searched:
            return build
        job_id = job_id or new_id("job_")
        job = _job(call, build, job_id, True)
        async with self._db.write() as connection:
            values = update(index_builds).where(_is(build))
            await connection.execute(values.values(job_id=job_id, error=None))
            await self._jobs.record(connection, job)
        await self._jobs.enqueue(job)
        return replace(build, job_id=job_id, error=None)

    async def fall_back(self, call: Call, store_id: str, job_id: str | None = None) -> Build:
        """Start switching to the build before: the newest ready one older than the searched one.

        Raises:
            NotFound: the store does not exist.
            Conflict: it has no such build.
        """
        found = await self.all(call.tenant_id, store_id)  # oldest first
        searched = next(number for number, build in enumerate(found) if build.searched)
        before = [build for build in found[:searched] if build.status == "ready"]
        if not before:
            raise Conflict(
                "This vector store has no earlier build that is ready, so there is nothing to fall "
                "back to.",
                code="no_earlier_build",
            )
        return await self.activate(call, store_id, before[-1].id, job_id)

    async def get(self, tenant_id: str, store_id: str, build_id: str) -> Build:
        """Raises NotFound for an unknown id, or another tenant's."""
        for build in await self.all(tenant_id, store_id):
            if build.id == build_id:
                return build
        raise NotFound("build", build_id)

    async def all(self, tenant_id: str, store_id: str) -> list[Build]:
        """The builds of a store, oldest first; what a store is made with is ``original``."""
        store = await self._stores.get(tenant_id, store_id)
        table = index_builds.c
        query = (
            select(index_builds)
            .where(table.vector_store_id == store_id)
            .order_by(table.created_at, table.id)
        )
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            count = await passage_count(connection, store_id)
        found = [Build(**row) for row in rows] or [_original(store)]
        return [
            replace(b, passages=count, searched=True) if b.id == store.build else b for b in found
        ]

    async def drop(self, tenant_id: str, store_id: str, build_id: str) -> None:
        """Delete a build that is not searched, its files and vectors; stops it if it is built.

        Raises:
            NotFound: the store or the build does not exist.
            Conflict: it is the one that is searched.
        """
        store = await self._stores.get(tenant_id, store_id)
        build = await self.get(tenant_id, store_id, build_id)
        if build.searched:
            raise Conflict(
                "This build is the one that is searched. Switch to another one first.",
                code="build_in_use",
            )
        if build.job_id is not None:
            with contextlib.suppress(Conflict, NotFound):  # it is over
                await self._jobs.cancel(tenant_id, build.job_id)
        async with self._stores.using(store) as index, index.held():
            async with self._db.write() as connection:
                searched = select(vector_stores.c.build).where(vector_stores.c.id == store_id)
                if await connection.scalar(searched) == build.id:
                    raise Conflict("The store was switched to this build.", code="build_in_use")
                for table in (segments, build_files):
                    mine = (table.c.vector_store_id == store_id) & (table.c.build == build.id)
                    await connection.execute(delete(table).where(mine))
                await connection.execute(delete(index_builds).where(_is(build)))
            await self._pool.run(
                self._stores.destroy_build, store_id, build.engine, build.dim, build.id
            )

    # -- the job ------------------------------------------------------------------------

    async def _ended(self, job: Job, status: str, message: str) -> None:
        """A job that is over without its outcome: a build that was ready stays so."""
        code = "cancelled" if status == "cancelled" else "failed"
        table = index_builds.c
        mine = (table.vector_store_id == job.args["store_id"]) & (table.id == job.args["build"])
        async with self._db.write() as connection:
            values = update(index_builds).where(mine, table.job_id == job.id)
            await connection.execute(values.values(error={"code": code, "message": message}))
            await connection.execute(
                values.where(table.status == "building").values(status="failed")
            )

    async def _fill(self, job: Job) -> None:
        async with governed(self.govern, job, "fill") as call, self._copying(job, call) as copy:
            if copy is None:
                return
            await copy.catch_up()
            if copy.build.status == "ready":
                return
            files = [file_id for file_id, _ in await copy.held()]
            engine, dim = copy.target.engine, copy.build.dim
            recall = await self._pool.run(measured_recall, engine, files, dim)
            if recall is not None and recall < self._recall_target - NOISE:
                raise Unavailable(
                    f"The build finds {recall:.1%} of the nearest ten, under the target of "
                    f"{self._recall_target:.0%}. The searched index was left as it is.",
                    code="recall_too_low",
                )
            ready = {"status": "ready", "ready_at": time.time(), "error": None}
            count = await self._pool.run(lambda: engine.count)
            await self._set(copy.build, **ready, recall=recall, passages=count)

    async def _switch(self, job: Job) -> None:
        if not job.args["activate"]:
            return
        async with governed(self.govern, job, "switch") as call, self._copying(job, call) as copy:
            if copy is None:
                return
            switched = False
            while not switched:
                await copy.catch_up()
                switched = await self._switched(copy)
            copy.index.compact_soon()

    @asynccontextmanager
    async def _copying(self, job: Job, call: Call) -> AsyncIterator[BuildCopy | None]:
        """The build of a job, opened beside its store; None where it is searched already."""
        store = await self._stores.get(job.tenant_id, job.args["store_id"])
        build = await self.get(job.tenant_id, store.id, job.args["build"])
        call.lineage.update(job=job.id, build=build.id)
        if build.searched:
            yield None
            return
        async with self._stores.using(store, store.version) as index:
            target = await index.open_build(build.engine, build.dim, build.id)
            yield BuildCopy(self._db, self._stores, self._pool, call, store, index, build, target)

    async def _switched(self, copy: BuildCopy) -> bool:
        """Switch while nobody can change the store; False when there is too much to copy first."""
        async with copy.index.held():
            if await copy.behind() > FEW:
                return False
            await copy.catch_up(merge=False)
            await copy.index.refresh(copy.target)  # what a restart would see
            await self._check_count(copy.build, copy.target)
            await self._point_to(copy.build, copy.store)
            await copy.index.reload()
        return True

    async def _check_count(self, build: Build, target: Live) -> None:
        async with self._db.read() as connection:
            expected = await passage_count(connection, build.vector_store_id)
        found = await self._pool.run(lambda: target.engine.count)
        if found != expected:
            raise Unavailable(
                f"The build holds {found} vectors of {expected} passages. The searched index was "
                "left as it is; start a new build.",
                code="build_incomplete",
            )

    async def _point_to(self, build: Build, store: VectorStore) -> None:
        """Switch in SQL; what was searched becomes a build that may be gone back to."""
        held = await attached(self._db, store.id)
        old = (build_files.c.vector_store_id == store.id) & (build_files.c.build == store.build)
        async with self._db.write() as connection:
            await connection.execute(delete(build_files).where(old))
            rows = [
                {"vector_store_id": store.id, "build": store.build, "file_id": f, "job_id": j}
                for f, j in held
            ]
            if rows:
                await connection.execute(insert(build_files), rows)
            await connection.execute(
                update(index_builds)
                .where(index_builds.c.vector_store_id == store.id, index_builds.c.id == store.build)
                .values(status="ready", passages=await passage_count(connection, store.id))
            )
            await connection.execute(
                update(vector_stores)
                .where(vector_stores.c.id == store.id)
                .values(
                    build=build.id,
                    engine=build.engine,
                    embedding_model=build.embedding_model,
                    embedding_version=build.embedding_version,
                    dim=build.dim,
                    version=vector_stores.c.version + 1,
                )
            )

    async def _set(self, build: Build, **values: Any) -> None:
        async with self._db.write() as connection:
            await connection.execute(update(index_builds).where(_is(build)).values(**values))


def _is(build: Build) -> Any:
    table = index_builds.c
    return (table.vector_store_id == build.vector_store_id) & (table.id == build.id)


def _job(call: Call, build: Build, job_id: str, activate: bool) -> Job:
    args = {
        "store_id": build.vector_store_id,
        "build": build.id,
        "activate": activate,
        "subject": call.principal.subject,
    }
    return Job(job_id, call.tenant_id, KIND, args)


def _row(build: Build) -> dict[str, Any]:
    return {column.name: getattr(build, column.name) for column in index_builds.columns}


def _original(store: VectorStore) -> Build:
    """The build that is searched, as long as it is the only one."""
    return Build(
        store.id,
        store.build,
        store.engine,
        store.embedding_model,
        store.embedding_version,
        store.dim,
        "ready",
        None,
        0,
        None,
        None,
        store.created_at,
        store.created_at,
    )
