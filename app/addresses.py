"""Which network addresses may be connected to for callers, and a client that holds to it."""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from app import __version__

Address = IPv4Address | IPv6Address


def _networks(text: str) -> list[ipaddress.IPv4Network | IPv6Network]:
    return [ipaddress.ip_network(one) for one in text.split()]


# IANA's special-purpose registries; of IPv6, only 2000::/3 is given out to hosts
_INSIDE = _networks(
    "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1 fc00::/7"
)
_NEVER = _networks(
    """
    0.0.0.0/8 169.254.0.0/16 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15
    198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
    2001::/23 2001:db8::/32 2002::/16 3fff::/20
    100.100.100.200 168.63.129.16 fd00:ec2::/32
    """  # the last line: where clouds tell a machine its credentials
)
_HOSTS = IPv6Network("2000::/3")
_TRANSLATED = IPv6Network("64:ff9b::/96")  # NAT64: the last 32 bits are an IPv4 address


class AddressRefused(OSError):
    """A name leads to an address that may not be connected to."""


def may_connect(host: str, *, private: bool) -> bool:
    """Whether an address is public, or one of a private network or this machine if allowed.

    Never allowed: link-local, multicast, reserved and unspecified addresses, tunnels, and
    those where clouds serve credentials. ``host`` is an address as text.
    """
    try:
        address = _meant(ipaddress.ip_address(host))
    except ValueError:
        return False
    if any(address in network for network in _NEVER):
        return False
    if any(address in network for network in _INSIDE):
        return private
    return isinstance(address, IPv4Address) or address in _HOSTS


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to.

    A connection is made to the very addresses that were checked, so a name that changes its
    address in between gains nothing.
    """

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._names = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name.

        Raises:
            AddressRefused: one of them may not be connected to.
            OSError: the name is not known.
        """
        try:
            found = await self._names.resolve(host, port, family)
        except UnicodeError as error:
            raise OSError("no name that can be resolved") from error
        if not all(may_connect(one["host"], private=self._private) for one in found):
            raise AddressRefused("an address that may not be connected to")
        return found

    async def close(self) -> None:
        """Nothing stays open."""
        await self._names.close()


def may_ask(host: str, *, private: bool) -> bool:
    """Whether a host may be asked as it is written; a name may, and its addresses are checked.

    A host that is an address is resolved by nobody, so it is judged here.
    """
    is_address = ":" in host or host.replace(".", "").isdigit()
    return not is_address or may_connect(host, private=private)


def checked_session(at_once: int, timeout: ClientTimeout, *, private: bool) -> ClientSession:
    """A client that connects to addresses that were checked; it belongs to the running loop."""
    return ClientSession(
        connector=TCPConnector(limit=at_once, resolver=CheckedResolver(private=private)),
        headers={"User-Agent": f"ostiary/{__version__}"},
        cookie_jar=DummyCookieJar(),
        timeout=timeout,
        trust_env=False,  # a proxy would connect to what it resolves itself
    )
