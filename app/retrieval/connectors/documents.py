"""Brings single documents of a connector into its vector store, and takes them out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, update

from app.errors import BadRequest, NotFound, OstiaryError, TooLarge
from app.gateway.call import Call
from app.ids import new_id
from app.retrieval.access import access_list
from app.retrieval.collections import VectorStores
from app.retrieval.connectors.base import ItemUnavailable, Source
from app.retrieval.connectors.connector import Connector, KnownItem
from app.retrieval.files import FileService
from app.retrieval.index import StoreIndex
from app.retrieval.ingestion import Ingestion
from app.retrieval.store_files import StoreFile, StoreFiles
from app.store.db import Database
from app.store.models import connector_items, connectors

log = logging.getLogger("ostiary.connectors")
IN_MEMORY_BYTES = 4 * 2**20  # of a document on its way; larger ones go over the disk
# Nothing is wrong with the source, the store or the gateway then, only with the document.
OF_THE_DOCUMENT = (ItemUnavailable, TooLarge, BadRequest)


class Documents:
    """One document at a time; each may be cut anywhere and done again.

    The id of a new file is noted before its bytes are stored, and the file that it replaces
    leaves the store in the transaction that makes it searchable. So a crash leaves at most a
    noted file, with which the next attempt goes on.
    """

    def __init__(
        self,
        db: Database,
        files: FileService,
        stores: VectorStores,
        attached: StoreFiles,
        ingestion: Ingestion,
        scratch: Path,
    ) -> None:
        self._db, self._files, self._stores = db, files, stores
        self._attached, self._ingestion, self._scratch = attached, ingestion, scratch

    # -- bringing in --------------------------------------------------------------------

    async def bring(
        self, call: Call, connector: Connector, source: Source, known: KnownItem
    ) -> None:
        """Fetch, store and index a new or changed document; a broken one is noted as failed.

        Raises:
            SourceError: nothing of the source can be read now.
            OstiaryError: the vector store or the gateway cannot take documents now.
        """
        try:
            await self._bring(call, connector, source, known)
        except OF_THE_DOCUMENT as error:
            await self._fail(call, connector, known, error.code, error.message)
        except NotFound:
            await self._stores.get(connector.tenant_id, connector.vector_store_id)
            await self._fail_for_now(call, connector, known)  # its file was deleted meanwhile
        except OstiaryError:
            raise
        except Exception:
            log.exception("document %s of connector %s failed", known.id, connector.id)
            await self._fail_for_now(call, connector, known)

    async def _bring(
        self, call: Call, connector: Connector, source: Source, known: KnownItem
    ) -> None:
        known = await self._settled(call, connector, known)
        if known.status == "completed":
            return
        if known.next_file_id is None:
            known = await self._noted(
                known, next_file_id=new_id("file-"), next_fingerprint=known.fingerprint
            )
        file_id = str(known.next_file_id)
        await self._store(call, connector, source, known, file_id)
        entry = await self._attach(call, connector, known, file_id)
        if entry.status == "in_progress":
            # Within this job and not as one of its own: a connector of many documents must not
            # fill the line in which the uploads of people wait.
            await self._ingestion.ingest(connector.tenant_id, call.principal.subject, entry)
            entry = await self._entry(connector, file_id) or entry
        if entry.status == "completed":
            await self._settled(call, connector, known)
            return
        error = entry.last_error or {"code": "cancelled", "message": "It was not indexed."}
        await self._fail(call, connector, known, error["code"], error["message"])

    async def _settled(self, call: Call, connector: Connector, known: KnownItem) -> KnownItem:
        """End a change that has become searchable; drop one whose document has changed again."""
        if known.next_file_id is None:
            return known
        entry = await self._entry(connector, known.next_file_id)
        same = known.next_fingerprint == known.fingerprint
        if entry is not None and entry.status == "completed":
            await self._ingestion.clear(entry)  # a crash may have kept its last step from that
            if known.file_id is not None:
                await self.drop(call, known.file_id)
            done: dict[str, Any] = {"file_id": known.next_file_id}
            if same:
                outcome = "added" if known.file_id is None else "changed"
                done |= {"status": "completed", "error": None}
                done |= {"outcome": outcome, "done_in": known.listing}
            return await self._noted(known, **done, next_file_id=None, next_fingerprint=None)
        if same:
            return known
        await self._drop_next(call, connector, known.next_file_id)
        return await self._noted(known, next_file_id=None, next_fingerprint=None)

    async def _store(
        self, call: Call, connector: Connector, source: Source, known: KnownItem, file_id: str
    ) -> None:
        with contextlib.suppress(NotFound):
            await self._files.row(connector.tenant_id, file_id)
            return  # stored before a crash
        await asyncio.to_thread(self._scratch.mkdir, parents=True, exist_ok=True)
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES, dir=str(self._scratch)) as body:
            await source.fetch(known.item, body, self._files.max_bytes)
            await self._files.upload(
                call,
                known.filename,
                "assistants",
                body,
                file_id=file_id,
                owner=connector.owner,
            )

    async def _attach(
        self, call: Call, connector: Connector, known: KnownItem, file_id: str
    ) -> StoreFile:
        entry = await self._entry(connector, file_id)
        if entry is None:
            await self._attached.attach(
                call,
                connector.vector_store_id,
                [file_id],
                connector.labels(known.key, known.attributes),
                connector.chunking,
                access=connector.readers(access_list(known.access)),
                replaces=known.file_id,
            )
            entry = await self._attached.entry(
                connector.tenant_id, connector.vector_store_id, file_id
            )
        return entry

    async def _entry(self, connector: Connector, file_id: str) -> StoreFile | None:
        """An attached file; None where it is not attached. Raises NotFound without the store."""
        await self._stores.get(connector.tenant_id, connector.vector_store_id)
        with contextlib.suppress(NotFound):
            return await self._attached.entry(
                connector.tenant_id, connector.vector_store_id, file_id
            )
        return None

    # -- what goes wrong ----------------------------------------------------------------

    async def _fail_for_now(self, call: Call, connector: Connector, known: KnownItem) -> None:
        await self._fail(
            call,
            connector,
            known,
            ItemUnavailable.code,
            "The document could not be stored. The next sync tries it again; if it keeps "
            "failing, the operator's log says why.",
        )

    async def _fail(
        self, call: Call, connector: Connector, known: KnownItem, code: str, message: str
    ) -> None:
        """Note why a document is not there as it is now; what was there before stays."""
        row = await self._db.one_or_none(
            connector_items.select().where(connector_items.c.id == known.id)
        )
        if row is not None and row["next_file_id"] is not None:
            await self._drop_next(call, connector, row["next_file_id"])
        error = {"code": code, "message": message}
        await self._noted(
            known, status="failed", error=error, next_file_id=None, next_fingerprint=None
        )

    async def _noted(self, known: KnownItem, **values: Any) -> KnownItem:
        async with self._db.write() as connection:
            await connection.execute(
                update(connector_items).where(connector_items.c.id == known.id).values(**values)
            )
        return replace(known, **values)

    # -- labels and removal -------------------------------------------------------------

    async def relabel(
        self, call: Call, connector: Connector, index: StoreIndex, known: KnownItem
    ) -> None:
        """Give a document's files the access list and attributes that it is listed with."""
        access = connector.readers(access_list(known.access))
        stored = None if access is None else access.stored()
        labels = connector.labels(known.key, known.attributes)
        for file_id in (known.file_id, known.next_file_id):
            entry = None if file_id is None else await self._entry(connector, file_id)
            if entry is None:
                continue
            if entry.access != stored:
                await index.set_access(call.principal, entry.file_id, access)
            if entry.attributes != labels:
                await index.set_attributes(entry.file_id, labels)
        await self._noted(known, relabel=False)

    async def remove(self, call: Call, connector: Connector, known: KnownItem) -> None:
        """Delete a document that the source no longer has, and count it."""
        await self._delete_files(call, connector, known)
        async with self._db.write() as connection:
            gone = await connection.execute(
                delete(connector_items).where(connector_items.c.id == known.id)
            )
            if gone.rowcount and known.file_id is not None:
                await connection.execute(
                    update(connectors)
                    .where(connectors.c.id == connector.id)
                    .values(removed=connectors.c.removed + 1)
                )

    async def leave(self, call: Call, connector: Connector, known: KnownItem) -> None:
        """Delete a document of a deleted connector, or leave it as a file of its owner."""
        await self._delete_files(call, connector, known, keep=connector.keep_documents)
        async with self._db.write() as connection:
            await connection.execute(
                delete(connector_items).where(connector_items.c.id == known.id)
            )

    async def _delete_files(
        self, call: Call, connector: Connector, known: KnownItem, keep: bool = False
    ) -> None:
        known = await self._settled(call, connector, known)
        if known.next_file_id is not None:
            await self._drop_next(call, connector, known.next_file_id)
        if known.file_id is not None and not keep:
            await self.drop(call, known.file_id)

    async def _drop_next(self, call: Call, connector: Connector, file_id: str) -> None:
        """Delete a file that is not searchable yet, with what was prepared of it."""
        entry = await self._entry(connector, file_id)
        if entry is not None:
            await self._ingestion.clear(entry)
        await self.drop(call, file_id)

    async def drop(self, call: Call, file_id: str) -> None:
        """Delete a file with its bytes, wherever it is; one that is not there is fine."""
        with contextlib.suppress(NotFound):
            await self._attached.delete_file(call, file_id)
        # also the bytes of a file whose row a crash kept from being written: they lie under its id
        await self._files.erase(file_id, file_id)
