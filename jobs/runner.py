"""
Runs procrastinate's worker inside a worker process, on direct connections of its own with its own
search_path.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg_pool import AsyncConnectionPool

from app.preview.job import PROCESSES
from app.store.jobs import use_job_schema
from app.store.pool import KEEPALIVE, Connection, connection_class
from jobs.app import PREVIEW_QUEUE, TICK_QUEUE, app, machine_queue

GRACEFUL_S = 10  # a running screening ends well within
CONCURRENCY = 4


async def _configure(connection: Connection) -> None:
    await connection.set_autocommit(True)
    await use_job_schema(connection, for_session=True)


@asynccontextmanager
async def job_connections(direct_url: str) -> AsyncIterator[None]:
    """Procrastinate's own small pool: two direct connections, and a third that it opens itself to LISTEN."""
    pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
        direct_url,
        connection_class=connection_class(),
        min_size=1,
        max_size=2,
        open=False,
        configure=_configure,
        check=AsyncConnectionPool.check_connection,
        kwargs={"prepare_threshold": None, "application_name": "vyx-jobs", **KEEPALIVE},
        name="vyx-jobs",
    )
    await pool.open(wait=True)
    try:
        async with app.open_async(pool=pool):
            yield
    finally:
        await pool.close()


async def run_jobs(boot_id: int, context: dict[str, Any], stopping: asyncio.Event) -> None:
    """
    Work on the shared tick queue and this boot's own queue until *stopping*, or until procrastinate gives up.

    It gives up silently on a database outage: run it under the supervisor.
    """
    await _work([TICK_QUEUE, machine_queue(boot_id)], CONCURRENCY, context, stopping)


async def run_previews(context: dict[str, Any], stopping: asyncio.Event) -> None:
    """
    Work on the shared queue of previews, as :func:`run_jobs` does on its own.

    Apart from the others: a screening never waits for a place behind previews.
    """
    await _work([PREVIEW_QUEUE], PROCESSES, context, stopping)


async def _work(
    queues: list[str], concurrency: int, context: dict[str, Any], stopping: asyncio.Event
) -> None:
    worker = asyncio.create_task(
        app.run_worker_async(
            queues=queues,
            concurrency=concurrency,
            install_signal_handlers=False,
            shutdown_graceful_timeout=GRACEFUL_S,
            fetch_job_polling_interval=5,
            update_heartbeat_interval=5,
            stalled_worker_timeout=60,
            delete_jobs="successful",
            additional_context=context,
        )
    )
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({worker, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        worker.cancel()  # procrastinate drains on cancellation, within its graceful timeout
        await asyncio.wait({worker}, timeout=GRACEFUL_S + 2)
    if worker.done() and not worker.cancelled() and (error := worker.exception()) is not None:
        raise error
