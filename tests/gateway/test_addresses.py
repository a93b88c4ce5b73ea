"""What a source on the web may connect to."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from aiohttp import ClientConnectorDNSError, ClientSession, TCPConnector
from hypothesis import given, settings
from hypothesis import strategies as st

from app.addresses import AddressRefused, CheckedResolver, may_connect

PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
INSIDE = [
    *("127.0.0.1", "127.255.0.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
    *("100.64.0.1", "::1", "fc00::1", "fd12:3456::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1"),
]
TEXT = ["", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.1.1.1 "]
NEVER = [
    *("0.0.0.0", "169.254.169.254", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("192.0.0.192", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("100.100.100.200", "168.63.129.16", "fd00:ec2::254"),
    *("::", "fe80::1", "fe80::1%eth0", "ff02::1", "2001:db8::1", "2001::1", "2002:7f00:1::"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "::127.0.0.1"),
    *("3fff::1", "5f00::1", "fec0::1", "100::1"),
    *TEXT,
]


@pytest.mark.parametrize("host", PUBLIC)
def test_public_addresses_may_be_connected_to(host: str) -> None:
    assert may_connect(host, private=False)
    assert may_connect(host, private=True)


@pytest.mark.parametrize("host", INSIDE)
def test_addresses_inside_a_network_only_if_private(host: str) -> None:
    assert not may_connect(host, private=False)
    assert may_connect(host, private=True)


@pytest.mark.parametrize("host", NEVER)
def test_other_addresses_never(host: str) -> None:
    assert not may_connect(host, private=False)
    assert not may_connect(host, private=True)


SPECIAL = st.sampled_from(
    [ipaddress.ip_address(a) for a in PUBLIC + INSIDE + NEVER if a not in TEXT]
)
NEAR = SPECIAL.flatmap(
    lambda a: st.integers(-300, 300).map(lambda d: type(a)((int(a) + d) % 2**a.max_prefixlen))
)
V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


@settings(deadline=None)
@given(V4 | V6 | NEAR)
def test_what_is_allowed_is_public_by_the_registries(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Held against the standard library's own reading of them."""
    if may_connect(str(address), private=False):
        meant = getattr(address, "ipv4_mapped", None) or address
        if meant not in ipaddress.ip_network("64:ff9b::/96"):
            assert meant.is_global
        assert not (meant.is_private or meant.is_loopback or meant.is_link_local)
        assert not (meant.is_multicast or meant.is_unspecified)
        assert may_connect(str(address), private=True)


@settings(deadline=None)
@given(V4 | NEAR.filter(lambda a: a.version == 4))
def test_an_ipv4_address_in_ipv6_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    for private in (False, True):
        verdict = may_connect(str(address), private=private)
        mapped = ipaddress.IPv6Address((0xFFFF << 32) | int(address))
        translated = ipaddress.IPv6Address((0x64FF9B << 96) | int(address))
        assert may_connect(str(mapped), private=private) is verdict
        assert may_connect(str(translated), private=private) is verdict
        # in the forms that a socket would also take
        assert not may_connect(str(int(address)), private=private)
        assert not may_connect(hex(int(address)), private=private)


@pytest.mark.parametrize("name", ["localhost", "127.1", "0x7f000001"])
async def test_a_name_that_leads_inside_is_refused_when_it_is_resolved(name: str) -> None:
    with pytest.raises(AddressRefused):
        await CheckedResolver(private=False).resolve(name, 80, socket.AF_UNSPEC)
    found = await CheckedResolver(private=True).resolve(name, 80, socket.AF_UNSPEC)
    assert found and all(ipaddress.ip_address(one["host"]).is_loopback for one in found)


async def test_a_name_that_is_none_is_not_known() -> None:
    with pytest.raises(OSError, match="no name"):
        await CheckedResolver(private=False).resolve("a" * 64 + ".org", 80, socket.AF_UNSPEC)


async def test_a_refusal_of_the_resolver_can_be_told_from_a_failure() -> None:
    connector = TCPConnector(resolver=CheckedResolver(private=False))
    async with ClientSession(connector=connector) as session:
        with pytest.raises(ClientConnectorDNSError) as refused:
            await session.get("http://localhost:9/")
    assert isinstance(refused.value.os_error, AddressRefused)
