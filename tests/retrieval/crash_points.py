"""Dies at the n-th write point of a life of a vector store, and looks at what is left.

    python -m tests.retrieval.crash_points FOLDER [FIRST [EVERY]]

Each life runs in a fork of its own, which ends with ``os._exit`` (nothing is flushed, closed or
rolled back) just before or after the n-th write: a piece of a file, a sync, a rename, a deletion,
a commit of the words, a commit of SQL. The next fork opens the store and checks it. Prints one
JSON line a point.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert, select
from tantivy import IndexWriter  # noqa: F401  # the library is loaded before any fork

from app.pools import Pool
from app.retrieval import builds
from app.retrieval.builds import Builds
from app.retrieval.collections import VectorStores
from app.retrieval.engines import segment_file
from app.retrieval.engines.choice import Engines
from app.retrieval.engines.faiss import FaissEngine
from app.retrieval.index import StoreIndex
from app.retrieval.lexical import LexicalIndex
from app.retrieval.search import find
from app.retrieval.types import NewPassage
from app.store.db import Database
from app.store.jobs import Job, Jobs
from app.store.models import (
    files,
    index_builds,
    metadata,
    passages,
    vector_store_files,
    vector_stores,
)
from tests.retrieval.stores import free_pass

DIM, STORE, PASSAGES = 16, "vs_1", 3
DIED = 9
# add, remove, add again, until eight segments of a size are merged and merged again; then to
# another build of the index, back, and to the other once more
LIFE = (
    [("add", f"f{n}") for n in range(7)]
    + [("remove", "f2"), ("add", "f7"), ("add", "f8"), ("remove", "f0"), ("add", "f2")]
    + [("label", "f3"), ("add", "f9"), ("build", "b1"), ("remove", "f3"), ("add", "f10")]
    + [("build", "original"), ("remove", "f4"), ("add", "f3"), ("build", "b1")]
)
FILES = sorted({name for what, name in LIFE if what != "build"})


def vector(file_id: str, ordinal: int) -> np.ndarray[Any, Any]:
    seed = int.from_bytes(hashlib.sha256(f"{file_id}/{ordinal}".encode()).digest()[:4], "big")
    made = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return made / np.linalg.norm(made)


class Points:
    """Counts write points and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self.last, self.seen = last, 0

    def pass_by(self, where: str) -> None:
        self.seen += 1
        if self.seen == self.last:
            os.write(1, json.dumps({"point": self.last, "where": where}).encode() + b"\n")
            os._exit(DIED)

    def around(self, owner: Any, name: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(f"before {name}")
            done = plain(*args, **kwargs)
            self.pass_by(f"after {name}")
            return done

        setattr(owner, name, watched)

    def watch(self, db: Database) -> None:
        pieces = segment_file._pieces

        def cut(*args: Any) -> Any:
            for piece in pieces(*args):
                yield piece
                self.pass_by("within a segment file")

        segment_file._pieces = cut
        self.around(os, "fsync")
        self.around(Path, "replace")
        self.around(Path, "unlink")
        self.around(LexicalIndex, "commit")
        self.around(FaissEngine, "delete_segment")
        for engine in (db.engine.sync_engine, db.sync_engine):
            self.around(engine.dialect, "do_commit")


class Life:
    """One process's view of the store: what was acknowledged is noted where a kill keeps it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = Database(f"sqlite:///{folder / 'o.db'}")
        self.pool = Pool("work", 2)
        self.notes = folder / "acknowledged"
        # no model: a build copies what is stored
        self.stores = VectorStores(self.db, {}, self.pool, self.pool, folder, Engines())
        jobs = Jobs(self.db, "", "local")  # not started: what a job's steps do is called here
        self.builds = Builds(self.db, self.stores, jobs, self.pool, 0.95)
        self.builds.govern = free_pass

    @asynccontextmanager
    async def index(self) -> AsyncIterator[StoreIndex]:
        store = await self.stores.get("t", STORE)
        async with self.stores.using(store, store.version) as index:
            yield index
        await self.stores.close()

    def note(self, *what: str) -> None:
        with self.notes.open("ab", buffering=0) as file:
            file.write(json.dumps(what).encode() + b"\n")

    def noted(self) -> list[list[str]]:
        if not self.notes.exists():
            return []
        return [json.loads(line) for line in self.notes.read_bytes().splitlines()]

    async def begin(self) -> None:
        metadata.create_all(self.db.sync_engine)
        async with self.db.write() as connection:
            await connection.execute(
                insert(vector_stores).values(
                    id=STORE,
                    tenant_id="t",
                    metadata={},
                    embedding_model="m",
                    dim=DIM,
                    chunking={},
                    version=0,
                    created_at=0.0,
                    last_active_at=0.0,
                )
            )
            for name in FILES:
                await connection.execute(
                    insert(files).values(
                        id=name,
                        tenant_id="t",
                        filename=f"{name}.md",
                        purpose="assistants",
                        bytes=1,
                        sha256="",
                        blob=name,
                        created_at=0.0,
                    )
                )

    async def add(self, index: StoreIndex, file_id: str, job_id: str) -> bool:
        async with self.db.write() as connection:
            there = select(vector_store_files.c.status).where(
                vector_store_files.c.file_id == file_id
            )
            if await connection.scalar(there) is None:
                await connection.execute(
                    insert(vector_store_files).values(
                        vector_store_id=STORE,
                        file_id=file_id,
                        status="in_progress",
                        attributes={},
                        chunking={},
                        usage_bytes=0,
                        job_id=job_id,
                        created_at=time.time(),
                    )
                )
        new = [
            NewPassage(
                int.from_bytes(hashlib.sha256(f"{job_id}/{n}".encode()).digest()[:7], "big"),
                f"{job_id}-{n}", n, f"{file_id} says word{n}", None, None, 3,
            )
            for n in range(PASSAGES)
        ]  # fmt: skip
        vectors = np.stack([vector(file_id, n) for n in range(PASSAGES)])
        return await index.add(file_id, job_id, new, vectors, 10, index.live.build)

    async def switch(self, build_id: str) -> None:
        """What the door and then the two steps of the job do."""
        store = await self.stores.get("t", STORE)
        first = builds._original(store)
        wanted = replace(first, id=build_id, status="building", ready_at=None)
        async with self.db.write() as connection:
            for build in (first, wanted):
                row = self.db.insert(index_builds).values(**builds._row(build))
                await connection.execute(row.on_conflict_do_nothing())
        args = {"store_id": STORE, "build": build_id, "activate": True, "subject": "s"}
        job = Job("job", "t", builds.KIND, args)
        await self.builds._fill(job)
        await self.builds._switch(job)

    async def live(self) -> None:
        """Go on where the notes end."""
        async with self.index() as index:
            for place, (what, name) in list(enumerate(LIFE))[len(self.done()) :]:
                self.note("begin", what, name)
                if what == "add":
                    await self.add(index, name, f"job{place}")
                elif what == "remove":
                    await index.remove_file(name)
                elif what == "build":
                    await self.switch(name)
                    assert index.live.build == name
                else:
                    await index.set_attributes(name, {"label": "x"})
                self.note("end", what, name)
                if index._compacting is not None:
                    await index._compacting

    def done(self) -> list[list[str]]:
        return [n for n in self.noted() if n[0] == "end"]

    async def check(self) -> None:
        """What was acknowledged is there, whole; what was removed is not; nothing else."""
        must: dict[str, bool] = {}
        for when, what, file_id in self.noted():
            if what in ("label", "build"):
                continue
            if when == "begin":
                must.pop(file_id, None)  # until it ends, either
            else:
                must[file_id] = what == "add"
        async with self.index() as index:
            await self._check(index, must)

    async def _check(self, index: StoreIndex, must: dict[str, bool]) -> None:
        async with self.db.read() as connection:
            rows = (await connection.execute(select(passages))).mappings().all()
        text = {r["number"]: (r["file_id"], r["ordinal"]) for r in rows}
        for file_id in FILES:
            there = [r for r in rows if r["file_id"] == file_id]
            assert len(there) in (0, PASSAGES), f"{file_id} is torn: {len(there)} passages"
            if file_id in must:
                assert bool(there) == must[file_id], f"{file_id} should be {must[file_id]}"
            for n in range(PASSAGES):
                query = f"{file_id} word{n}"
                found = find(index, index.live.build, query, vector(file_id, n), 50, None)
                live = [text[f.number] for f in found if f.number in text]
                assert ((file_id, n) in live) == bool(there), f"search of {file_id}/{n}"
                by_words = dict(index.words.search(query, 50))
                by_vectors = index.engine.search(vector(file_id, n), 50)[0].tolist()
                for row in there:
                    assert row["number"] in by_words, f"the words of {file_id} are lost"
                    assert row["number"] in by_vectors, f"the vectors of {file_id} are lost"
        vectors = set(index.engine.search(vector("f0", 0), 1000)[0].tolist())
        assert vectors == set(text), "vectors and passages differ"


def forked(work: Callable[[], Any]) -> int:
    """Run ``work`` in a fork; returns its exit status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        asyncio.run(work())
        os._exit(0)
    except BaseException as error:
        os.write(1, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        os._exit(1)


async def _die(folder: Path, point: int) -> None:
    life = Life(folder)
    Points(point).watch(life.db)
    await life.live()


def main(folder: Path, first: int = 1, every: int = 1) -> int:
    point = first - every
    while True:
        point += every
        here = folder / str(point)
        here.mkdir()
        life = Life(here)
        if forked(life.begin):
            return 1
        ended = forked(partial(_die, here, point))
        if ended not in (0, DIED):
            return 1
        # looked at, lived to its end, looked at again
        for work in (life.check, life.live, life.check):
            if forked(work):
                return 1
        if not ended:  # the life has fewer points than this
            print(json.dumps({"looked_at": (point - first) // every}), flush=True)
            return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
