"""The tasks: a few lines each, calling app."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import procrastinate
import structlog
from procrastinate.exceptions import AlreadyEnqueued

from app import retention
from app.delivery import outbox
from app.store import deliveries, jobs, machines, slots
from jobs.app import PREVIEW_QUEUE, TICK_QUEUE, app, machine_queue

if TYPE_CHECKING:
    from app.coordination.keeper import Keeper
    from app.delivery.sealing import Sealer
    from app.domain.retention import KeepDays
    from app.metrics import WorkerMetrics
    from app.preview.job import PreviewJob
    from app.store.pool import Connection, Pool

log = structlog.get_logger(__name__)
TICK_AGE_MAX_S = 50  # a worker that was paused defers executed ticks again


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


@app.periodic(cron="*/10 * * * *")
@app.task(name="prune", queue=TICK_QUEUE, pass_context=True)
async def prune(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Drop what is older than it is kept, and jobs of machines that are gone."""
    pool = cast("Pool", context.additional_context["pool"])
    keep = cast("KeepDays", context.additional_context["keep_days"])
    metrics = cast("WorkerMetrics", context.additional_context["metrics"])
    async with pool.connection() as connection:
        await jobs.cancel_jobs_of_the_dead(connection)
    await retention.prune(pool, keep, metrics)


@app.task(name="preview", queue=PREVIEW_QUEUE, pass_context=True)
async def preview(context: procrastinate.JobContext) -> None:
    """Answer previews by user turns until none may begin; their rows say how they ended."""
    await cast("PreviewJob", context.additional_context["previews"]).run()


async def defer_preview(connection: Connection) -> None:
    """Inside the caller's transaction, as its last statement: a job exists when the row does."""
    await jobs.use_job_schema(connection)
    await preview.configure(connection=connection).defer_async()


@app.periodic(cron="* * * * *")
@app.task(name="queue_troubles", queue=TICK_QUEUE, pass_context=True)
async def queue_troubles(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Tell users of an outage, or of traders that lag: once per user, and once when it is over."""
    pool = cast("Pool", context.additional_context["pool"])
    async with pool.connection() as connection:
        await deliveries.queue_troubles(connection)


@app.periodic(cron="29 * * * *")
@app.task(name="seal_again", queue=TICK_QUEUE, pass_context=True)
async def seal_again(context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 procrastinate passes the minute it was due
    """Seal again what an older key has sealed."""
    pool = cast("Pool", context.additional_context["pool"])
    sealer = cast("Sealer | None", context.additional_context["sealer"])
    if sealer is not None:
        done, left = await outbox.seal_again(pool, sealer)
        if done or left:
            log.info("sealed again with the newest key", done=done, left=left)
