"""
What load balancers, operators and monitors ask. Open to all, so nothing here is about any user.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout
from starlette.responses import Response

from app.domain.health import condition_of, service_reasons
from app.errors import Kind, Refused
from app.http import shapes
from app.http.endpoints import Answer, Call
from app.http.service import Service
from app.store import markets
from app.store.pool import refusal_of

FEED_BOUND_S = 5.0  # the feed polls every second
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
    if (stalled := _stalled_feed(service)) is not None:
        raise Refused(Kind.UNAVAILABLE, stalled)
    if isinstance(summary := await _summary(service), str):
        raise Refused(Kind.UNAVAILABLE, summary)
    return shapes.Ready()


def _stalled_feed(service: Service) -> str | None:
    """Why the streams of this replica get nothing; its feed polls once a second, a notification only hastens it."""
    age_s = service.feed.poll_age_s()
    if age_s is None or age_s <= FEED_BOUND_S:
        return None
    return f"The feed of this replica has made no progress for {age_s:.0f} s."


async def health(call: Call) -> Answer:
    """How the whole service stands; 503 with the same body when the database cannot be reached."""
    service = call.service
    found = await _summary(service)
    row = None if isinstance(found, str) else found
    poll_age_s = service.feed.poll_age_s()
    reasons = [found] if isinstance(found, str) else _reasons(found)
    if service.is_draining:
        reasons.append("This replica is shutting down.")
    if (stalled := _stalled_feed(service)) is not None:
        reasons.append(stalled)
    body = shapes.ServiceSummary(
        status=_status(row, reasons),
        reason=None if row is None else condition_of(row.facts)[1],
        reasons=reasons,
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


def _status(row: markets.Summary | None, reasons: list[str]) -> Literal["ok", "starting", "degraded"]:
    """Degraded by what is ours (database, machines, progress, audit, draining), else how the market stands."""
    if row is None or reasons:
        return "degraded"
    return condition_of(row.facts)[0].value


def _reasons(row: markets.Summary) -> list[str]:
    recomputing = [f"{machine} recomputes every slot since an audit differed" for machine in row.recomputing]
    return service_reasons(
        machines_alive=row.machines_alive,
        lag_s=row.lag_s,
        overdue=[*row.overdue, *recomputing],
        silent=row.silent,
        facts=row.facts,
    )


async def _summary(service: Service) -> markets.Summary | str:
    """Why there is none, in a sentence, when the database does not answer within ``PROBE_S_MAX``."""
    try:
        async with (
            asyncio.timeout(PROBE_S_MAX),
            service.pool.connection(timeout=PROBE_S_MAX) as connection,
        ):
            return await markets.summary(connection)
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, TimeoutError):
        return await _why_unreachable(service)


async def _why_unreachable(service: Service) -> str:
    """The server's own words when it refuses: that no connection is left is another matter than that it is gone."""
    database_url, _ = service.settings.addresses()
    refusal = await refusal_of(database_url, within_s=PROBE_S_MAX)
    return f"The database refuses: {refusal}" if refusal else "The database cannot be reached."
