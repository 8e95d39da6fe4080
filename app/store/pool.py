"""
The two ways to Postgres: a pool that may go through a transaction pooler, and direct connections for LISTEN and session locks.

Through a transaction pooler there are no prepared statements, no session SET, no LISTEN, no session lock; hence
``prepare_threshold=None`` everywhere and ``set local`` inside transactions.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

# A vanished peer is noticed after about 4 s from both ends: 1 s idle, 3 probes 1 s apart.
KEEPALIVE: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}
_SERVER_SIDE_KEEPALIVE = (
    "select set_config('tcp_keepalives_idle', '1', false), set_config('tcp_keepalives_interval', '1', false),"
    " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '4000', false)"
)


async def _set_autocommit(connection: Connection) -> None:
    await connection.set_autocommit(True)  # in the pool's kwargs it would kill procrastinate's listener


def make_pool(url: str, *, max_size: int, name: str) -> Pool:
    """A closed pool of autocommit connections; open it with ``await pool.open(wait=True)``."""
    return AsyncConnectionPool(
        url,
        min_size=min(2, max_size),
        max_size=max_size,
        open=False,
        timeout=5,
        max_idle=60,
        max_lifetime=1800,
        configure=_set_autocommit,
        check=AsyncConnectionPool.check_connection,
        kwargs={"prepare_threshold": None, "application_name": name, **KEEPALIVE},
        name=name,
    )


async def connect_direct(url: str, *, name: str, statement_timeout_s: float | None = 5) -> Connection:
    """
    One autocommit connection on which session state lives (LISTEN, session advisory locks, search_path).

    Raises:
        psycopg.OperationalError: no connection within 3 s.
    """
    connection = await AsyncConnection.connect(
        make_conninfo(url, application_name=name, **KEEPALIVE), autocommit=True, prepare_threshold=None
    )
    await connection.execute(_SERVER_SIDE_KEEPALIVE)
    if statement_timeout_s is not None:
        await connection.execute(
            "select set_config('statement_timeout', %s, false)", (f"{int(statement_timeout_s * 1000)}",)
        )
    return connection
