"""The body of a request: read once while it is fingerprinted, then given again."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import IO, Any

from app.errors import BadRequest

SPOOL_BYTES = 4 * 2**20
CHUNK_BYTES = 256 * 1024
BOUNDARY = re.compile(rb'^multipart/[^;]+;.*boundary="?([^";,]{1,70})"?', re.I)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


async def spool_body(spool: IO[bytes], scope: MutableMapping[str, Any], receive: Receive) -> str:
    """Read the body into ``spool``; return the fingerprint of the request.

    Raises:
        BadRequest: the client went away before the end of its body.
    """
    digest = hashlib.sha256(f"{scope['method']} {scope['path']}?".encode())
    digest.update(scope.get("query_string", b"") + b"\n")
    mark = _boundary(scope)
    carry, size, more = b"", 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest(
                "The connection was closed before the end of the body. Send it again.",
                code="client_closed",
            )
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= SPOOL_BYTES:
            spool.write(chunk)
        else:  # on disk from here on
            await asyncio.to_thread(spool.write, chunk)
        if mark:
            *whole, last = (carry + chunk).split(mark)
            for part in whole:
                digest.update(part + b"\0")  # where a boundary was
            keep = min(len(mark) - 1, len(last)) if more else 0  # may begin the next mark
            carry = last[len(last) - keep :]
            digest.update(last[: len(last) - keep])
        else:
            digest.update(chunk)
    spool.seek(0)
    return digest.hexdigest()


def _boundary(scope: MutableMapping[str, Any]) -> bytes:
    """The boundary of a multipart body, which clients draw anew for each try, or b''."""
    for name, value in scope.get("headers", ()):
        if name == b"content-type":
            match = BOUNDARY.match(value)
            return match[1].strip() if match else b""
    return b""


def give_again(spool: IO[bytes], receive: Receive) -> Receive:
    """Give the body from ``spool``, then whatever the server says (a disconnect)."""
    ended = False

    async def read() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        chunk = spool.read(CHUNK_BYTES)
        ended = len(chunk) < CHUNK_BYTES
        return {"type": "http.request", "body": chunk, "more_body": not ended}

    return read
