"""
The keeper of one machine: registers its boot, beats, reaps the dead, claims a fair share, and gives it back at the end.

Everything hangs on one direct connection: the session lock that proves this process lives, the heartbeat, the ingest lock, and LISTEN.
The beat comes from the loop that does the work: a screening that has been stuck for ``STUCK_AFTER_S`` stops it, and others take over.

Trust: a machine whose heartbeat could not be renewed stops believing in its leases before others may reap it, measured on its own
monotonic clock from the moment it *began* the last successful beat (``GRACE_S`` − ``TRUST_MARGIN_S``; ``docs/design.md``,
*Leases*).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import psycopg
import structlog

from app.coordination.hints import Channel, listen, notify
from app.errors import Fenced, NotTrusted
from app.metrics import WorkerMetrics
from app.store import accounts, jobs, leases, machines, trader_state
from app.store.machines import Beat
from app.store.pool import Connection, connect_direct

log = structlog.get_logger(__name__)
BEAT_S = 1.0
FEED_AGAIN_S = 60.0
GRACE_S = 2.5  # lock gone and no heartbeat for this long: dead
TRUST_MARGIN_S = 0.5
CYCLE_TIMEOUT_S = 3.0  # a cycle that takes longer is a broken connection
STUCK_AFTER_S = 30.0
DEAD_LETTERS_EVERY_S = 30.0  # a number for an alert, not for a clock
BYPASS_AFTER_S = 15.0  # a closed slot unscreened for this long: the jobs are not doing their work
CLAIM_MAX = 1000  # leases moved in one statement
REAP_MAX = 20_000  # and given up by a dead machine, in `vyx.reap_v1`
SURPLUS_SLACK = 0.05  # a spread of ±5 % stays: moving it would cost more than it gives


class Holder(Protocol):
    """Whoever does the work that leases are about; the keeper tells it what it holds."""

    screened_through: datetime | None
    busy_since: float | None

    @property
    def owned(self) -> int:
        """How many traders are loaded."""

    async def begin_boot(self, boot_id: int, screened_through: datetime) -> None:
        """Start over under a new identity."""

    async def sync(self) -> None:
        """Take over what was claimed, changed or stopped."""

    async def screen(self) -> int:
        """Account for every slot that is due."""

    async def release_surplus(self, surplus: int) -> int:
        """Give so many traders back."""

    async def drain(self) -> None:
        """Finish the slot in hand and start no other."""


class Keeper:
    """
    Args:
        holder_of: Makes the holder, given the question whether it may still believe in its leases.
        direct_url: A direct (or session-mode) connection.
        on_ingest: Called once when this machine becomes the feeder of market data; the awaitable ends with the connection.
        on_bypass: Called when the jobs have not done their work: start their worker anew.
    """

    def __init__(
        self,
        direct_url: str,
        machine_id: str,
        holder_of: Callable[[Callable[[], bool]], Holder],
        metrics: WorkerMetrics,
        *,
        ttl_s: float,
        on_ingest: Callable[[int], Awaitable[None]],
        on_registered: Callable[[int], None],
        on_bypass: Callable[[], None],
    ) -> None:
        self._direct_url = direct_url
        self._machine_id = machine_id
        self._metrics = metrics
        self._ttl_s = ttl_s
        self._on_ingest = on_ingest
        self._on_registered = on_registered
        self._on_bypass = on_bypass
        self._connection: Connection | None = None
        self._trusted_until = 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unscreened_since: float | None = None
        self._stood_at: datetime | None = None
        self._counted_at = -math.inf
        self._feeds_from = -math.inf
        self._stopping = asyncio.Event()
        self.boot_id: int | None = None
        self.holder = holder_of(self.trusted)

    def trusted(self) -> bool:
        """May this machine still believe in its leases?"""
        return time.monotonic() < self._trusted_until

    async def run(self) -> None:
        """Beat until stopped; returns on a lost connection, for the supervisor to start again."""
        try:
            connection = await self._connect()
            while not self._stopping.is_set():
                again = await self._bounded(self._cycle(connection))
                if not again:
                    await self._wait(connection)
        except (psycopg.Error, OSError):
            self._metrics.beat_failures.inc()
            raise
        finally:
            await self._disconnect()

    async def leave(self) -> None:
        """Finish the slot in hand, give every lease back and end this boot; within a second when Postgres answers."""
        self._stopping.set()
        await self.holder.drain()
        # waited for afterwards: ending a simulated exchange takes longer than a release may
        tasks = self._cancel_tasks()
        try:
            if self.boot_id is not None:
                await self._give_back(self.boot_id)
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_back(self, boot_id: int) -> None:
        try:
            connection = await connect_direct(self._direct_url, name=f"vyx-leave:{self._machine_id}")
            try:
                released = await machines.leave(connection, boot_id)
                await notify(connection, Channel.LEASE)
                log.info("left", boot_id=boot_id, released=released)
            finally:
                await connection.close()
        except Fenced:
            log.info("was already buried", boot_id=boot_id)
        except (psycopg.Error, OSError) as error:
            log.warning("leases not given back, others will reap them", boot_id=boot_id, reason=str(error))

    # -- connection and identity ----------------------------------------------------------------------------------------

    async def _connect(self) -> Connection:
        connection = await connect_direct(self._direct_url, name=f"vyx-keeper:{self._machine_id}")
        self._connection = connection
        await listen(connection, Channel.TRADER, Channel.LEASE)
        if self.boot_id is not None and await machines.resume(connection, self.boot_id):
            log.info("resumed", boot_id=self.boot_id)
            return connection
        await self._register(connection)
        return connection

    async def _register(self, connection: Connection) -> None:
        self.boot_id, screened_through = await machines.register(connection, self._machine_id)
        await self.holder.begin_boot(self.boot_id, screened_through)
        self._on_registered(self.boot_id)
        log.info(
            "registered",
            machine_id=self._machine_id,
            boot_id=self.boot_id,
            screened_through=screened_through.isoformat(),
        )

    async def _disconnect(self) -> None:
        await asyncio.gather(*self._cancel_tasks(), return_exceptions=True)
        if self._connection is not None:
            self._connection.pgconn.finish()  # close() would wait for a server that may be gone
            self._connection = None

    def _cancel_tasks(self) -> list[asyncio.Task[None]]:
        """Tell every task to end; the caller waits for them."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        return tasks

    async def _bounded(self, cycle: Awaitable[bool]) -> bool:
        """A cycle on a dead link ends at once: psycopg would send a cancel request and wait 5 s more, so the socket goes first."""
        task = asyncio.ensure_future(cycle)
        await asyncio.wait({task}, timeout=CYCLE_TIMEOUT_S)
        if task.done():
            return task.result()
        if self._connection is not None:
            self._connection.pgconn.finish()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise ConnectionError(f"no heartbeat within {CYCLE_TIMEOUT_S:g} s")

    async def _wait(self, connection: Connection) -> None:
        """Until the next beat, or until somebody has something for us."""
        channels = {
            notification.channel async for notification in connection.notifies(timeout=BEAT_S, stop_after=1)
        }
        if channels:
            self._spawn("sync", self.holder.sync)

    # -- one cycle ------------------------------------------------------------------------------------------------------

    async def _cycle(self, connection: Connection) -> bool:
        if self.boot_id is None:
            raise RuntimeError("a keeper registers before it beats")
        if self._is_stuck():
            log.error("screening is stuck, not beating", boot_id=self.boot_id)
            await asyncio.sleep(BEAT_S)
            return False
        began = time.monotonic()
        beat = await machines.beat(connection, self.boot_id, self.holder.owned)
        if not beat.ok:
            # leave() has ended this boot: a new one would be a machine that does nothing
            if self._stopping.is_set():
                return False
            log.warning("buried by another machine", boot_id=self.boot_id)
            await asyncio.gather(*self._cancel_tasks(), return_exceptions=True)
            await self._register(connection)
            return True
        self._trusted_until = began + min(self._ttl_s, GRACE_S) - TRUST_MARGIN_S
        await trader_state.retry_due(connection)
        await self._stop_beyond_tiers(connection)
        more = await self._reap(connection)
        again = await self._share(connection, beat) or more
        await self._feed_market(connection)
        self._watch(beat)
        self._report(beat)
        await self._count_dead_letters(connection)
        return again

    async def _stop_beyond_tiers(self, connection: Connection) -> None:
        if stopped := await accounts.stop_beyond_tiers(connection):
            log.info("stopped beyond their tier", traders=stopped)
            await notify(connection, Channel.TRADER, Channel.FEED)

    async def _count_dead_letters(self, connection: Connection) -> None:
        now = time.monotonic()
        if now - self._counted_at >= DEAD_LETTERS_EVERY_S:
            self._counted_at = now
            self._metrics.dead_letters.set(await jobs.dead_letters(connection))

    async def _reap(self, connection: Connection) -> bool:
        """Bury the dead; True when one of them had more traders than are freed at once."""
        dead = await machines.reap(connection, ttl_s=self._ttl_s, grace_s=GRACE_S)
        for reaped in dead:
            log.warning("reaped", machine_id=reaped.machine_id, boot_id=reaped.boot_id, freed=reaped.freed)
            self._metrics.lease_moves.labels("reaped").inc(reaped.freed)
        if dead:  # everybody listens, this machine too: all claim at once instead of with their next beat
            await notify(connection, Channel.LEASE)
        return any(reaped.freed >= REAP_MAX for reaped in dead)

    def _is_stuck(self) -> bool:
        busy_since = self.holder.busy_since
        return busy_since is not None and time.monotonic() - busy_since > STUCK_AFTER_S

    async def _share(self, connection: Connection, beat: Beat) -> bool:
        """Claim up to a fair share, or let the surplus go; True when there is more to claim at once."""
        if self.boot_id is None:
            return False
        if beat.state == "draining":
            if self.holder.owned:
                self._spawn("release", lambda: self._release(self.holder.owned))
            return False
        target = math.ceil(beat.total / max(1, beat.alive))
        claimed = 0
        if beat.unowned and beat.mine < target:
            claimed = await leases.claim(connection, self.boot_id, min(target - beat.mine, CLAIM_MAX))
            self._metrics.lease_moves.labels("claimed").inc(claimed)
            log.info("claimed", traders=claimed, target=target)
        elif beat.mine > target * (1 + SURPLUS_SLACK) + 1:
            surplus = min(beat.mine - target, CLAIM_MAX)
            self._spawn("release", lambda: self._release(surplus))
        self._spawn("sync", self.holder.sync)  # not awaited: it waits for the slot in hand, a beat must not
        return claimed == CLAIM_MAX

    async def _release(self, surplus: int) -> None:
        released = await self.holder.release_surplus(surplus)
        self._metrics.lease_moves.labels("released").inc(released)
        log.info("released", traders=released)

    async def _feed_market(self, connection: Connection) -> None:
        if "ingest" in self._tasks or self.boot_id is None:
            return
        if time.monotonic() < self._feeds_from:
            await machines.give_ingest_lock_back(connection)
        elif await machines.try_ingest_lock(connection):
            boot_id = self.boot_id
            self._spawn("ingest", lambda: self._on_ingest(boot_id))

    def feed_no_more(self) -> None:
        """Let another machine feed the market; this one tries again after ``FEED_AGAIN_S``."""
        self._feeds_from = time.monotonic() + FEED_AGAIN_S
        if (task := self._tasks.pop("ingest", None)) is not None:
            task.cancel()

    def _watch(self, beat: Beat) -> None:
        """The backstop: jobs wake the screening, but a slot that waits for 15 s is screened without them."""
        standing = self.holder.screened_through
        if beat.newest_closed is None or standing is None or beat.newest_closed <= standing:
            self._unscreened_since = None
        elif self._unscreened_since is None or standing != self._stood_at:
            self._unscreened_since, self._stood_at = time.monotonic(), standing
        elif time.monotonic() - self._unscreened_since > BYPASS_AFTER_S and self.holder.busy_since is None:
            self._unscreened_since = None
            self._metrics.job_bypasses.inc()
            log.warning(
                "no job has screened a closed slot for 15 s, screening it from the keeper",
                newest_closed=beat.newest_closed.isoformat(),
            )
            self._on_bypass()
            self._spawn("bypass", self._bypass)

    async def _bypass(self) -> None:
        try:
            await self.holder.screen()
        except NotTrusted:
            log.info("not trusted, leaving the slot for later")

    def _report(self, beat: Beat) -> None:
        self._metrics.machines_alive.set(beat.alive)
        self._metrics.traders_total.set(beat.total)
        self._metrics.traders_unowned.set(beat.unowned)
        self._metrics.traders_active.labels("running").set(self.holder.owned)
        self._metrics.slot_lag.set(_lag_s(beat.newest_closed, self.holder.screened_through))

    def _spawn(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """One task of a name at a time: work that must not hold up the beat."""
        if name in self._tasks:
            return
        self._tasks[name] = asyncio.create_task(self._guarded(name, work), name=f"keeper-{name}")

    async def _guarded(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except (Fenced, NotTrusted) as error:
            log.info("not ours any more", task=name, reason=str(error))
        except (psycopg.Error, OSError) as error:
            log.warning("task failed, the next beat starts it again", task=name, reason=str(error))
        except Exception:
            log.exception("task failed", task=name)
        finally:
            if self._tasks.get(name) is asyncio.current_task():
                del self._tasks[name]


def _lag_s(newest_closed: datetime | None, standing: datetime | None) -> float:
    if newest_closed is None or standing is None:
        return 0.0
    return max(0.0, (newest_closed - standing).total_seconds())
