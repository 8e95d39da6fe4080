"""
Composition of the worker process: keeper, screener, jobs, ingest, metrics. One of the two modules that know everything.

Order of the end (SIGTERM): the current slot is finished, leases are given back, then jobs, ingest and connections close. All within
``VYX_DRAIN_S``; whatever is left then is cut off, which costs nothing but the latency of a reap.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from app.coordination.hints import Hints
from app.coordination.keeper import Keeper
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
from app.store.pool import make_pool
from jobs.runner import job_connections, run_jobs, run_previews
from jobs.tasks import tick
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import Compiled, FilterCompiler

log = structlog.get_logger(__name__)


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
        self._pool = make_pool(database_url, max_size=settings.pool_max, name="vyx-worker")
        self._sender: Sender | None = None
        self._sealer = Sealer(settings.secret_keys) if settings.secret_keys else None
        self._hints = Hints(self._pool, on_send=self._wake_sender)
        self._compiler = LazyCompiler()
        self._each = EachRunner()
        self._previews = PreviewJob(self._pool, self._hints, [EvaluatingProcess() for _ in range(PROCESSES)])
        self._stopping = asyncio.Event()
        self._fatal: CommandFailed | None = None
        self._registered = asyncio.Event()
        self._jobs_ended = asyncio.Event()
        self._feeder = Feeder(
            settings,
            self._pool,
            MarketMetrics(self._registry),
            wake=_defer_tick,
            on_unusable=self._give_up,
            on_held=self._feed_no_more,
        )
        self._audit: StandingAudit
        self._keeper = Keeper(
            direct_url,
            settings.machine_id,
            self._make_screener,
            self._metrics,
            ttl_s=settings.lease_ttl_s,
            on_ingest=self._feeder.run,
            on_registered=self._on_registered,
            on_bypass=self._restart_jobs,
        )

    def _make_screener(self, trusted: Callable[[], bool]) -> Screener:
        self._screener = Screener(
            self._pool,
            self._hints,
            self._metrics,
            trusted,
            self._compiler.compile,
            self._each,
            on_screened=self._note_screened,
        )
        self._revisions = Revisions(self._pool)
        self._audit = StandingAudit(self._pool, self._screener, self._metrics, self._each)
        return self._screener

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
            CommandFailed: the market cannot be served; said after a clean drain.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._pool.open(wait=True, timeout=30)
        _, direct_url = self._settings.addresses()
        with serve_metrics(self._settings.host, self._settings.metrics_port, self._registry):
            async with job_connections(direct_url):
                tasks = [
                    asyncio.create_task(supervise("keeper", self._keeper.run, self._stopping)),
                    asyncio.create_task(supervise("jobs", self._run_jobs, self._stopping)),
                    asyncio.create_task(supervise("audit", self._audit.run, self._stopping)),
                    asyncio.create_task(supervise("revisions", self._revisions.run, self._stopping)),
                    asyncio.create_task(supervise("sender", self._send, self._stopping)),
                    asyncio.create_task(supervise("previews", self._run_previews, self._stopping)),
                ]
                ready = asyncio.create_task(self._announce(on_ready))
                await self._stopping.wait()
                ready.cancel()
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
            "screener": self._screener,
            "sealer": self._sealer,
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
                await self._keeper.leave()
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
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._previews.close()
        await asyncio.to_thread(self._compiler.close)
        await asyncio.to_thread(self._each.close)

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        await self._registered.wait()
        on_ready()


async def _defer_tick(connection: Any) -> None:
    """Inside the caller's transaction: the tick exists exactly when the slot does."""
    await jobs.use_job_schema(connection)
    await tick.configure(connection=connection).defer_async()
