"""
Fair shares: every living machine holds about as many traders as any other.

Decided here: when to claim and when to give the surplus back. How a trader moves is SQL (``claim_v1``, ``release_v1``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import structlog

from app.coordination.pieces import Piece
from app.metrics import WorkerMetrics
from app.store import leases
from app.store.leases import Shares
from app.store.pool import Connection

log = structlog.get_logger(__name__)
SURPLUS_SLACK = 0.05  # a spread of ±5 % stays: moving it would cost more than it gives
PIECES_AT_ONCE = 8  # then reaping and the ingest lock have a turn


class Releasing(Protocol):
    """Whoever gives traders back between two slots."""

    @property
    def owned(self) -> int:
        """How many traders are loaded."""

    async def release_surplus(self, surplus: int) -> int:
        """Give so many traders back; returns how many."""


class ShareKeeper:
    """
    Args:
        holder: Gives traders back.
        spawn_release: Runs the giving back beside the round: it waits for the slot in progress.
        on_claimed: Called after each piece: the traders are to be loaded.
    """

    def __init__(
        self,
        holder: Releasing,
        metrics: WorkerMetrics,
        *,
        spawn_release: Callable[[int], None],
        on_claimed: Callable[[], None],
    ) -> None:
        self._holder = holder
        self._metrics = metrics
        self._spawn_release = spawn_release
        self._on_claimed = on_claimed
        self._claim_piece = Piece("claim", metrics)
        self._release_piece = Piece("release", metrics)

    async def balance(self, connection: Connection, boot_id: int) -> bool:
        """Claim up to a fair share, or let the surplus go; True when there is more to claim at once."""
        await leases.fold_counts(connection)
        shares = await leases.read_shares(connection, boot_id)
        self._report(shares)
        if shares.state == "draining":
            if shares.mine or self._holder.owned:
                self._spawn_release(max(shares.mine, self._holder.owned))
            return False
        target = math.ceil(shares.total / max(1, shares.alive))
        if shares.unowned and shares.mine < target:
            return await self._claim(connection, boot_id, target - shares.mine)
        if shares.mine > target * (1 + SURPLUS_SLACK) + 1:
            self._spawn_release(shares.mine - target)
        return False

    async def _claim(self, connection: Connection, boot_id: int, wanted: int) -> bool:
        for _ in range(PIECES_AT_ONCE):
            claimed = await self._claim_piece.run(
                lambda size: leases.claim(connection, boot_id, size), at_most=wanted
            )
            if not claimed:
                return False
            self._metrics.lease_moves.labels("claimed").inc(claimed)
            log.info("claimed", traders=claimed, wanted=wanted)
            self._on_claimed()
            wanted -= claimed
            if wanted <= 0:
                return False
        return True

    async def release(self, surplus: int) -> None:
        """Give *surplus* traders back, a piece at a time."""
        while surplus > 0:
            released = await self._release_piece.run(self._holder.release_surplus, at_most=surplus)
            if not released:
                return
            surplus -= released
            self._metrics.lease_moves.labels("released").inc(released)
            log.info("released", traders=released)

    def _report(self, shares: Shares) -> None:
        self._metrics.machines_alive.set(shares.alive)
        self._metrics.traders_total.set(shares.total)
        self._metrics.traders_unowned.set(shares.unowned)
        self._metrics.traders_active.labels("running").set(self._holder.owned)
