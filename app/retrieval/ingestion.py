"""The durable job that turns an uploaded file into searchable passages."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.errors import NotFound, OstiaryError
from app.gateway.call import Call, Principal
from app.pools import Pool
from app.retrieval.chunking import chunk
from app.retrieval.collections import VectorStores
from app.retrieval.embedding import Embedder
from app.retrieval.files import FileService
from app.retrieval.index import BuildChanged
from app.retrieval.parsing import DocumentError, parse
from app.retrieval.store_files import StoreFile, StoreFiles
from app.retrieval.types import NewPassage, embedded_text
from app.store.jobs import FINAL, Job, Jobs

log = logging.getLogger("ostiary.ingestion")
KIND = "ingest_file"
BATCH = 256  # passages given to the embedder at a time, whose queue is bounded

Govern = Callable[[str, str, Principal], AbstractAsyncContextManager[Call]]


class Ingestion:
    """Two steps: read and cut the document; embed it and make it searchable."""

    def __init__(
        self,
        jobs: Jobs,
        files: FileService,
        stores: VectorStores,
        attached: StoreFiles,
        pool: Pool,
        scratch: Path,
    ) -> None:
        self._jobs, self._files, self._stores, self._pool = jobs, files, stores, pool
        self._attached = attached
        self._scratch = scratch
        self.govern: Govern | None = None  # set once by the wiring, before any job runs
        steps = [("prepare", self._prepare), ("index", self._index)]
        jobs.register(KIND, steps, self._ended)

    async def begin(self, call: Call, store_id: str, job_of: Mapping[str, str]) -> None:
        """Start one job a file, under the ids that attaching gave; a broken file fails alone."""
        for file_id, job_id in job_of.items():
            await self._submit(call.tenant_id, call.principal.subject, store_id, file_id, job_id)

    async def _submit(
        self, tenant_id: str, subject: str, store_id: str, file_id: str, job_id: str
    ) -> None:
        args = {"store_id": store_id, "file_id": file_id, "subject": subject}
        await self._jobs.submit(tenant_id, KIND, args, job_id)

    async def ingest(self, tenant_id: str, subject: str, entry: StoreFile) -> None:
        """Do at once, within another job, what the job of an attached file would do.

        The same file again goes on where it was cut, as the steps of its own job would.
        """
        assert entry.job_id is not None
        args = {"store_id": entry.vector_store_id, "file_id": entry.file_id, "subject": subject}
        job = Job(entry.job_id, tenant_id, KIND, args)
        await self._prepare(job)
        await self._index(job)

    async def clear(self, entry: StoreFile) -> None:
        """Remove what was prepared of a file that needs no ingestion any more."""
        await asyncio.to_thread(self._files.blobs.delete, _work_key(entry.job_id))

    async def resume(self) -> None:
        """Finish what a crash left undone: jobs never begun, ends never told, bytes to remove."""
        unfinished = await self._attached.unfinished()
        status = await self._jobs.statuses([u.job_id for u in unfinished])
        for tenant_id, store_id, file_id, job_id in unfinished:
            now = status.get(job_id)
            if now is None:
                await self._submit(tenant_id, "system:resume", store_id, file_id, job_id)
            elif now in FINAL:
                args = {"store_id": store_id, "file_id": file_id}
                await self._ended(
                    Job(job_id, tenant_id, KIND, args), now, "The job was broken off."
                )
        await self._files.sweep()
        await self._stores.sweep()

    async def _ended(self, job: Job, status: str, message: str) -> None:
        """A job that is over without an outcome for its file: tell the file's owner."""
        store_id, file_id = job.args["store_id"], job.args["file_id"]
        if status == "cancelled":
            await self._attached.cancel_file(store_id, file_id, job.id)
        else:
            await self._attached.fail(store_id, file_id, job.id, "server_error", message)
        await asyncio.to_thread(self._files.blobs.delete, _work_key(job.id))

    async def _prepare(self, job: Job) -> None:
        store_id, file_id = job.args["store_id"], job.args["file_id"]
        async with governed(self.govern, job, "prepare") as call:
            call.lineage.update(job=job.id, file=file_id)
            try:
                entry = await self._attached.entry(job.tenant_id, store_id, file_id)
                file = await self._files.row(job.tenant_id, file_id)
            except NotFound:
                return  # detached or deleted meanwhile
            if not entry.waits_for(job.id):
                return
            limits = entry.chunking
            try:
                store = await self._stores.get(job.tenant_id, store_id)
                chunks = await self._pool.run(
                    self._cut,
                    self._stores.embedder_of(store),
                    file.blob,
                    file.filename,
                    int(limits.get("max_tokens", 256)),
                    int(limits.get("overlap_tokens", 32)),
                )
            except DocumentError as error:
                code = "unsupported_file" if error.code == "unsupported_file" else "invalid_file"
                await self._attached.fail(store_id, file_id, job.id, code, error.message)
                call.error_code = error.code
                return
            except OstiaryError as error:
                await self._attached.fail(store_id, file_id, job.id, "invalid_file", error.message)
                call.error_code = error.code
                return
            except Exception:
                log.exception("file %s could not be read", file_id)
                await self._attached.fail(
                    store_id,
                    file_id,
                    job.id,
                    "server_error",
                    "The file could not be read. Check that it opens elsewhere, or convert it "
                    "to PDF, Markdown or text.",
                )
                call.error_code = "server_error"
                return
            body = io.BytesIO(orjson.dumps(chunks))
            await asyncio.to_thread(self._files.blobs.put, _work_key(job.id), body)

    def _cut(
        self,
        embedder: Embedder,
        blob: str,
        filename: str,
        max_tokens: int,
        overlap_tokens: int,
    ) -> list[dict[str, Any]]:
        with self._files.blobs.local_copy(blob, self._scratch) as path:
            blocks = parse(path, filename)
        # the embedder reads no more than its own length of a passage
        most = min(max_tokens, embedder.max_tokens)
        chunks = chunk(blocks, most, min(overlap_tokens, most // 2), embedder.count_tokens)
        return [
            {"text": c.text, "page": c.page, "section": c.section, "ordinal": c.ordinal}
            for c in chunks
        ]

    async def _index(self, job: Job) -> None:
        store_id, file_id = job.args["store_id"], job.args["file_id"]
        async with governed(self.govern, job, "index") as call:
            call.lineage.update(job=job.id, file=file_id)
            try:
                entry = await self._attached.entry(job.tenant_id, store_id, file_id)
            except NotFound:
                entry = None
            if entry is None or not entry.waits_for(job.id):
                await asyncio.to_thread(self._files.blobs.delete, _work_key(job.id))
                return
            chunks = orjson.loads(await asyncio.to_thread(self._read_work, job))
            with contextlib.suppress(NotFound):  # the store was deleted meanwhile
                while not await self._added(call, job, chunks):
                    log.info("the index of %s was switched; %s is embedded anew", store_id, file_id)
            await asyncio.to_thread(self._files.blobs.delete, _work_key(job.id))

    async def _added(self, call: Call, job: Job, chunks: list[dict[str, Any]]) -> bool:
        """Embed a file and make it searchable; False when another build is searched by then."""
        store_id = job.args["store_id"]
        store = await self._stores.get(job.tenant_id, store_id)
        embedder = self._stores.embedder_of(store)
        new = [_new_passage(store_id, job.id, c, embedder.count_tokens(c["text"])) for c in chunks]
        vectors = await embedded(embedder, [embedded_text(p.section, p.text) for p in new])
        call.model = store.embedding_model
        call.usage.embedding_tokens += sum(p.tokens for p in new)
        size = sum(len(p.text.encode()) for p in new)
        async with self._stores.using(store) as index:
            try:
                await index.add(job.args["file_id"], job.id, new, vectors, size, store.build)
            except BuildChanged:
                await index.load()
                return False
            call.versions[f"index:{store_id}"] = str(index.version)
        return True

    def _read_work(self, job: Job) -> bytes:
        with self._files.blobs.open(_work_key(job.id)) as stream:
            return stream.read()


def governed(govern: Govern | None, job: Job, step: str) -> AbstractAsyncContextManager[Call]:
    """A step of a job as a governed call of whoever began the job."""
    assert govern is not None
    principal = Principal(job.tenant_id, job.args["subject"], None, frozenset())
    return govern("job", f"job:{job.kind}/{step}", principal)


async def embedded(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed any number of passages: float32 array of shape (len(texts), dim), unit norm."""
    parts = [
        await embedder.embed_passages(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)
    ]
    return np.concatenate(parts) if parts else np.empty((0, embedder.dim), np.float32)


def _work_key(job_id: str | None) -> str:
    return f"work-{job_id}"


def _new_passage(store_id: str, job_id: str, piece: dict[str, Any], tokens: int) -> NewPassage:
    """The same attachment gives the same ids again, so that a repeated step changes nothing.

    Another attachment of the same file gives others: a number never comes back to life.
    """
    digest = hashlib.sha256(f"{store_id}/{job_id}/{piece['ordinal']}".encode()).digest()
    return NewPassage(
        int.from_bytes(digest[:8], "big") >> 1,
        f"psg_{digest.hex()[:40]}",
        piece["ordinal"],
        piece["text"],
        piece["page"],
        piece["section"],
        tokens,
    )
