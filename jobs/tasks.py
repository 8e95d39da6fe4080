"""The tasks: a few lines each, calling app."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import procrastinate
import structlog
from procrastinate.exceptions import AlreadyEnqueued

from app.delivery import outbox
from app.store import (
    candles,
    deliveries,
    idempotent_answers,
    jobs,
    machines,
    previews,
    slots,
    trader_versions,
)
from app.store.pool import patient
from jobs.app import PREVIEW_QUEUE, TICK_QUEUE, app, machine_queue
from sandbox.plan.timeframes import TIMEFRAMES

if TYPE_CHECKING:
    from app.coordination.keeper import Keeper
    from app.delivery.sealing import Sealer
    from app.preview.job import PreviewJob
    from app.store.pool import Connection, Pool

log = structlog.get_logger(__name__)
TICK_AGE_MAX_S = 50  # a worker that was paused defers executed ticks again
CANDLE_BARS_KEPT = 6000  # plans may look back 5000 bars; the rest is room for catching up
LEDGER_DAYS_KEPT = 90
PREVIEWS_KEPT_S = 3600
PRUNE_ANSWER_WITHIN_S = 60.0
DELIVERIES_DAYS_KEPT = 30
DELIVERIES_AT_ONCE = 20_000


@app.periodic(cron="* * * * *")
@app.task(name="tick", queue=TICK_QUEUE, pass_context=True)
async def tick(context: procrastinate.JobContext, timestamp: int | None = None) -> None:
    """
    Open the slots that are due (so that a silent feed shows) and wake every live machine. Deferred by ingest
    with each slot, too.
    """
    if timestamp is not None and time.time() - timestamp > TICK_AGE_MAX_S:
        return
    pool = cast("Pool", context.additional_context["pool"])
    async with pool.connection() as connection:
        if timestamp is not None:
            await slots.open_due(connection)
        boots = await machines.live_boots(connection)
    for boot_id in boots:
        queue = machine_queue(boot_id)
        try:
            await screen.configure(queue=queue, queueing_lock=queue).defer_async()
        except AlreadyEnqueued:
            log.debug("already woken", boot_id=boot_id)


@app.task(name="screen", pass_context=True)
async def screen(context: procrastinate.JobContext) -> None:
    """Let every slot be screened that this machine has not accounted for; how that ends is not the job's business."""
    await cast("Keeper", context.additional_context["keeper"]).screen_for_job()


@app.periodic(cron="17 * * * *")
@app.task(name="prune", queue=TICK_QUEUE, pass_context=True)
async def prune(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Drop candles no plan may look back on, old slots and versions, and jobs of machines that are gone."""
    pool = cast("Pool", context.additional_context["pool"])
    async with patient(pool, PRUNE_ANSWER_WITHIN_S) as connection:
        ledger = await slots.counts(connection)
        if ledger.market_time is not None:
            for timeframe, seconds in TIMEFRAMES.items():
                await candles.prune(
                    connection, timeframe, ledger.market_time, bars=CANDLE_BARS_KEPT, seconds=seconds
                )
        await slots.prune(connection, days=LEDGER_DAYS_KEPT)
        await trader_versions.prune(connection, days=LEDGER_DAYS_KEPT)
        await jobs.cancel_jobs_of_the_dead(connection)


@app.task(name="preview", queue=PREVIEW_QUEUE, pass_context=True)
async def preview(context: procrastinate.JobContext) -> None:
    """Answer previews by user turns until none may begin; their rows say how they ended."""
    await cast("PreviewJob", context.additional_context["previews"]).run()


async def defer_preview(connection: Connection) -> None:
    """Inside the caller's transaction, as its last statement: a job exists when the row does."""
    await jobs.use_job_schema(connection)
    await preview.configure(connection=connection).defer_async()


@app.periodic(cron="*/10 * * * *")
@app.task(name="prune_previews", queue=TICK_QUEUE, pass_context=True)
async def prune_previews(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Drop previews that are an hour old, and answers kept for an Idempotency-Key when they are a day old."""
    pool = cast("Pool", context.additional_context["pool"])
    async with pool.connection() as connection:
        await previews.prune(connection, keep_s=PREVIEWS_KEPT_S)
        await idempotent_answers.prune(connection)


@app.periodic(cron="* * * * *")
@app.task(name="queue_troubles", queue=TICK_QUEUE, pass_context=True)
async def queue_troubles(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Tell users of an outage, or of traders that lag: once per user, and once when it is over."""
    pool = cast("Pool", context.additional_context["pool"])
    async with pool.connection() as connection:
        await deliveries.queue_troubles(connection)


@app.periodic(cron="29 * * * *")
@app.task(name="keep_deliveries", queue=TICK_QUEUE, pass_context=True)
async def keep_deliveries(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Drop old receipts; seal again what an older key has sealed."""
    pool = cast("Pool", context.additional_context["pool"])
    pruned = DELIVERIES_AT_ONCE
    while pruned == DELIVERIES_AT_ONCE:
        async with pool.connection() as connection:
            pruned = await deliveries.prune(connection, days=DELIVERIES_DAYS_KEPT, limit=DELIVERIES_AT_ONCE)
    sealer = cast("Sealer | None", context.additional_context["sealer"])
    if sealer is not None:
        done, left = await outbox.seal_again(pool, sealer)
        if done or left:
            log.info("sealed again with the newest key", done=done, left=left)
