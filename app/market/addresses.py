"""What a hold is about: a host, and the address this machine shows it."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

UNKNOWN_ADDRESS: Final = "unknown"


def host_of(url: str) -> str:
    """What a hold is about: host and port of *url*."""
    return urlsplit(url).netloc


def own_address(url: str) -> str:
    """The address this machine would reach *url* from; ``unknown`` when there is no way there. Nothing is sent."""
    parts = urlsplit(url)
    try:
        [(family, kind, proto, _, target), *_] = socket.getaddrinfo(
            parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM
        )
        with closing(socket.socket(family, kind, proto)) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return UNKNOWN_ADDRESS
