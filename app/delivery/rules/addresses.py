"""
Which addresses a message may be sent to.

A user names a host; what counts is the address it resolves to, at the moment of the connection. Everything that is not the public
internet is refused: private, loopback, link-local (cloud metadata is there), multicast, reserved, and IPv4 addresses in IPv6 clothes.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

Opening = tuple[IPv4Network | IPv6Network, int | None]
"""A private range that is open, on one port or (None) on all."""

PORTS = frozenset({80, 443, 8080, 8443})
URL_CHARACTERS_MAX = 2000

# Public by ipaddress, yet a way to somewhere else. NAT64 and 6to4 carry an IPv4 address; Alibaba keeps its metadata at the last one.
_TRANSLATED = (
    IPv6Network("64:ff9b::/96"),
    IPv6Network("64:ff9b:1::/48"),
    IPv6Network("2002::/16"),
    IPv6Network("2001::/32"),
)
_METADATA = frozenset(
    {ip_address("100.100.100.200"), ip_address("168.63.129.16"), ip_address("fd00:ec2::254")}
)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """An address in the form in which a resolver returns it, IPv4-mapped ones unpacked; None for a name."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def refusal(address: IPv4Address | IPv6Address, port: int, allowed: Sequence[Opening]) -> str | None:
    """Why a connection there is refused; None when it is allowed. *allowed* are open as well."""
    if any(address.version == n.version and address in n and opened in (None, port) for n, opened in allowed):
        return None
    if address in _METADATA:
        return f"{address} is a cloud's metadata service"
    if isinstance(address, IPv6Address) and any(address in network for network in _TRANSLATED):
        return f"{address} stands for another address"
    if not address.is_global or address.is_multicast or address.is_reserved:
        return f"{address} is not an address of the public internet"
    if port not in PORTS:
        return f"port {port} is not one of {', '.join(map(str, sorted(PORTS)))}"
    return None


def check_url(url: str, allowed: Sequence[Opening]) -> None:
    """
    Refuse at once what can be seen from the text alone; the connection is checked again, whatever the name resolves to then.

    Raises:
        ValueError: one sentence for the person who gave it.
    """
    if len(url) > URL_CHARACTERS_MAX or not url.isprintable() or " " in url:
        raise ValueError(f"The url must be one printable word of at most {URL_CHARACTERS_MAX} characters.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"The url cannot be read: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("The url must begin with https:// or http:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("The url must not hold a user name or password; send them as a header.")
    port = port if port is not None else {"http": 80, "https": 443}[parts.scheme]
    address = address_of(parts.hostname)
    if address is None:
        if parts.hostname.rstrip(".").lower() == "localhost" and not allowed:
            raise ValueError("The url is refused: localhost is not an address of the public internet.")
        if port not in PORTS and not allowed:
            raise ValueError(
                f"The url is refused: port {port} is not one of {', '.join(map(str, sorted(PORTS)))}."
            )
        return
    if (reason := refusal(address, port, allowed)) is not None:
        raise ValueError(f"The url is refused: {reason}.")
