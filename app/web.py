"""
A web process: put together here, and only here.

Connections: a pool (may be a transaction pooler) for requests, one direct connection for the feed reader. It starts without waiting
for the database and becomes ready when it reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import structlog

from app.bounded.filters import PROCESSES, BoundedFilters
from app.coordination.hints import Hints
from app.delivery.destinations import Destinations
from app.delivery.sealing import Sealer
from app.explain import Explaining, Filters
from app.http.api_key_auth import Keys
from app.http.application import make_application
from app.http.auth import KnownUsers, make_verifier
from app.http.border import Door
from app.http.feed import Feed
from app.http.limits import EXPORTS_MAX, InFlight, opening_limit, read_limit
from app.http.metrics import Metrics
from app.http.server import Server, listen, url_of
from app.http.service import Service
from app.http.stream import Streams
from app.lifecycle import Lifecycle
from app.metrics_server import serve_metrics
from app.preview.request import PreviewRequest
from app.settings import Settings
from app.store.pool import make_pool
from app.store.sessions import prove_direct
from app.turns import SharedQueue
from app.watchdog import watchdog
from jobs.tasks import defer_preview

FILTERS_WAITING_MAX = 8  # of one user, beside the two in work: an editor that checks while one types has one
FILTERS_WAIT_S = 10.0
WEB_ANSWER_WITHIN_S = 16.0  # a second more than any request may take: only a dead link is silent for so long

log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """
    Serve HTTP until SIGTERM or SIGINT, then drain and return.

    Args:
        settings: With the database's addresses.
        ready: Called once with the server's URL, as soon as /health/ready would answer 200.

    Raises:
        SettingInvalid: a port is taken, there is no database address, or the direct one is a transaction pooler.
    """
    async with BoundedFilters() as filters, make_service(settings, filters) as service:
        with (
            watchdog(),
            serve_metrics(settings.host, settings.metrics_port, service.metrics.registry),
            contextlib.closing(listen(settings.host, settings.port)) as listener,
        ):
            server = Server(
                make_application(service),
                door=Door(settings.connections_max, settings.connections_per_address_max),
                drain_s=settings.drain_s,
                on_drain=service.drain,
            )
            url = url_of(listener)
            announcing = asyncio.create_task(_announce(service, server, url, ready))
            try:
                await server.serve(sockets=[listener])
            finally:
                announcing.cancel()
                await asyncio.gather(announcing, return_exceptions=True)
            log.info("web process ended", url=url)


@contextlib.asynccontextmanager
async def make_service(settings: Settings, filters: Filters) -> AsyncIterator[Service]:
    """Everything the handlers need, with the feed reader running; closed in the opposite order."""
    database_url, direct_url = settings.addresses()
    verifier = make_verifier(settings)  # refuses before anything is open
    await prove_direct(direct_url)
    metrics = Metrics()
    pool = make_pool(
        database_url, max_size=settings.pool_max, name="vyx web", answer_within_s=WEB_ANSWER_WITHIN_S
    )
    await pool.open(wait=False)
    hints = Hints(pool)
    queue = SharedQueue("filters", places=PROCESSES, waiting_max=FILTERS_WAITING_MAX, wait_s=FILTERS_WAIT_S)
    users = KnownUsers(pool)
    keys = Keys(pool)

    def forget(user_id: UUID | None) -> None:
        users.forget(user_id)
        keys.forget(user_id)

    feed = Feed(direct_url, metrics, on_user_changed=forget)
    lifecycle = Lifecycle(
        pool,
        hints,
        filters,
        queue,
        active_traders_max=settings.active_traders_max,
        on_compiled=metrics.compile_duration.observe,
    )
    service = Service(
        settings=settings,
        pool=pool,
        verifier=verifier,
        users=users,
        keys=keys,
        reads=read_limit(),
        exports=InFlight(EXPORTS_MAX, "exports"),
        metrics=metrics,
        feed=feed,
        streams=Streams(feed, pool, metrics, opening_limit()),
        lifecycle=lifecycle,
        previews=PreviewRequest(
            pool, lifecycle.compile, defer=defer_preview, upcoming=feed.previews.upcoming
        ),
        explaining=Explaining(pool, filters, queue),
        destinations=Destinations(
            pool=pool,
            sealer=Sealer(settings.secret_keys) if settings.secret_keys else None,
            allowed=settings.hook_allow,
            public_url=settings.public_url or f"http://{settings.host}:{settings.port}",
        ),
    )
    reading = asyncio.create_task(feed.run())
    try:
        yield service
    finally:
        service.drain()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await hints.close()
        await verifier.close()
        await pool.close()


async def _announce(service: Service, server: Server, url: str, ready: Callable[[str], None]) -> None:
    await server.is_listening.wait()
    await service.feed.has_horizon.wait()
    log.info("web process ready", url=url)
    ready(url)
