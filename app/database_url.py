"""
How a database's address may be written, and what other tools write that libpq does not know.

No message of this module holds a part of the address: a password that was not encoded ends up in any part of it.
"""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

_SCHEME = re.compile(
    r"\Apostgres(?:ql)?(?:\+[a-z0-9_]+)?://", re.IGNORECASE
)  # postgresql+psycopg:// is SQLAlchemy's
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[\w.\-:\[\]]+\Z|[/@].*\Z")
_PORT = re.compile(r"\d{0,5}\Z")
# Parameters of Prisma, JDBC, asyncpg and Vercel, about pools and statements that we keep ourselves.
_OTHERS = {
    *(
        "pgbouncer",
        "connection_limit",
        "pool_timeout",
        "pool_mode",
        "pool_size",
        "socket_timeout",
        "sslaccept",
        "schema",
    ),
    *("statement_cache_size", "prepared_statements", "preparethreshold", "prepared_statement_cache_size"),
    *("supa", "workaround"),
}
HOW_TO_WRITE = "write it postgresql://USER:PASSWORD@HOST:5432/DATABASE, and in the password # as %23, % as %25, / as %2F, : as %3A, ? as %3F, @ as %40"


class Unreadable(ValueError):
    """The text is no address of a Postgres; the message is the end of a sentence about the variable that holds it."""


def read_address(text: str) -> str:
    """
    *text* as libpq takes it: a URL, or ``key=value`` words.

    Raises:
        Unreadable: it is neither, or something in it was not encoded.
    """
    address = _as_libpq_writes_it(text.strip())
    try:
        parts = conninfo_to_dict(address)
    except (psycopg.Error, UnicodeError):
        raise Unreadable(f"cannot be read; {HOW_TO_WRITE}") from None
    hosts, ports = str(parts.get("host") or ""), str(parts.get("port") or "")
    if not all(_HOST.match(host) for host in hosts.split(",") if host) or not all(
        map(_PORT.match, ports.split(","))
    ):
        raise Unreadable(f"has no host and port where they should be; {HOW_TO_WRITE}")
    if not hosts and not parts.get("hostaddr") and not parts.get("service"):
        raise Unreadable(f"names no host; {HOW_TO_WRITE}")
    return address


def _as_libpq_writes_it(text: str) -> str:
    scheme = _SCHEME.match(text)
    if scheme is None:
        if "://" in text:
            raise Unreadable(f"is no address of a Postgres; {HOW_TO_WRITE}")
        return text
    rest, mark, query = _STRAY_PERCENT.sub("%25", text[scheme.end() :]).partition("?")
    kept = [word for word in query.split("&") if word.partition("=")[0].lower() not in _OTHERS]
    return f"postgresql://{rest}" + (mark + "&".join(kept) if kept else "")


def without_passwords(said: str, addresses: list[str | None]) -> str:
    """What a driver *said* about a connection, with the passwords of *addresses* taken out."""
    for password in _passwords(addresses):
        said = said.replace(password, "•••")
    return said


def _passwords(addresses: list[str | None]) -> list[str]:
    found = []
    for address in addresses:
        if address:
            try:
                found.append(str(conninfo_to_dict(read_address(address)).get("password") or ""))
            except Unreadable:
                continue
    return [password for password in found if password]


def ports(address: str) -> set[str]:
    """The ports that *address* names."""
    return set(str(conninfo_to_dict(address).get("port") or "5432").split(","))
