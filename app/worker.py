"""
Composition of the worker process: keeper, screener, jobs, ingest, metrics. One of the two modules that know everything.

Order of the end (SIGTERM): the current slot is finished, leases are given back, then jobs, ingest and connections close. All within
``VYX_DRAIN_S``; whatever is left then is cut off, which costs nothing but the latency of a reap. A process that cannot work any more
(one of its ways to the database is dead, or its screening makes no progress) gives its leases back first and ends with code 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
import structlog
from procrastinate.exceptions import ConnectorException
from prometheus_client import CollectorRegistry

from app.coordination.hints import Channel, Hints
from app.coordination.keeper import Keeper
from app.coordination.paths import Way, watch
from app.coordination.progress import Board, Progress
from app.coordination.supervisor import supervise
from app.delivery.channel_process import ChannelProcess
from app.delivery.sealing import Sealer
from app.delivery.sender import Sender
from app.delivery.transport import Transport
from app.errors import CommandFailed
from app.market.feeder import Feeder
from app.market.metrics import MarketMetrics
from app.metrics import DeliveryMetrics, WorkerMetrics
from app.metrics_server import serve_metrics
from app.preview.job import PROCESSES, PreviewJob
from app.preview.process import EvaluatingProcess
from app.revisions import Revisions
from app.screening.screener import Screener
from app.screening.standing_audit import StandingAudit
from app.settings import Settings
from app.store import jobs
from app.store.pool import Connection, Path, answers, make_pool
from app.store.sessions import prove_direct
from app.watchdog import watchdog
from jobs.runner import job_connections, run_jobs, run_previews
from jobs.tasks import tick
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import Compiled, FilterCompiler

log = structlog.get_logger(__name__)
INGEST_BOUND_S = (
    180.0  # a slot comes every minute; an exchange that is silent for longer is connected to anew
)
HINT_AFTER_S = 0.1  # after the commit of the slot; a hint that comes too early costs nothing, the ledger is read every second
DEFER_WITHIN_MS = 200
DEAD_LETTERS_EVERY_S = 30.0
END_WITHIN_S = 5.0


class LazyCompiler:
    """A filter compiler with one process, made when a plan of an older version first needs it: in most lives never."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._compiler: FilterCompiler | None = None

    def compile(self, source: str) -> Compiled:
        """Compile one filter; blocks, so call it in a thread, from one at a time."""
        if self._compiler is None:
            self._compiler = self._open.enter_context(FilterCompiler(processes=1))
        return self._compiler.compile(source)

    def close(self) -> None:
        """End the interpreter process, if there is one."""
        self._open.close()


