"""Posts to the origins that the operator allows for webhooks, and to nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
from yarl import URL

from app.addresses import AddressRefused, checked_session, may_ask
from app.errors import BadRequest

_LIMITS = aiohttp.ClientTimeout(total=15, sock_connect=5)  # seconds
AT_ONCE = 16  # connections


class Undelivered(Exception):
    """Why a receiver has not taken a webhook; ``over`` tells that it never will."""

    def __init__(self, why: str, *, over: bool = False) -> None:
        super().__init__(why)
        self.over = over


class WebhookPost:
    """A client that follows no redirect, uses no proxy and reads no body.

    Args:
        origins: as ``https://hooks.example.org``, each with its port where it has one.
        private: whether they may lie in a private network or on this machine.
    """

    def __init__(self, origins: Sequence[str], *, private: bool) -> None:
        self._origins = frozenset(URL(origin).origin() for origin in origins)
        self._private = private
        self._session: aiohttp.ClientSession | None = None

    def admit(self, url: str) -> None:
        """Raises BadRequest for an address that nothing may be posted to."""
        try:
            parsed = URL(url)
            origin = parsed.origin()
        except ValueError:
            raise _refused("It is no address of http or https.") from None
        if parsed.user is not None or parsed.password is not None or parsed.fragment:
            raise _refused("Leave out user, password and fragment.")
        if origin not in self._origins:
            raise _refused(
                "Its origin is not one that the operator allows for webhooks. Operator: add it to "
                "OSTIARY_WEBHOOK_ORIGINS."
            )
        if not may_ask(parsed.host or "", private=self._private):
            raise _refused(_INSIDE)

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        """Post once.

        Raises:
            Undelivered: the receiver was not reached, or did not answer with 2xx.
        """
        try:
            self.admit(url)
            async with self._opened().post(
                url, data=body, headers=headers, allow_redirects=False
            ) as reply:
                status = reply.status
        except BadRequest as error:
            raise Undelivered(error.message) from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(getattr(error, "os_error", None), AddressRefused):
                raise Undelivered(_INSIDE) from None
            raise Undelivered(
                "The receiver cannot be reached, or its certificate is not trusted."
            ) from None
        except (aiohttp.ClientError, TimeoutError):
            raise Undelivered("The receiver did not answer in time, or broke off.") from None
        if status == 410:
            raise Undelivered("The receiver answered 410: it wants it never again.", over=True)
        if not 200 <= status < 300:
            raise Undelivered(f"The receiver answered {status}; 2xx was expected.")

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here, since it belongs to the running loop
            self._session = checked_session(AT_ONCE, _LIMITS, private=self._private)
        return self._session

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


_INSIDE = (
    "It leads to an address inside a network. Operator: if the receiver is your own, set "
    "OSTIARY_WEBHOOK_PRIVATE=true."
)


def _refused(why: str) -> BadRequest:
    return BadRequest(f"The webhook's url cannot be used. {why}", param="url")
