"""A small client of the gateway's REST API, used by the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp


class ApiError(Exception):
    """The gateway refused a call; the message is the gateway's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status


class Client:
    """Speaks to one gateway with one API key; use as an async context manager."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url, self._api_key = base_url.rstrip("/") + "/", api_key
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            base_url=self._base_url,
            headers={"authorization": f"Bearer {self._api_key}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_read=600),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, json: Any = None, **query: str) -> Any:
        """Send one request and return the JSON of the reply.

        Raises:
            ApiError: the gateway answered with an error.
        """
        async with self._session.request(method, path, json=json, params=query) as reply:
            return await _body_of(reply)

    async def upload(self, path: Path, filename: str | None = None) -> str:
        """Upload one file for retrieval and return its id."""
        form = aiohttp.FormData(quote_fields=False)  # names stay as they are
        form.add_field("purpose", "assistants")
        with path.open("rb") as stream:
            form.add_field("file", stream, filename=filename or path.name)
            async with self._session.post("v1/files", data=form) as reply:
                return str((await _body_of(reply))["id"])

    async def download(self, path: str, out: Path, **query: str) -> int:
        """Write the body of a reply to a file as it comes; returns its size in bytes.

        Raises:
            ApiError: the gateway answered with an error, or broke the reply off.
        """
        size = 0
        async with self._session.get(path, params=query) as reply:
            if reply.status >= 400:
                await _body_of(reply)
            with out.open("wb") as file:
                async for chunk in reply.content.iter_chunked(1 << 20):
                    size += await asyncio.to_thread(file.write, chunk)
        return size

    async def find_store(self, name: str) -> str | None:
        """Return the id of the vector store called ``name``, None where there is none."""
        after: dict[str, str] = {}
        while True:
            page = await self.call("GET", "v1/vector_stores", limit="100", **after)
            for store in page["data"]:
                if store["name"] == name and store["status"] != "expired":
                    return str(store["id"])
            if not page["has_more"]:
                return None
            after = {"after": page["last_id"]}

    async def store_id(self, id_or_name: str) -> str | None:
        """The id itself (``vs_…``), or that of the store of this name; None where none is."""
        if id_or_name.startswith("vs_"):
            return id_or_name
        return await self.find_store(id_or_name)

    async def ensure_store(self, name: str) -> tuple[str, bool]:
        """Return the id of the vector store called ``name`` and whether it was made now."""
        found = await self.find_store(name)
        if found is not None:
            return found, False
        store = await self.call("POST", "v1/vector_stores", {"name": name})
        return str(store["id"]), True

    async def add_batch(
        self, store_id: str, file_ids: list[str], access: dict[str, list[str]] | None = None
    ) -> str:
        """Attach files to a store under an access list, if any; returns the batch id."""
        body = {"file_ids": file_ids, "ostiary": {"access": access}}
        batch = await self.call("POST", f"v1/vector_stores/{store_id}/file_batches", body)
        return str(batch["id"])

    async def wait_batch(
        self, store_id: str, batch_id: str, progress: Any = None
    ) -> dict[str, Any]:
        """Poll a batch until it is done; ``progress`` is called with its file counts."""
        while True:
            batch: dict[str, Any] = await self.call(
                "GET", f"v1/vector_stores/{store_id}/file_batches/{batch_id}"
            )
            if progress is not None:
                progress(batch["file_counts"])
            if batch["status"] != "in_progress":
                return batch
            await asyncio.sleep(0.5)

    async def ask(self, store_id: str, question: str, model: str) -> dict[str, Any]:
        """Ask one grounded question; returns the response object."""
        body: dict[str, Any] = await self.call(
            "POST",
            "v1/responses",
            {
                "model": model,
                "input": question,
                "tools": [{"type": "file_search", "vector_store_ids": [store_id]}],
                "include": ["file_search_call.results"],
            },
        )
        return body


async def _body_of(reply: aiohttp.ClientResponse) -> Any:
    try:
        body = await reply.json(content_type=None)
        if reply.status < 400:
            return body
        message = str(body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "The reply is not the gateway's; check the address, and the gateway's log."
    raise ApiError(reply.status, message)