class Worker:
    """One worker process; :meth:``run`` returns after a clean drain."""

    def __init__(self, settings: Settings) -> None:
        database_url, direct_url = settings.addresses()
        self._settings = settings
        self._registry = CollectorRegistry()
        self._metrics = WorkerMetrics(self._registry)
        self._delivery_metrics = DeliveryMetrics(self._registry)
        self._pooled = Path()
        self._pool = make_pool(database_url, max_size=settings.pool_max, name="vyx-worker", path=self._pooled)
        self._board = Board()
        self._ingest = self._board.add("ingest", bound_s=INGEST_BOUND_S)
        self._sender: Sender | None = None
        self._sealer = Sealer(settings.secret_keys) if settings.secret_keys else None
        self._hints = Hints(self._pool, on_send=self._wake_sender)
        self._compiler = LazyCompiler()
        self._each = EachRunner()
        self._previews = PreviewJob(self._pool, self._hints, [EvaluatingProcess() for _ in range(PROCESSES)])
        self._stopping = asyncio.Event()
        self._fatal: CommandFailed | None = None
        self._is_hopeless = False
        self._registered = asyncio.Event()
        self._jobs_ended = asyncio.Event()
        self._feeder = Feeder(
            settings,
            self._pool,
            MarketMetrics(self._registry),
            wake=self._wake,
            on_unusable=self._give_up,
            progress=self._ingest,
            on_stalled=lambda _name: self._feed_no_more(),
            on_held=self._feed_no_more,
        )
        self._audit: StandingAudit
        self._keeper = Keeper(
            direct_url,
            self._pool,
            settings.machine_id,
            self._make_screener,
            self._board,
            self._metrics,
            ttl_s=settings.lease_ttl_s,
            on_ingest=self._feeder.run,
            on_registered=self._on_registered,
            on_jobs_silent=self._restart_jobs,
            on_hopeless=self._cannot_work,
        )

    def _make_screener(self, trusted: Callable[[], bool], progress: Progress) -> Screener:
        self._screener = Screener(
            self._pool,
            self._hints,
            self._metrics,
            trusted,
            self._compiler.compile,
            self._each,
            on_screened=self._note_screened,
            progress=progress,
        )
        self._revisions = Revisions(self._pool)
        self._audit = StandingAudit(self._pool, self._screener, self._metrics, self._each)
        return self._screener

    def _cannot_work(self, what: str) -> None:
        self._is_hopeless = True
        self._give_up(
            CommandFailed(f"This worker cannot work any more ({what}); its traders were given back.")
        )

    def _note_screened(self, boot_id: int, slot: datetime) -> None:
        self._audit.note(boot_id, slot)

    def _feed_no_more(self) -> None:
        self._keeper.feed_no_more()

    def _give_up(self, error: CommandFailed) -> None:
        self._fatal = error
        self._stopping.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """
        Work until SIGTERM or SIGINT; *on_ready* is called once this machine is registered.

        Raises:
            CommandFailed: the market cannot be served, or this process cannot work any more; said after a drain.
            SettingInvalid: the direct address is a transaction pooler.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._pool.open(wait=True, timeout=30)
        _, direct_url = self._settings.addresses()
        await prove_direct(direct_url)
        with watchdog(), serve_metrics(self._settings.host, self._settings.metrics_port, self._registry):
            async with job_connections(direct_url):
                tasks = [
                    asyncio.create_task(supervise("keeper", self._keeper.run, self._stopping)),
                    asyncio.create_task(supervise("jobs", self._run_jobs, self._stopping)),
                    asyncio.create_task(supervise("audit", self._audit.run, self._stopping)),
                    asyncio.create_task(supervise("revisions", self._revisions.run, self._stopping)),
                    asyncio.create_task(supervise("sender", self._send, self._stopping)),
                    asyncio.create_task(supervise("previews", self._run_previews, self._stopping)),
                ]
                watching = [
                    asyncio.create_task(self._announce(on_ready)),
                    asyncio.create_task(supervise("dead letters", self._count_dead_letters, self._stopping)),
                    *(asyncio.create_task(self._watch(*ways)) for ways in self._ways()),
                ]
                await self._stopping.wait()
                for task in watching:
                    task.cancel()
                await self._drain(tasks)
        await self._pool.close()
        if self._fatal is not None:
            raise self._fatal

    def _on_registered(self, _boot_id: int) -> None:
        self._restart_jobs()
        self._registered.set()

    def _restart_jobs(self) -> None:
        """End the current job worker, hung or not; the supervisor starts the next."""
        self._jobs_ended.set()
        self._jobs_ended = asyncio.Event()

    async def _run_jobs(self) -> None:
        """Jobs follow the boot: a machine that was reaped and came back has another queue. The supervisor calls again."""
        await self._registered.wait()
        if self._keeper.boot_id is None or self._stopping.is_set():
            return
        context: dict[str, Any] = {
            "pool": self._pool,
            "keeper": self._keeper,
            "sealer": self._sealer,
            "keep_days": self._settings.keep_days,
            "metrics": self._metrics,
        }
        await run_jobs(self._keeper.boot_id, context, self._jobs_ended)

    async def _run_previews(self) -> None:
        """Apart from the other jobs: its own worker, and processes that start beside it."""
        starting = asyncio.create_task(self._previews.start())
        try:
            await run_previews({"previews": self._previews}, self._stopping)
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    def _wake_sender(self) -> None:
        if self._sender is not None:
            self._sender.wake()

    async def _send(self) -> None:
        """Deliver until the process ends; attempts under way are finished within the drain."""
        settings = self._settings
        transport, channels = Transport(settings.hook_allow), ChannelProcess(settings.hook_allow)
        self._sender = Sender(
            self._pool,
            transport=transport,
            third_party=channels,
            sealer=self._sealer,
            public_url=settings.public_url or f"http://{settings.host}:{settings.port}",
            metrics=self._delivery_metrics,
        )
        if self._stopping.is_set():
            return
        try:
            await self._sender.run()
        finally:
            self._sender = None
            await transport.close()
            await channels.close()

    async def _drain(self, tasks: list[asyncio.Task[None]]) -> None:
        log.info("draining")
        self._previews.stop()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._keeper.leave(at_once=self._is_hopeless)
                if self._sender is not None:
                    self._sender.stop()
                self._registered.set()
                self._jobs_ended.set()
                self._audit.stop()
                self._revisions.stop()
                await self._feeder.close()
                await self._hints.close()
                await asyncio.gather(*tasks, return_exceptions=True)
        except TimeoutError:
            log.warning("not drained in time, others take over by reaping", drain_s=self._settings.drain_s)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=END_WITHIN_S)
        await self._previews.close()
        await asyncio.to_thread(self._compiler.close)
        await asyncio.to_thread(self._each.close)

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        await self._registered.wait()
        on_ready()

    # -- the two ways to the database ------------------------------------------------------------------------------------

    def _ways(self) -> tuple[tuple[Way, Way], tuple[Way, Way]]:
        database_url, direct_url = self._settings.addresses()
        heartbeat = self._keeper.heartbeat
        pooled = Way(
            "pooled connections",
            self._pooled.is_silent,
            lambda within_s: answers(database_url, within_s=within_s),
        )
        direct = Way(
            "direct connection",
            lambda: heartbeat.failing_since is not None,
            lambda within_s: answers(direct_url, within_s=within_s),
        )
        return (pooled, direct), (direct, pooled)

    async def _watch(self, one: Way, other: Way) -> None:
        await watch(one, other, on_dead=self._cannot_work)

    # -- jobs: they drive the work, nothing stands or falls with them ------------------------------------------------------

    async def _wake(self, connection: Connection) -> None:
        """
        Inside the transaction of a slot: a tick job that exists exactly when the slot does, unless the jobs' tables are not to be had.

        Then the slot goes on without one: the hint and the ledger wake the same work.
        """
        self._ingest.step()
        asyncio.get_running_loop().call_later(HINT_AFTER_S, self._hints.send, Channel.SLOT)
        try:
            async with connection.transaction():
                await jobs.use_job_schema(connection)
                await jobs.limit_waiting(connection, within_ms=DEFER_WITHIN_MS)
                await tick.configure(connection=connection).defer_async()
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, ConnectorException) as error:
            self._metrics.jobs_not_deferred.inc()
            log.warning("no tick job for this slot", reason=str(error).strip())

    async def _count_dead_letters(self) -> None:
        """A number for an alert, every ``DEAD_LETTERS_EVERY_S``."""
        while True:
            async with self._pool.connection() as connection, connection.transaction():
                await jobs.limit_waiting(connection, within_ms=DEFER_WITHIN_MS)
                self._metrics.dead_letters.set(await jobs.dead_letters(connection))
            await asyncio.sleep(DEAD_LETTERS_EVERY_S)
