"""
Deletes what is older than it is kept: one mechanism for every kind of row.

In three steps per kind, each statement a transaction of its own:

1. `vyx.prunings` states from when on rows are kept, before the first one goes.
2. Signals first lose whole months. Then every kind loses `PIECE_ROWS` rows at a time, until fewer are found.
3. What was deleted is counted there and in `vyx_pruned_rows_total`, and logged.

A kind that fails (a lock, a timeout) is logged and counted, and waits for the next run; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import psycopg
import structlog

from app.domain.retention import KINDS, Clocks, KeepDays, kept_from
from app.metrics import WorkerMetrics
from app.store import (
    candle_refusals,
    candles,
    deliveries,
    feed,
    idempotent_answers,
    incidents,
    jobs,
    leases,
    machines,
    previews,
    prunings,
    rate_limits,
    signal_digests,
    signal_revisions,
    signals,
    signals_failed,
    slots,
    trader_versions,
)
from app.store.pool import Connection, Pool, patient
from sandbox.plan.timeframes import TIMEFRAMES

log = structlog.get_logger(__name__)
PIECE_ROWS = 5000  # signals at 91 pairs: 60 ms a piece; statement_timeout is 5 s
PIECES_MAX = 200  # of a kind in one run, a million rows; a run starts every ten minutes
PROGRESS_PIECES = 10
ANSWER_WITHIN_S = 60.0
CANDLE_BARS_KEPT = 6000  # plans may look back 5000 bars; the rest is room for catching up

_Prune = Callable[..., Awaitable[int]]
_PRUNE: dict[str, _Prune] = {
    "signals": signals.prune,
    "signal_digests": signal_digests.prune,
    "signal_revisions": signal_revisions.prune,
    "signals_failed": signals_failed.prune,
    "leases": leases.prune,
    "slots": slots.prune,
    "candle_corrections": candles.prune_corrections,
    "candle_refusals": candle_refusals.prune,
    "trader_versions": trader_versions.prune,
    "incidents": incidents.prune,
    "machines": machines.prune,
    "deliveries": deliveries.prune,
    "previews": previews.prune,
    "idempotent_answers": idempotent_answers.prune,
    "rate_limits": rate_limits.prune,
    "jobs": jobs.prune,
}


async def prune(pool: Pool, keep: KeepDays, metrics: WorkerMetrics) -> dict[str, int]:
    """
    Delete what *keep* does not keep; returns the number of rows per kind.

    Raises:
        psycopg.OperationalError: the database cannot be asked for its clocks; nothing was deleted.
    """
    async with patient(pool, ANSWER_WITHIN_S) as connection:
        clocks = await prunings.read_clocks(connection)
    pruned = {}
    for kind in KINDS:
        try:
            pruned[kind] = await _prune_kind(pool, kind, keep, clocks, metrics)
        except psycopg.Error:
            metrics.prune_failures.labels(kind).inc()
            log.exception("not pruned, tried again at the next run", kind=kind)
    return pruned


async def _prune_kind(pool: Pool, kind: str, keep: KeepDays, clocks: Clocks, metrics: WorkerMetrics) -> int:
    if kind == "candles":
        rows = await _prune_candles(pool, clocks)
        metrics.pruned_rows.labels(kind).inc(rows)
        return rows
    before = kept_from(kind, keep, clocks)
    if before is None:
        return 0
    started = time.monotonic()
    async with patient(pool, ANSWER_WITHIN_S) as connection:
        await prunings.begin(connection, kind, before)
    total = 0
    for number in range(1, PIECES_MAX + 1):
        async with patient(pool, ANSWER_WITHIN_S) as connection:
            rows, is_last = await _piece(connection, kind, before, keep, clocks)
            if rows:
                await prunings.count(connection, kind, rows)
        metrics.pruned_rows.labels(kind).inc(rows)
        total += rows
        if is_last:
            break
        if number % PROGRESS_PIECES == 0:
            log.info("pruning", kind=kind, rows=total)
    if total:
        seconds = round(time.monotonic() - started, 2)
        log.info("pruned", kind=kind, rows=total, before=before.isoformat(), seconds=seconds)
    return total


async def _piece(
    connection: Connection, kind: str, before: datetime, keep: KeepDays, clocks: Clocks
) -> tuple[int, bool]:
    """Delete a piece; returns how many rows, and whether nothing was left behind it."""
    if kind == "signals" and (rows := await signals.drop_partition(connection, before=before)) is not None:
        return rows, False
    if kind == "events":
        leases_before = clocks.wall - timedelta(days=keep.leases)
        rows = await feed.prune_events(
            connection, before=before, leases_before=leases_before, limit=PIECE_ROWS
        )
    else:
        rows = await _PRUNE[kind](connection, before=before, limit=PIECE_ROWS)
    return rows, rows < PIECE_ROWS


async def _prune_candles(pool: Pool, clocks: Clocks) -> int:
    """Candles are kept by number, not by age: a piece per timeframe."""
    rows = 0
    if clocks.market is not None:
        for timeframe, seconds in TIMEFRAMES.items():
            async with patient(pool, ANSWER_WITHIN_S) as connection:
                rows += await candles.prune(
                    connection, timeframe, clocks.market, bars=CANDLE_BARS_KEPT, seconds=seconds
                )
    return rows
