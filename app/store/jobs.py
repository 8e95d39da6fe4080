"""
The job queue's tables, as far as procrastinate itself does not look after them: ``sql/queries/jobs.sql``.
"""

from __future__ import annotations

from datetime import datetime

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("jobs")


async def use_job_schema(connection: Connection, *, for_session: bool = False) -> None:
    """
    Let procrastinate find its tables: its statements and triggers name them without a schema.

    For the caller's transaction; or *for_session*, which needs a direct connection.
    """
    await connection.execute(_SQL["use_job_schema"], {"for_session": for_session})


async def limit_waiting(connection: Connection, *, within_ms: int) -> None:
    """
    Let what comes next in the caller's transaction end soon: nothing stands or falls with the jobs' tables.

    A statement that takes longer raises psycopg's QueryCanceled or LockNotAvailable.
    """
    await connection.execute(_SQL["limit_waiting"], {"limit": str(within_ms)})


async def dead_letters(connection: Connection) -> int:
    """How many jobs failed for good and were not redelivered."""
    row = await (await connection.execute(_SQL["dead_letters"])).fetchone()
    return row[0] if row else 0


async def redeliver(connection: Connection) -> int:
    """Retry every dead letter whose queue somebody works on; returns how many. Opens a transaction."""
    async with connection.transaction():
        await use_job_schema(connection)
        return (await connection.execute(_SQL["redeliver"])).rowcount


async def cancel_jobs_of_the_dead(connection: Connection) -> None:
    """Delete the waiting jobs of machines that are gone."""
    await connection.execute(_SQL["cancel_jobs_of_the_dead"])


async def prune(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* jobs that ended before an instant; returns how many. Opens a transaction."""
    async with connection.transaction():
        await use_job_schema(connection)  # a trigger of theirs names its tables without a schema
        return (await connection.execute(_SQL["prune_jobs"], {"before": before, "limit": limit})).rowcount
