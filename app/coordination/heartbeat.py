"""
The heartbeat of one machine: a thread, an event loop and a direct connection of its own, on which nothing else happens.

Decided here: the identity of this process (its boot), and whether it may still believe in its leases. No amount of traders, no long
evaluation and no slow statement delays a beat; that the work goes on is *reported in* the beat. Only a main loop that stands still is
judged here, because nobody else can: it ends the boot and the process.

Trust: a machine that could not renew stops believing in its leases before others may reap it, measured on its own monotonic clock from
the moment it *began* the last successful beat (``GRACE_S`` - ``TRUST_MARGIN_S``). Measured: anchored on the ttl, a machine with a dead
link trusted itself for 3.5 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg
import structlog

from app.backoff import Backoff
from app.coordination.progress import Board, Progress
from app.errors import Fenced
from app.metrics import WorkerMetrics
from app.store import machines
from app.store.pool import Connection, connect_direct

log = structlog.get_logger(__name__)
BEAT_S = 1.0
BEAT_TIMEOUT_S = 1.5  # on the server; one second later the socket is closed
GRACE_S = 2.5  # lock gone and no heartbeat for this long: dead
TRUST_MARGIN_S = 0.5
LOOP_BOUND_S = 20.0  # the main loop stands still for so long: nothing in this process works any more
RECONNECT_S = 0.1
RECONNECT_S_MAX = 1.0
STOP_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Boot:
    """One registration of this process; ``screened_through`` is where it begins."""

    boot_id: int
    screened_through: datetime


class Heartbeat:
    """
    Args:
        direct_url: A direct (or session-mode) connection.
        board: What the beats report.
        owned: How many traders are loaded; called from the thread.
        on_change: Called from the thread when there is another boot.
        end_process: Ends this process at once; the main loop cannot.
    """

    def __init__(
        self,
        direct_url: str,
        machine_id: str,
        board: Board,
        metrics: WorkerMetrics,
        *,
        ttl_s: float,
        owned: Callable[[], int],
        on_change: Callable[[], None],
        end_process: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self._direct_url = direct_url
        self._machine_id = machine_id
        self._board = board
        self._metrics = metrics
        self._trust_s = min(ttl_s, GRACE_S) - TRUST_MARGIN_S
        self._owned = owned
        self._on_change = on_change
        self._end_process = end_process
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._trusted_until = 0.0
        self.main_loop: Progress | None = None
        self.boot: Boot | None = None
        self.newest_closed: datetime | None = None
        self.failing_since: float | None = None

    def trusted(self) -> bool:
        """May this machine still believe in its leases?"""
        return time.monotonic() < self._trusted_until

    def start(self) -> None:
        """Begin to beat; harmless when it does already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vyx-beat", daemon=True)
            self._thread.start()

    def register_no_more(self) -> None:
        """Leave for good: a boot that has ended is not followed by another."""
        self._is_stopping = True

    async def stop(self) -> None:
        """End the thread and its connection, and with it the session lock."""
        self._is_stopping = True
        if self._loop is not None and self._wake is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                self._loop.call_soon_threadsafe(self._wake.set)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_WITHIN_S)

    # -- in the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._beat_until_stopped())

    async def _beat_until_stopped(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        backoff = Backoff(RECONNECT_S, RECONNECT_S_MAX)
        while not self._is_stopping:
            try:
                await self._beat_on_one_connection()
                backoff.reset()
            except (psycopg.Error, OSError) as error:
                if self.failing_since is None:
                    self.failing_since = time.monotonic()
                self._metrics.beat_failures.inc()
                log.warning("no heartbeat, connecting again", reason=str(error).strip())
            await self._pause(backoff.next_s())

    async def _beat_on_one_connection(self) -> None:
        connection = await connect_direct(
            self._direct_url, name=f"vyx-beat:{self._machine_id}", statement_timeout_s=BEAT_TIMEOUT_S
        )
        try:
            if self.boot is None or not await machines.resume(connection, self.boot.boot_id):
                await self._register(connection)
            while not self._is_stopping:
                await self._beat(connection)
                await self._pause(BEAT_S)
        finally:
            connection.pgconn.finish()  # close() would wait for a server that may be gone

    async def _register(self, connection: Connection) -> None:
        if self._is_stopping:
            return
        boot_id, screened_through = await machines.register(connection, self._machine_id)
        self.boot = Boot(boot_id, screened_through)
        log.info(
            "registered",
            machine_id=self._machine_id,
            boot_id=boot_id,
            screened_through=screened_through.isoformat(),
        )
        self._on_change()

    async def _beat(self, connection: Connection) -> None:
        if self.boot is None:
            return
        began = time.monotonic()
        beat = await machines.beat(connection, self.boot.boot_id, self._owned(), self._board.report())
        if not beat.ok:
            if not self._is_stopping:
                log.warning("reaped by another machine", boot_id=self.boot.boot_id)
                await self._register(connection)
            return
        self._trusted_until = began + self._trust_s
        self.failing_since = None
        self.newest_closed = beat.newest_closed
        if self.main_loop is not None and self.main_loop.is_overdue:
            await self._give_up(connection, self.boot.boot_id)

    async def _give_up(self, connection: Connection, boot_id: int) -> None:
        log.critical("the main loop stands still, ending this process", boot_id=boot_id, bound_s=LOOP_BOUND_S)
        with contextlib.suppress(Fenced):
            await machines.leave(connection, boot_id)
        self._end_process()

    async def _pause(self, seconds: float) -> None:
        if self._wake is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
