"""
The reaper: ends machines that are silent, settles what they left half done, and compares what is kept with what it is kept of.

Reaping is one update of one row whatever the machine owned: the traders of a dead machine are free, and claimed like any others.
"""

from __future__ import annotations

import math
import time

import psycopg
import structlog

from app.coordination.heartbeat import GRACE_S
from app.coordination.hints import Channel, notify
from app.coordination.pieces import Piece
from app.metrics import WorkerMetrics
from app.store import leases, machines
from app.store.pool import Connection

log = structlog.get_logger(__name__)
CHECK_EVERY_S = 60.0  # one bar: what was edited by hand is found within two


class Reaper:
    """
    Args:
        ttl_s: A machine without a heartbeat for this long is dead, whether or not its lock is there.
    """

    def __init__(self, metrics: WorkerMetrics, *, ttl_s: float) -> None:
        self._metrics = metrics
        self._ttl_s = ttl_s
        self._settle_piece = Piece("settle", metrics)
        self._checked_at = -math.inf

    async def run(self, connection: Connection, boot_id: int) -> bool:
        """Reap, settle, check; True when a machine was reaped."""
        dead = await machines.reap(connection, boot_id, ttl_s=self._ttl_s, grace_s=GRACE_S)
        for reaped in dead:
            log.warning("reaped", machine_id=reaped.machine_id, boot_id=reaped.boot_id, freed=reaped.freed)
            self._metrics.lease_moves.labels("reaped").inc(reaped.freed)
        if dead:  # everybody listens: all claim at once instead of with their next round
            await notify(connection, Channel.LEASE)
        await self._settle_piece.run(lambda size: leases.settle(connection, size))
        await self._check(connection)
        return bool(dead)

    async def _check(self, connection: Connection) -> None:
        now = time.monotonic()
        if now - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = now
        try:
            repairs = await machines.check(connection)
        except psycopg.errors.QueryCanceled:
            log.warning("the check of the coordination tables took too long, it will be tried again")
            return
        if repairs:
            self._metrics.repairs.inc(repairs)
            log.error(
                "coordination tables were wrong and have been put right, see vyx.incidents", repairs=repairs
            )
