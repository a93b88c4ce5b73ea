"""Follows the objects of an S3-compatible bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import IO, Any

import aiohttp

from app.errors import MissingExtra
from app.retrieval.access import AccessList
from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.readers import access_from
from app.retrieval.connectors.settings import S3Settings

CHUNK_BYTES = 1 << 20
PAGE = 1000  # objects of one reply
AT_ONCE = 32  # objects whose metadata is asked for
USERS, GROUPS = "ostiary-users", "ostiary-groups"
_LIMITS = {
    "connect_timeout": 10,  # seconds
    "read_timeout": 60,
    "retries": {"mode": "standard", "max_attempts": 3},
}


class S3Source:
    """Objects by their key below the prefix of the source's URL."""

    def __init__(self, settings: S3Settings) -> None:
        try:
            from botocore.exceptions import BotoCoreError
            from s3fs import S3FileSystem
        except ImportError as error:
            raise MissingExtra("The S3 client, s3fs,", "s3") from error
        bucket, _, prefix = settings.url.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._with_access = settings.permissions == "metadata"
        self._failures = (OSError, BotoCoreError, aiohttp.ClientError, ValueError)
        self._store = S3FileSystem(
            anon=settings.anonymous,
            key=settings.key,
            secret=settings.secret.get_secret_value() if settings.secret else None,
            endpoint_url=settings.endpoint_url,
            client_kwargs={"region_name": settings.region} if settings.region else {},
            config_kwargs=_LIMITS,
            asynchronous=True,
            skip_instance_cache=True,  # which would keep the secret
        )

    async def items(self, part: Part) -> AsyncIterator[Item]:
        """Every object of the part; with its metadata where that says who may see it.

        Raises:
            SourceError: the bucket is missing, or may not be listed or read.
        """
        token: str | None = None
        while True:
            page = await self._page(part, token)
            found = [o for o in page.get("Contents", ()) if self._belongs(o["Key"], part)]
            for start in range(0, len(found), AT_ONCE):
                for item in await self._described(found[start : start + AT_ONCE]):
                    yield item
            if not page.get("IsTruncated"):
                return
            before, token = token, page.get("NextContinuationToken")
            if not token or token == before:
                raise SourceError(
                    "The bucket of this source breaks its list off. Check whether the store at "
                    "`endpoint_url` pages through with ListObjectsV2."
                )

    async def _page(self, part: Part, token: str | None) -> Mapping[str, Any]:
        more = {} if token is None else {"ContinuationToken": token}
        prefix = self._prefix + part.path
        try:
            page: Mapping[str, Any] = await self._store._call_s3(
                "list_objects_v2", Bucket=self._bucket, Prefix=prefix, MaxKeys=PAGE, **more
            )
        except self._failures as error:
            raise _unreadable(error) from error
        return page

    def _belongs(self, name: str, part: Part) -> bool:
        """Names that end with ``/`` stand for folders in consoles."""
        key = name.removeprefix(self._prefix)
        return bool(key) and not key.endswith("/") and part.holds(key)

    async def _described(self, objects: Sequence[Mapping[str, Any]]) -> list[Item]:
        if not self._with_access:
            return [self._item(each, None) for each in objects]
        lists = await asyncio.gather(*(self._head(each["Key"]) for each in objects))
        pairs = zip(objects, lists, strict=True)
        return [self._item(each, access) for each, access in pairs if access is not None]

    async def _head(self, name: str) -> AccessList | None:
        """The access list in an object's metadata; None: the object is gone by now."""
        try:
            head = await self._store._call_s3("head_object", Bucket=self._bucket, Key=name)
        except FileNotFoundError:
            return None
        except self._failures as error:
            raise _unreadable(error) from error
        return _access(head)

    def _item(self, found: Mapping[str, Any], access: AccessList | None) -> Item:
        tag = found.get("ETag") or str(found.get("LastModified"))
        key = found["Key"].removeprefix(self._prefix)
        mark = f"{tag.strip(chr(34))}-{found.get('Size', 0)}"
        return Item(key, mark, PurePosixPath(key).name, access=access)

    async def fetch(self, item: Item, into: IO[bytes], max_bytes: int) -> None:
        """Write an object's bytes.

        Raises:
            ItemUnavailable: it is gone, too large, or has other permissions by now.
            SourceError: the bucket is missing, or the store cannot be reached.
        """
        try:
            found = await self._store._call_s3(
                "get_object", Bucket=self._bucket, Key=self._prefix + item.key
            )
        except self._failures as error:
            raise _unread(item, error) from error
        async with found["Body"] as body:
            if self._with_access and _access(found) != item.access:
                raise ItemUnavailable(f"'{item.key}' has other permissions by now.")
            size = int(found.get("ContentLength", 0))
            if size <= max_bytes:
                size = 0
                while chunk := await self._read(item, body):
                    size += len(chunk)
                    if size > max_bytes:
                        break
                    await asyncio.to_thread(into.write, chunk)
            if size > max_bytes:
                raise ItemUnavailable(f"'{item.key}' has more than {max_bytes} bytes.")

    async def _read(self, item: Item, body: Any) -> bytes:
        try:
            return bytes(await body.read(CHUNK_BYTES))
        except self._failures as error:
            raise ItemUnavailable(
                f"'{item.key}' broke off while it was read; the next run reads it again."
            ) from error

    async def aclose(self) -> None:
        """Close the connections to the store."""
        with suppress(*self._failures):
            if self._store._s3 is not None:
                await self._store._s3.close()


def _access(described: Mapping[str, Any]) -> AccessList:
    """The list in an object's metadata; without any, nobody sees the object."""
    metadata = {name.lower(): value for name, value in described.get("Metadata", {}).items()}
    return access_from(metadata.get(USERS), metadata.get(GROUPS), encoded=True)


def _code(error: BaseException) -> str:
    """The code that the store gave, as ``NoSuchKey``; empty: it gave none."""
    reply = getattr(error.__cause__, "response", None) or {}
    return str(reply.get("Error", {}).get("Code", ""))


def _unreadable(error: Exception) -> SourceError:
    """Why nothing can be read; the store's own words may name hosts and keys."""
    if isinstance(error, FileNotFoundError):
        return SourceError("The bucket of this source does not exist. Correct `url`.")
    if isinstance(error, PermissionError):
        return SourceError(
            "The store refuses these credentials. They need s3:ListBucket on the bucket and "
            "s3:GetObject on its objects."
        )
    code = _code(error)
    return SourceError(
        "The store of this source cannot be read now. Check `endpoint_url`, `region` and the "
        f"credentials ({code or type(error).__name__})."
    )


def _unread(item: Item, error: Exception) -> ItemUnavailable | SourceError:
    """Why an object cannot be read: it alone, or all of them."""
    code = _code(error)
    if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
        return ItemUnavailable(f"'{item.key}' is gone.")
    if code == "InvalidObjectState":
        return ItemUnavailable(f"'{item.key}' lies in an archive. Restore it, or exclude it.")
    if code == "AccessDenied":
        return ItemUnavailable(f"'{item.key}' may not be read. It needs s3:GetObject.")
    return _unreadable(error)
