"""
What load balancers, operators and monitors ask. Open to all, so nothing here is about any user.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout
from starlette.responses import Response

from app.domain.health import condition_of
from app.errors import Kind, Refused
from app.http import shapes
from app.http.endpoints import Answer, Call
from app.http.service import Service
from app.store import markets

PROBE_S_MAX = 2.0  # below the usual 5 s of a load balancer's own patience


async def live(_call: Call) -> shapes.Live:
    """The process answers. Does no I/O: a database outage is no reason to restart it."""
    return shapes.Live()


async def ready(call: Call) -> shapes.Ready:
    """Whether this replica should get traffic: it is not draining, knows the feed's horizon and reaches the database."""
    service = call.service
    if service.is_draining:
        raise Refused(Kind.UNAVAILABLE, "This replica is shutting down.")
    if service.feed.horizon is None:
        raise Refused(Kind.UNAVAILABLE, "This replica does not know the feed's horizon yet.")
    if await _summary(service) is None:
        raise Refused(Kind.UNAVAILABLE, "The database cannot be reached.")
    return shapes.Ready()


async def health(call: Call) -> Answer:
    """How the whole service stands; 503 with the same body when the database cannot be reached."""
    service = call.service
    row = await _summary(service)
    poll_age_s = service.feed.poll_age_s()
    body = shapes.ServiceSummary(
        status=_status(service, row),
        reason=None if row is None else condition_of(row.facts)[1],
        database="ok" if row is not None else "unreachable",
        draining=service.is_draining,
        feed=shapes.FeedSummary(
            service.feed.horizon,
            service.streams.open_count,
            None if poll_age_s is None else round(poll_age_s, 3),
        ),
        machines_alive=None if row is None else row.machines_alive,
        newest_slot=None if row is None else row.newest_slot,
        lag_s=None if row is None else row.lag_s,
        market=None
        if row is None
        else shapes.MarketSummary(
            source=row.market_source,
            speed=row.facts.speed,
            time=row.facts.market_at,
            ended=row.facts.has_ended,
        ),
        audit=None
        if row is None
        else shapes.AuditSummary(recomputing=row.recomputing, mismatches=row.mismatches),
    )
    return Answer(body, status=200 if row is not None else 503)


async def metrics(call: Call) -> Response:
    """Counters of this process, in Prometheus' text format."""
    return call.service.metrics.render()


def _status(service: Service, row: markets.Summary | None) -> Literal["ok", "starting", "degraded"]:
    """Degraded by what is ours (database, machines, audit, draining), else how the market stands."""
    if row is None or row.machines_alive == 0 or row.recomputing or service.is_draining:
        return "degraded"
    return condition_of(row.facts)[0].value


async def _summary(service: Service) -> markets.Summary | None:
    """None when the database does not answer within ``PROBE_S_MAX``."""
    try:
        async with (
            asyncio.timeout(PROBE_S_MAX),
            service.pool.connection(timeout=PROBE_S_MAX) as connection,
        ):
            return await markets.summary(connection)
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, TimeoutError):
        return None
