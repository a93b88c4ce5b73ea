"""Follows the pages of a web site, as its sitemap lists them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import IO

from yarl import URL

from app.retrieval.connectors.base import Item, ItemUnavailable, Part, SourceError
from app.retrieval.connectors.page_names import fits, page_name
from app.retrieval.connectors.robots import MOST_BYTES as ROBOTS_BYTES
from app.retrieval.connectors.robots import Robots
from app.retrieval.connectors.settings import SitemapSettings
from app.retrieval.connectors.sitemap_xml import Entry, Sitemap, parse_sitemap, unpacked
from app.retrieval.connectors.web import AGENT, AT_ONCE, CHUNK_BYTES, Page, Refused, Unanswered, Web
from app.retrieval.types import LONGEST_ATTRIBUTE, AttributeValue

MOST_SITEMAP_BYTES = 50 * 2**20  # unpacked, as sitemaps.org says
MOST_SITEMAPS = 5_000
DEEPEST = 2  # indexes above a sitemap
MOST_HASHED_BYTES = 64 * 2**20  # of a page without a date or tag: as HTML is read
UNKNOWN = "unknown"  # the fingerprint of a page that could not be asked for one
_GONE = (404, 410)


class SitemapSource:
    """Pages by their address. Only listed hosts are asked, and what robots.txt allows."""

    def __init__(self, settings: SitemapSettings) -> None:
        self._settings = settings
        self._url = URL(settings.url).with_fragment(None)
        self._web = Web(settings)

    async def items(self, part: Part) -> AsyncIterator[Item]:
        """Every page of the part that lies on a listed host and that robots.txt allows.

        Raises:
            SourceError: a sitemap cannot be read, or they list more pages than ``max_pages``.
        """
        batch: list[tuple[URL, str]] = []
        async for page in self._pages(part):
            batch.append(page)
            if len(batch) == AT_ONCE:
                for item in await self._described(batch):
                    yield item
                batch = []
        for item in await self._described(batch):
            yield item

    async def _pages(self, part: Part) -> AsyncIterator[tuple[URL, str]]:
        """Addresses with their date of change, each once."""
        seen: set[str] = set()
        robots: dict[URL, Robots] = {}
        async for entry in self._entries():
            url = self._page(entry.address)
            if url is None or str(url) in seen or not part.holds(str(url)):
                continue
            if url.origin() not in robots:
                robots[url.origin()] = await self._robots(url)
            if not robots[url.origin()].allow(url.raw_path_qs):
                continue
            seen.add(str(url))
            if len(seen) > self._settings.max_pages:
                raise SourceError(
                    f"The sitemap lists more than {self._settings.max_pages} pages of this part. "
                    "Raise `max_pages`, or follow a smaller part."
                )
            yield url, entry.changed

    def _page(self, address: str) -> URL | None:
        """The address of a page; None: it is none that may be asked for."""
        try:
            url = URL(address).with_fragment(None)
            self._web.admit(url)
        except (ValueError, Refused):
            return None
        return url

    async def _entries(self) -> AsyncIterator[Entry]:
        """The pages of the sitemap and of those that it is an index of."""
        waiting, seen, found = [(self._url, 0)], {self._url}, False
        while waiting:
            url, depth = waiting.pop()
            sitemap = await self._sitemap(url)
            if not sitemap.is_index:
                for entry in sitemap.entries:
                    found = True
                    yield entry
                continue
            if depth == DEEPEST:
                raise SourceError(f"The sitemap has more than {DEEPEST} indexes above each other.")
            for entry in sitemap.entries:
                inner = _address(entry.address)
                if inner not in seen:
                    seen.add(inner)
                    waiting.append((inner, depth + 1))
            if len(seen) > MOST_SITEMAPS:
                raise SourceError(f"The index lists more than {MOST_SITEMAPS} sitemaps.")
        if not found:  # as when a site fails to fill it
            raise SourceError("The sitemap lists no page at all. Check what the server gives.")

    async def _sitemap(self, url: URL) -> Sitemap:
        page = await self._read(url, "The sitemap, or one of its index", MOST_SITEMAP_BYTES)
        if page.status != 200:
            raise SourceError(
                f"The sitemap, or one of its index, answers with status {page.status}. Correct "
                "`url`, or give what the server asks for in `headers`."
            )
        try:
            return await asyncio.to_thread(_parsed, page.body)
        except ValueError as error:
            raise SourceError(
                f"The sitemap, or one of its index, cannot be read: {error}. Check what the "
                "server gives at this address."
            ) from error

    async def _robots(self, url: URL) -> Robots:
        """The rules of a page's site; without a robots.txt everything is allowed.

        A server that fails to give it may forbid everything (RFC 9309, 2.3.1.4); the pages are
        not taken for deleted then.
        """
        page = await self._read(url.origin() / "robots.txt", "The robots.txt", ROBOTS_BYTES)
        if page.status >= 500 or page.status == 429:
            raise SourceError(
                f"The robots.txt of the site answers with status {page.status}, which forbids to "
                "read its pages now."
            )
        text = page.body.decode("utf-8", "replace") if page.status == 200 else ""
        return Robots(text.removeprefix("\ufeff"), AGENT)

    async def _read(self, url: URL, what: str, max_bytes: int) -> Page:
        try:
            return await self._web.read(url, max_bytes)
        except (Refused, Unanswered) as error:
            raise SourceError(f"{what} cannot be read. {error}") from error

    async def _described(self, batch: list[tuple[URL, str]]) -> list[Item]:
        found = await asyncio.gather(*(self._item(url, changed) for url, changed in batch))
        return [item for item in found if item is not None]

    async def _item(self, url: URL, changed: str) -> Item | None:
        """A page as it is listed; None: it is gone, though the sitemap still lists it."""
        if changed:
            return _item(url, f"changed {changed}", page_name(url))
        try:
            return await self._asked(url)
        except (Refused, Unanswered):  # it is there as far as one knows; `fetch` says what it is
            return _item(url, UNKNOWN, page_name(url))

    async def _asked(self, url: URL) -> Item | None:
        async with self._web.asked("HEAD", url) as reply:
            mark = _mark(reply.headers) if reply.status == 200 else None
            if mark is not None:
                return _item(url, mark, page_name(url, reply.content_type))
        async with self._web.asked("GET", url) as reply:
            if reply.status in _GONE:
                return None
            name, digest, size = page_name(url, reply.content_type), hashlib.sha256(), 0
            if reply.status != 200:
                return _item(url, UNKNOWN, page_name(url))
            async for chunk in reply.content.iter_chunked(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                if size > MOST_HASHED_BYTES:
                    return _item(url, UNKNOWN, name)
            return _item(url, f"bytes {digest.hexdigest()}", name)

    async def fetch(self, item: Item, into: IO[bytes], max_bytes: int) -> None:
        """Write a page's bytes.

        Raises:
            ItemUnavailable: it is gone, too large, of another format than its name says, not
                answered in time, or refused by the rules of the source.
            SourceError: the server of the site cannot be reached.
        """
        try:
            url = URL(item.key)
        except ValueError as error:
            raise ItemUnavailable("The key of this document is no address.") from error
        try:
            await self._copy(item, url, into, max_bytes)
        except Refused as error:
            raise ItemUnavailable(f"The page may not be read. {error}") from error
        except Unanswered as error:
            if not error.connected and url.host == self._url.host:
                raise SourceError(str(error)) from error
            raise ItemUnavailable(str(error)) from error

    async def _copy(self, item: Item, url: URL, into: IO[bytes], max_bytes: int) -> None:
        async with self._web.asked("GET", url) as reply:
            if reply.status in _GONE:
                raise ItemUnavailable("The page is gone.")
            if reply.status != 200:
                raise ItemUnavailable(f"The page answers with status {reply.status}.")
            if not fits(item.filename, reply.content_type):
                raise ItemUnavailable(
                    f"The page is of type {reply.content_type}, which its name does not say. "
                    "Exclude it, or see whether the site asks to sign in."
                )
            size = reply.content_length or 0
            if size <= max_bytes:
                size = 0
                async for chunk in reply.content.iter_chunked(CHUNK_BYTES):
                    size += len(chunk)
                    if size > max_bytes:
                        break
                    into.write(chunk)
            if size > max_bytes:
                raise ItemUnavailable(f"The page has more than {max_bytes} bytes.")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._web.aclose()


def _item(url: URL, mark: str, name: str) -> Item:
    key = str(url)
    attributes: dict[str, AttributeValue] = {"url": key} if len(key) <= LONGEST_ATTRIBUTE else {}
    return Item(key, mark, name, attributes)


def _mark(headers: Mapping[str, str]) -> str | None:
    """What a server says a page is known by: its tag, else when it was changed."""
    if tag := headers.get("ETag"):
        return f"tag {tag}"
    if changed := headers.get("Last-Modified"):
        return f"changed {changed}"
    return None


def _address(text: str) -> URL:
    try:
        return URL(text).with_fragment(None)
    except ValueError as error:
        raise SourceError("The index of sitemaps lists what is no address.") from error


def _parsed(body: bytes) -> Sitemap:
    return parse_sitemap(unpacked(body, MOST_SITEMAP_BYTES))
