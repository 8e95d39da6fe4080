"""
The two ways to Postgres: a pool that may go through a transaction pooler, and direct connections for LISTEN and session locks.

Through a transaction pooler there are no prepared statements, no session SET, no LISTEN, no session lock; hence
``prepare_threshold=None`` everywhere and ``set local`` inside transactions.

Every call has a deadline on this side. A server ends a statement that takes too long, but a link that swallows packets ends nothing:
the screening of one worker stood still for 80 s on such a connection. So a call that hears nothing for ``answer_within_s`` closes its
socket and fails as :class:`NoAnswer`; the pool opens another connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import wait_async
from psycopg_pool import AsyncConnectionPool

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

ANSWER_WITHIN_S = (
    4.0  # two of these, and an idle lease, fit into the 12 s in which a stalled machine's traders move
)
CANCEL_WITHIN_S = 0.5
_REFUSED = "FATAL:"  # how libpq marks what the server itself says against a connection
POOL_WAIT_S = 5.0

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


class NoAnswer(psycopg.OperationalError):
    """A call heard nothing from the server within its deadline; its connection is closed."""


class Path:
    """
    What is known about one way to the database: when a call last got its answer, and when one last got none.

    Instants are of ``time.monotonic``; None: never.
    """

    def __init__(self) -> None:
        self.answered_at: float | None = None
        self.silent_at: float | None = None

    def is_silent(self) -> bool:
        """Whether a call got no answer, and none got one since."""
        return self.silent_at is not None and (self.answered_at is None or self.silent_at > self.answered_at)


class DeadlineConnection(AsyncConnection[TupleRow]):
    """A connection on which every wait for the server ends: with its answer, or with :class:`NoAnswer`."""

    answer_within_s: float = ANSWER_WITHIN_S
    path: Path | None = None

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 psycopg's own signature
    ) -> RV:
        """
        Consume a generator of psycopg's; *timeout* is its own bound on waiting for notifications, which is no failure.

        The deadline begins anew with everything that arrives: a large answer may take as long as it keeps coming.

        Raises:
            NoAnswer: nothing came for ``answer_within_s``; the socket is closed.
        """
        try:
            if timeout is not None:
                answer = await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
            else:
                async with asyncio.timeout(self.answer_within_s) as deadline:
                    answer = await wait_async(
                        _postponing(gen, deadline, self.answer_within_s),
                        self.pgconn.socket,
                        interval=interval,
                    )
        except TimeoutError:
            self.pgconn.finish()
            if self.path is not None:
                self.path.silent_at = time.monotonic()
            raise NoAnswer(f"no answer within {self.answer_within_s:g} s, connection closed") from None
        except asyncio.CancelledError:
            await self._cancel_running(gen)
            raise
        if self.path is not None:
            self.path.answered_at = time.monotonic()
        return answer

    async def _cancel_running(self, gen: PQGen[RV]) -> None:
        """End the statement on the server, too; psycopg would give this 10 s, a dead link is given up after one."""
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        try:
            await self._try_cancel(timeout=CANCEL_WITHIN_S)
            await wait_async(gen, self.pgconn.socket, interval=0.1, timeout=CANCEL_WITHIN_S)
        except psycopg.errors.QueryCanceled:
            return
        except (psycopg.Error, asyncio.CancelledError):
            self.pgconn.finish()


def _postponing(gen: PQGen[RV], deadline: asyncio.Timeout, by_s: float) -> PQGen[RV]:
    """*gen*, moving *deadline* whenever its socket was ready."""
    loop = asyncio.get_running_loop()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                deadline.reschedule(loop.time() + by_s)
            wanted = gen.send(ready)
    except StopIteration as end:
        answer: RV = end.value
        return answer


def connection_class(
    *, answer_within_s: float = ANSWER_WITHIN_S, path: Path | None = None
) -> type[DeadlineConnection]:
    """A kind of connection with this deadline, which reports to *path*."""
    return type(
        "DeadlineConnection", (DeadlineConnection,), {"answer_within_s": answer_within_s, "path": path}
    )


async def _set_autocommit(connection: Connection) -> None:
    await connection.set_autocommit(True)  # in the pool's kwargs it would kill procrastinate's listener


def make_pool(
    url: str,
    *,
    max_size: int,
    name: str,
    path: Path | None = None,
    answer_within_s: float = ANSWER_WITHIN_S,
) -> Pool:
    """A closed pool of autocommit connections; open it with ``await pool.open(wait=True)``."""
    return AsyncConnectionPool(
        url,
        connection_class=connection_class(answer_within_s=answer_within_s, path=path),
        min_size=min(2, max_size),
        max_size=max_size,
        open=False,
        timeout=POOL_WAIT_S,
        max_idle=60,
        max_lifetime=1800,
        configure=_set_autocommit,
        check=AsyncConnectionPool.check_connection,
        kwargs={"prepare_threshold": None, "application_name": name, **KEEPALIVE},
        name=name,
    )


@asynccontextmanager
async def patient(pool: Pool, answer_within_s: float) -> AsyncIterator[Connection]:
    """A pooled connection for a statement that may be silent for longer than others: pruning, for one."""
    async with pool.connection() as connection:
        if not isinstance(connection, DeadlineConnection):
            raise TypeError("the pool was not made by make_pool")
        before = connection.answer_within_s
        connection.answer_within_s = answer_within_s
        try:
            yield connection
        finally:
            connection.answer_within_s = before


async def connect_pooled(url: str, *, name: str) -> Connection:
    """
    One autocommit connection that leaves no session state behind: it may go through a transaction pooler.

    Raises:
        psycopg.OperationalError: no connection within 3 s.
    """
    address = make_conninfo(url, application_name=name, **KEEPALIVE)
    return await AsyncConnection.connect(address, autocommit=True, prepare_threshold=None)


async def connect_direct(
    url: str,
    *,
    name: str,
    statement_timeout_s: float | None = 5,
    path: Path | None = None,
) -> Connection:
    """
    One autocommit connection on which session state lives (LISTEN, session advisory locks, search_path).

    A statement ends after *statement_timeout_s* on the server, and one second later on this side.

    Raises:
        psycopg.OperationalError: no connection within 3 s.
    """
    answer_within_s = ANSWER_WITHIN_S if statement_timeout_s is None else statement_timeout_s + 1
    kind = connection_class(answer_within_s=answer_within_s, path=path)
    connection = await kind.connect(
        make_conninfo(url, application_name=name, **KEEPALIVE), autocommit=True, prepare_threshold=None
    )
    try:
        await connection.execute(_SERVER_SIDE_KEEPALIVE)
        if statement_timeout_s is not None:
            await connection.execute(
                "select set_config('statement_timeout', %s, false)", (f"{int(statement_timeout_s * 1000)}",)
            )
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


async def answers(url: str, *, within_s: float) -> bool:
    """Whether a new connection to *url* gets any answer within *within_s*; a refusal is one (no connection is left, it starts up)."""
    try:
        await _try_connection(url, within_s)
    except psycopg.OperationalError as error:
        return _REFUSED in str(error)
    except (psycopg.Error, OSError, TimeoutError):
        return False
    return True


async def refusal_of(url: str, *, within_s: float) -> str | None:
    """What the server itself says against a new connection, "too many clients" for one; None when it takes it, or is not there."""
    try:
        await _try_connection(url, within_s)
    except psycopg.OperationalError as error:
        _, refused, reason = str(error).strip().rpartition(_REFUSED)
        return reason.strip() if refused else None
    except (psycopg.Error, OSError, TimeoutError):
        return None
    return None


async def _try_connection(url: str, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        connection = await connection_class(answer_within_s=within_s).connect(
            make_conninfo(url, application_name="vyx-probe", **KEEPALIVE),
            autocommit=True,
            prepare_threshold=None,
        )
        try:
            await connection.execute("")
        finally:
            connection.pgconn.finish()
