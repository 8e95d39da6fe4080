"""
The keeper of one machine: everything that leases are about, apart from the beat.

Decided here: the order of a round and what hangs on the work's direct connection (LISTEN, the ingest lock). What is decided elsewhere:
identity and trust (``heartbeat``), who is dead (``reaper``), who holds how much (``shares``), errors that start again (``retries``), how
much at a time (``pieces``).

A round: reap -> settle -> retry -> claim or release -> ingest lock. Each is a committed piece that ends within ``ROUND_TIMEOUT_S``, so
that a machine with 100,000 traders has as many rounds as one with ten. Nothing a round does can delay a beat.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from app.coordination.due_work import Cause, DueWork
from app.coordination.heartbeat import BEAT_S, LOOP_BOUND_S, Heartbeat
from app.coordination.hints import Channel, listen, notify
from app.coordination.progress import Board, Progress
from app.coordination.reaper import Reaper
from app.coordination.retries import Retries
from app.coordination.shares import ShareKeeper
from app.coordination.supervisor import supervise
from app.errors import Fenced, NotTrusted
from app.metrics import WorkerMetrics
from app.store import accounts, machines
from app.store.pool import Connection, Pool, connect_direct

log = structlog.get_logger(__name__)
ROUND_TIMEOUT_S = 2.0  # of each statement of a round, on the server; one second later the socket is closed
BYPASS_AFTER_S = 0.75  # a closed slot that no job has screened: the job is late, or lost
JOBS_SILENT_S = 15.0  # slots are screened without them for so long: their worker starts again
SCREEN_BOUND_S = 120.0  # the longest step of a screening: the first evaluation of 100,000 traders took 67 s
LEAVE_WITHIN_S = 5.0
FEED_AGAIN_S = 60.0


class LeaseHolder(Protocol):
    """Whoever does the work that leases are about; the keeper says what it holds."""

    screened_through: datetime | None

    @property
    def owned(self) -> int:
        """How many traders are loaded."""

    async def begin_boot(self, boot_id: int, screened_through: datetime) -> None:
        """Start over under a new identity."""

    async def sync(self) -> None:
        """Take over what was claimed, changed or stopped."""

    async def screen(self) -> int:
        """Account for every slot that is due; returns how many there were."""

    async def release_surplus(self, surplus: int) -> int:
        """Give so many traders back."""

    async def drain(self) -> None:
        """Finish the current slot and start no other."""


class Keeper:
    """
    Args:
        direct_url: A direct (or session-mode) connection.
        pool: The other way to the database: leases are given back by it when the direct one is dead.
        holder_of: Makes the holder, given the question whether it may still believe in its leases, and the progress it reports.
        board: Where the tasks of this process report.
        on_ingest: Called when this machine becomes the feeder of market data; the awaitable is cancelled with the connection.
        on_registered: Called with each new boot.
        on_jobs_silent: Called when jobs have done nothing for ``JOBS_SILENT_S``: start their worker again.
        on_hopeless: Called with a task's name when restarting it does not help.
    """

    def __init__(  # noqa: PLR0917 what it is composed of, given once, by the composition
        self,
        direct_url: str,
        pool: Pool,
        machine_id: str,
        holder_of: Callable[[Callable[[], bool], Progress], LeaseHolder],
        board: Board,
        metrics: WorkerMetrics,
        *,
        ttl_s: float,
        on_ingest: Callable[[int], Awaitable[None]],
        on_registered: Callable[[int], None],
        on_jobs_silent: Callable[[], None],
        on_hopeless: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._direct_url = direct_url
        self._pool = pool
        self._machine_id = machine_id
        self._metrics = metrics
        self._on_ingest = on_ingest
        self._on_registered = on_registered
        self._on_jobs_silent = on_jobs_silent
        self._on_hopeless = on_hopeless
        self._progress = board.add("screen", bound_s=SCREEN_BOUND_S)
        self._jobs = board.add("jobs", bound_s=JOBS_SILENT_S)
        self._main_loop = board.add("loop", bound_s=LOOP_BOUND_S)
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.heartbeat = Heartbeat(
            direct_url,
            machine_id,
            board,
            metrics,
            ttl_s=ttl_s,
            owned=lambda: self.holder.owned,
            on_change=self._boot_changed,
        )
        self.holder = holder_of(self.heartbeat.trusted, self._progress)
        self.screening = DueWork("screen", self._screen)
        self._syncing = DueWork("sync", lambda _causes: self.holder.sync())
        self._reaper = Reaper(metrics, ttl_s=ttl_s)
        self._retries = Retries(metrics)
        self._shares = ShareKeeper(
            self.holder,
            metrics,
            spawn_release=self._release,
            on_claimed=lambda: self._syncing.wake(Cause.LEDGER),
        )
        self._feeds_from = 0.0
        self.boot_id: int | None = None

    async def screen_for_job(self) -> None:
        """What a `screen` job does: let the due slots be screened, and return when that has ended."""
        self._jobs.step()
        self._jobs.rest()
        await self.screening.wake_and_wait(Cause.JOB)

    async def run(self) -> None:
        """Beat and keep the leases until stopped; raises on a lost connection, for the supervisor to start again."""
        self._loop = asyncio.get_running_loop()
        self.heartbeat.start()
        self._start_workers()
        connection = await connect_direct(
            self._direct_url, name=f"vyx-keeper:{self._machine_id}", statement_timeout_s=ROUND_TIMEOUT_S
        )
        try:
            await listen(connection, Channel.TRADER, Channel.LEASE, Channel.SLOT)
            locked: int | None = None
            while not self._stopping.is_set():
                boot_id = await self._current_boot()
                if boot_id != locked:
                    await machines.lock_work(connection, boot_id)
                    locked = boot_id
                if not await self._round(connection, boot_id):
                    await self._wait(connection)
        finally:
            await self._cancel(self._tasks)
            connection.pgconn.finish()  # close() would wait for a server that may be gone

    async def leave(self, *, at_once: bool = False) -> None:
        """
        Finish the current slot, give every lease back and end this boot; within a second when Postgres answers.

        *at_once*: wait for no slot, since the work is what does not go on.
        """
        self._stopping.set()
        self.heartbeat.register_no_more()
        if not at_once:
            if (loading := self._workers.get("sync")) is not None:
                loading.cancel()  # a slot is finished, loading many plans is not
            await self.holder.drain()
        for task in self._tasks.values():
            task.cancel()  # waited for afterwards: ending a simulated exchange takes longer than a release may
        try:
            if self.boot_id is not None:
                await self._give_back(self.boot_id)
        finally:
            await self.close()

    async def close(self) -> None:
        """End the beat and every task; leases that were not given back are reaped by others."""
        self._stopping.set()
        self.screening.close()
        await self._cancel(self._tasks)
        await self._cancel(self._workers)
        await self.heartbeat.stop()

    async def _give_back(self, boot_id: int) -> None:
        """By a direct connection; when that way is dead, by the pool."""
        ways = (self._give_back_directly, self._give_back_by_pool)
        for way in ways:
            try:
                async with asyncio.timeout(LEAVE_WITHIN_S):
                    free = await way(boot_id)
            except Fenced:
                log.info("had been reaped already", boot_id=boot_id)
                return
            except (psycopg.Error, OSError, PoolTimeout) as error:
                log.warning("leases not given back this way", boot_id=boot_id, reason=str(error).strip())
            else:
                log.info("left", boot_id=boot_id, released=free)
                return
        log.error("leases not given back, others will reap them", boot_id=boot_id)

    async def _give_back_directly(self, boot_id: int) -> int:
        connection = await connect_direct(self._direct_url, name=f"vyx-leave:{self._machine_id}")
        try:
            free = await machines.leave(connection, boot_id)
            await notify(connection, Channel.LEASE)
            return free
        finally:
            connection.pgconn.finish()

    async def _give_back_by_pool(self, boot_id: int) -> int:
        async with self._pool.connection() as connection:
            free = await machines.leave(connection, boot_id)
            await machines.end_sessions(connection, boot_id)  # they hold the ingest lock, and hear nothing
            await notify(connection, Channel.LEASE)
            return free

    # -- identity and tasks ---------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        if self._workers:
            return
        works = {
            name: supervise(
                name, work.run, self._stopping, progress=self._progress, on_hopeless=self._on_hopeless
            )
            for name, work in (("screen", self.screening), ("sync", self._syncing))
        }
        works["loop"] = self._prove_the_loop()
        self._workers = {name: asyncio.create_task(work) for name, work in works.items()}

    async def _prove_the_loop(self) -> None:
        """The beat's thread sees by these steps that the main loop runs."""
        self.heartbeat.main_loop = self._main_loop
        while True:
            self._main_loop.step()
            await asyncio.sleep(BEAT_S)

    def _boot_changed(self) -> None:
        """Called in the thread of the beat."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._changed.set)

    async def _current_boot(self) -> int:
        """The boot of the heartbeat, once the holder has begun it."""
        while (boot := self.heartbeat.boot) is None:
            self._changed.clear()
            await self._changed.wait()
        if boot.boot_id != self.boot_id:
            await self._cancel(self._tasks)
            await self.holder.begin_boot(boot.boot_id, boot.screened_through)
            self.boot_id = boot.boot_id
            self._on_registered(boot.boot_id)
        return boot.boot_id

    async def _round(self, connection: Connection, boot_id: int) -> bool:
        """True when there is more to do at once."""
        again = await self._reaper.run(connection, boot_id)
        again = await self._retries.run(connection) or again
        await self._stop_beyond_tiers(connection)
        again = await self._shares.balance(connection, boot_id) or again
        await self._feed_market(connection, boot_id)
        self._watch_ledger()
        self._syncing.wake(Cause.LEDGER)
        return again

    async def _stop_beyond_tiers(self, connection: Connection) -> None:
        try:
            stopped = await accounts.stop_beyond_tiers(connection)
        except psycopg.errors.QueryCanceled as error:
            log.warning("traders beyond their tier not stopped yet", reason=str(error).strip())
            return
        if stopped:
            log.info("stopped beyond their tier", traders=stopped)
            await notify(connection, Channel.TRADER, Channel.FEED)

    async def _wait(self, connection: Connection) -> None:
        """Until the next round, or until somebody has something for us."""
        heard = {n.channel async for n in connection.notifies(timeout=BEAT_S, stop_after=1)}
        if heard & {Channel.TRADER, Channel.LEASE}:
            self._syncing.wake(Cause.HINT)
        if Channel.SLOT in heard:
            asyncio.get_running_loop().call_later(BYPASS_AFTER_S, self.screening.wake, Cause.HINT)

    async def _feed_market(self, connection: Connection, boot_id: int) -> None:
        if "ingest" in self._tasks:
            return
        if time.monotonic() < self._feeds_from:
            await machines.give_ingest_lock_back(connection)
        elif await machines.try_ingest_lock(connection):
            self._spawn("ingest", lambda: self._on_ingest(boot_id))

    def feed_no_more(self) -> None:
        """Let another machine feed the market; this one tries again after ``FEED_AGAIN_S``."""
        self._feeds_from = time.monotonic() + FEED_AGAIN_S
        if (task := self._tasks.pop("ingest", None)) is not None:
            task.cancel()

    # -- screening ------------------------------------------------------------------------------------------------------

    def _watch_ledger(self) -> None:
        """The ledger wakes the screening of a slot that neither a job nor a notification did."""
        newest, through = self.heartbeat.newest_closed, self.holder.screened_through
        lag_s = 0.0 if newest is None or through is None else (newest - through).total_seconds()
        self._metrics.slot_lag.set(max(0.0, lag_s))
        if lag_s > 0 and not self._progress.is_expected:
            asyncio.get_running_loop().call_later(BYPASS_AFTER_S, self.screening.wake, Cause.LEDGER)

    async def _screen(self, causes: frozenset[Cause]) -> None:
        slots = await self.holder.screen()
        if slots and Cause.JOB not in causes:
            self._metrics.job_bypasses.inc(slots)
            log.warning("slots screened that no job asked for", slots=slots)
            if not self._jobs.is_expected:
                self._jobs.expect()
            elif self._jobs.is_overdue:
                self._jobs.rest()
                self._on_jobs_silent()

    def _release(self, surplus: int) -> None:
        self._spawn("release", lambda: self._shares.release(surplus))

    def _spawn(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """One task of a name at a time: work that must not hold up a round."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._guarded(name, work), name=f"keeper-{name}")

    async def _guarded(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except (Fenced, NotTrusted) as error:
            log.info("not ours any more", task=name, reason=str(error))
        except (psycopg.Error, OSError, PoolTimeout) as error:
            log.warning("task failed, the next round starts it again", task=name, reason=str(error))
        except Exception:
            log.exception("task failed", task=name)
        finally:
            if self._tasks.get(name) is asyncio.current_task():
                del self._tasks[name]

    @staticmethod
    async def _cancel(tasks: dict[str, asyncio.Task[None]]) -> None:
        ending = list(tasks.values())
        tasks.clear()
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
