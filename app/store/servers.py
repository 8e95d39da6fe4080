"""
The database server as a deployment finds it: what one session is given, and for how long there is room.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row, dict_row

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("servers")


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """``connections_max`` leaves out what is reserved; ``size_bytes`` is the database's; ``clock`` is the server's."""

    clock: datetime
    version: str
    is_standby: bool
    is_read_only: bool
    connections_max: int
    connections_used: int
    size_bytes: int
    interval_style: str
    isolation: str
    role: str
    backend_pid: int


async def facts(connection: Connection) -> ServerFacts:
    """Read once, now."""
    async with connection.cursor(row_factory=class_row(ServerFacts)) as cursor:
        await cursor.execute(_SQL["server_facts"])
        row = await cursor.fetchone()
    if row is None:
        raise AssertionError("a select without from gives one row")
    return row


async def role_timeouts(connection: Connection) -> dict[str, str]:
    """By role, as Postgres writes them (``8s``)."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_SQL["role_timeouts"])
        return {row["role"]: row["timeout"] for row in await cursor.fetchall()}


async def growing_for_days(connection: Connection) -> float | None:
    """
    For how many days slots have been stored; None before the first.

    Raises:
        psycopg.errors.UndefinedTable: the database is not migrated.
    """
    row = await (await connection.execute(_SQL["growth"])).fetchone()
    return None if row is None or row[0] is None else float(row[0])
