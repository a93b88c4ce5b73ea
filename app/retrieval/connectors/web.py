"""Reads web pages of listed hosts: every address, port and redirect is checked first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import ClientResponse, ClientSession
from yarl import URL

from app.addresses import AddressRefused, checked_session, may_ask
from app.retrieval.connectors.settings import SitemapSettings

AGENT = "ostiary"
AT_ONCE = 4  # requests
MOST_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
_LIMITS = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=30)  # seconds
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = frozenset({80, 443})


class Refused(Exception):
    """The rules of the source forbid to ask for this; the text says why and what to do."""


class Unanswered(Exception):
    """The server does not answer, or breaks off. ``connected``: whether it could be reached."""

    def __init__(self, why: str, *, connected: bool) -> None:
        super().__init__(why)
        self.connected = connected


@dataclass(frozen=True, slots=True)
class Page:
    """The whole reply of a server."""

    status: int
    body: bytes


class Web:
    """The hosts that a source may ask, and nothing else."""

    def __init__(self, settings: SitemapSettings) -> None:
        home = URL(settings.url)
        self._hosts = frozenset(map(_plain, settings.hosts or [home.raw_host or ""]))
        self._ports = _PORTS if home.explicit_port is None else frozenset({home.explicit_port})
        self._private = settings.private
        self._headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
        self._plain_text = home.scheme == "http"
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._session: ClientSession | None = None

    def admit(self, url: URL) -> None:
        """Raises Refused for what may not be asked."""
        if url.scheme not in ("http", "https") or url.user is not None or url.password is not None:
            raise Refused("It is no address of http or https, or holds a password.")
        if _plain(url.raw_host or "") not in self._hosts:
            raise Refused("It lies on a host that is not in `hosts`. Add the host, if it is meant.")
        if url.port not in self._ports:
            raise Refused("It lies on a port other than that of `url`.")
        if not may_ask(url.host or "", private=self._private):
            raise Refused(_INSIDE)

    @asynccontextmanager
    async def asked(self, method: str, url: URL) -> AsyncIterator[ClientResponse]:
        """The reply after redirects, of any status; its body is not read yet.

        Raises:
            Refused: the address, or one that it leads to, may not be asked.
            Unanswered: the server cannot be reached, or breaks off while the body is read.
        """
        async with self._at_once:
            try:
                reply = await self._followed(method, url)
                async with reply:
                    yield reply
            except aiohttp.InvalidURL as error:
                raise Refused("It is no valid address.") from error
            except aiohttp.ClientConnectorError as error:
                if isinstance(getattr(error, "os_error", None), AddressRefused):
                    raise Refused(_INSIDE) from error
                why = "The server cannot be reached, or its certificate is not trusted."
                raise Unanswered(why, connected=False) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                why = "The server does not answer in time, or breaks off."
                raise Unanswered(why, connected=True) from error

    async def _followed(self, method: str, url: URL) -> ClientResponse:
        session = self._opened()
        for _ in range(MOST_REDIRECTS + 1):
            self.admit(url)
            secret = self._headers if url.scheme == "https" or self._plain_text else {}
            reply = await session.request(method, url, headers=secret, allow_redirects=False)
            where = reply.headers.get("Location")
            if reply.status not in _REDIRECTS or where is None:
                return reply
            reply.close()
            try:
                url = url.join(URL(where)).with_fragment(None)
            except ValueError as error:
                raise Refused("It leads to what is no address.") from error
        raise Refused(f"It leads on more than {MOST_REDIRECTS} times.")

    async def read(self, url: URL, max_bytes: int) -> Page:
        """The reply to a GET, with at most ``max_bytes`` and one chunk of its body.

        Raises:
            Refused, Unanswered: as `asked`.
        """
        async with self.asked("GET", url) as reply:
            body = bytearray()
            async for chunk in reply.content.iter_chunked(CHUNK_BYTES):
                body += chunk
                if len(body) > max_bytes:
                    break
            return Page(reply.status, bytes(body))

    def _opened(self) -> ClientSession:
        if self._session is None:  # made here, since it belongs to the running loop
            self._session = checked_session(AT_ONCE, _LIMITS, private=self._private)
        return self._session

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


_INSIDE = (
    "It leads to an address inside a network. If the site is your own, set `private = true` for "
    "its source."
)


def _plain(host: str) -> str:
    """A host name in one form: small letters, of other alphabets their ASCII form."""
    host = host.rstrip(".").lower()
    try:
        return URL.build(scheme="http", host=host).raw_host or ""
    except ValueError:
        return host
