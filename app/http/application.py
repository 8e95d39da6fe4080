"""
The table of endpoints, and the ASGI application made of it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app import VERSION
from app.errors import Kind, Refused
from app.http import (
    api_keys,
    deliveries,
    delivery_shapes,
    destinations,
    exports,
    health,
    market,
    openapi,
    previews,
    problems,
    shapes,
    signals,
    traders,
    versions,
)
from app.http.endpoints import Call, Endpoint, routes
from app.http.middleware import Envelope, Guard
from app.http.service import Service
from app.preview.audit import Audit
from app.preview.job import Preview
from app.settings import Settings

PREVIEW_S_MAX = 35.0  # waiting for a compiler 10 s, for the answer 20 s, and some
GZIP_BYTES_MIN = 1024
GZIP_LEVEL = 1  # a page of 1 MiB in about 8 ms of the loop; level 9 takes ten times as long for a tenth less
ALLOWED_HEADERS = (
    "Authorization",
    "Cache-Control",  # event-stream clients send it
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "X-Request-Id",
    "apikey",  # supabase-js sends these with every request
    "x-client-info",
    "x-supabase-api-version",
)
DELIVERY_TEST_S_MAX = 20.0  # an attempt takes at most 10 s, its sender looks 4 times a second
_OF_TRADER = (Kind.FORBIDDEN, Kind.NOT_FOUND)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Vyx</title><meta name="viewport" content="width=device-width">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}</style></head>
<body><h1>Vyx</h1>
<p>A crypto screener: your Python filters over every closed candle, exactly one signal per match.</p>
<ul><li><a href="/openapi.json">openapi.json</a>: every endpoint</li><li><a href="/health">health</a>: how the service stands</li>
<li>README.md in the repository: how to get a token and write a first filter</li></ul></body></html>
"""


async def page(_call: Call) -> Response:
    """A page for people."""
    return HTMLResponse(_PAGE)


async def show_openapi(_call: Call) -> Response:
    """The document you are reading, as OpenAPI 3.1."""
    return Response(msgspec.json.encode(openapi_document()), media_type="application/json")


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/api/v1/traders",
        handler=traders.create_trader,
        returns=shapes.SavedTrader,
        status=201,
        body=shapes.NewTrader,
        refusals=(Kind.FILTER_INVALID, Kind.RATE_LIMITED, Kind.BUSY),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders",
        handler=traders.list_traders,
        returns=shapes.TraderList,
        query=shapes.TraderQuery,
        counts_as_read=True,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/traders/start",
        handler=traders.start_traders,
        returns=shapes.OutcomeList,
        status=202,
        body=shapes.TraderIds,
        refusals=(Kind.RATE_LIMITED,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/traders/stop",
        handler=traders.stop_traders,
        returns=shapes.OutcomeList,
        status=202,
        body=shapes.TraderIds,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/active",
        handler=traders.list_active,
        returns=shapes.StatusList,
        query=shapes.PageQuery,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/{trader_id}",
        handler=traders.show_trader,
        returns=shapes.Trader,
        refusals=_OF_TRADER,
        counts_as_read=True,
    ),
    Endpoint(
        method="PATCH",
        path="/api/v1/traders/{trader_id}",
        handler=traders.change_trader,
        returns=shapes.SavedTrader,
        body=shapes.TraderChange,
        refusals=(*_OF_TRADER, Kind.FILTER_INVALID, Kind.RATE_LIMITED, Kind.BUSY),
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/traders/{trader_id}",
        handler=traders.delete_trader,
        status=204,
        refusals=(*_OF_TRADER, Kind.RATE_LIMITED),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/traders/{trader_id}/start",
        handler=traders.start_trader,
        accepts=("Prefer",),
        returns=shapes.Status,
        status=202,
        refusals=(*_OF_TRADER, Kind.TRANSITION_NOT_ALLOWED, Kind.QUOTA_EXCEEDED, Kind.SERVICE_FULL),
        counts_as_read=True,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/traders/{trader_id}/stop",
        handler=traders.stop_trader,
        accepts=("Prefer",),
        returns=shapes.Status,
        status=202,
        refusals=_OF_TRADER,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/{trader_id}/status",
        handler=traders.show_status,
        returns=shapes.Status,
        refusals=_OF_TRADER,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/{trader_id}/coverage",
        handler=traders.show_coverage,
        returns=shapes.Coverage,
        refusals=_OF_TRADER,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/{trader_id}/explain",
        handler=previews.explain_trader,
        returns=shapes.Explain,
        query=shapes.ExplainQuery,
        refusals=(*_OF_TRADER, Kind.UNAVAILABLE, Kind.BUSY),
        counts_as_read=True,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/check",
        handler=previews.check_filter,
        returns=shapes.Check,
        body=shapes.FilterCheck,
        refusals=(Kind.BUSY, Kind.UNAVAILABLE),
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/{trader_id}/versions",
        handler=versions.list_versions,
        returns=shapes.VersionList,
        refusals=_OF_TRADER,
        counts_as_read=True,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/traders/{trader_id}/versions/{number}/restore",
        handler=versions.restore_version,
        returns=shapes.SavedTrader,
        refusals=(*_OF_TRADER, Kind.FILTER_INVALID, Kind.REQUEST_INVALID, Kind.RATE_LIMITED),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders/{trader_id}/audit",
        handler=versions.audit_trader,
        returns=Audit,
        query=shapes.AuditQuery,
        refusals=(*_OF_TRADER, Kind.RATE_LIMITED),
        time_limit_s=PREVIEW_S_MAX,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/execute-filter",
        handler=previews.execute_filter,
        returns=Preview,
        body=shapes.FilterRun,
        refusals=(Kind.FILTER_INVALID, Kind.RATE_LIMITED, Kind.BUSY),
        time_limit_s=PREVIEW_S_MAX,
        needs=shapes.Scope.READ,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/signals",
        handler=signals.list_signals,
        also_gives=(exports.CSV, exports.PARQUET),
        returns=shapes.SignalList,
        query=shapes.SignalQuery,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/stream",
        handler=signals.stream,
        accepts=("Last-Event-ID",),
        query=shapes.StreamQuery,
        media_type="text/event-stream",
        refusals=(Kind.RATE_LIMITED,),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/tiers",
        handler=market.list_tiers,
        returns=shapes.TierList,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/keys",
        handler=api_keys.list_keys,
        returns=shapes.KeyList,
        counts_as_read=True,
        needs=shapes.Scope.ADMIN,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/keys",
        handler=api_keys.create_key,
        returns=shapes.MadeKey,
        status=201,
        body=shapes.NewKey,
        refusals=(Kind.RATE_LIMITED,),
        has_secret=True,
        needs=shapes.Scope.ADMIN,
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/keys/{key_id}",
        handler=api_keys.delete_key,
        status=204,
        refusals=(Kind.NOT_FOUND,),
        counts_as_read=True,
        needs=shapes.Scope.ADMIN,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/destinations",
        handler=destinations.create_destination,
        returns=delivery_shapes.MadeDestination,
        status=201,
        body=delivery_shapes.NewDestination,
        refusals=(Kind.QUOTA_EXCEEDED, Kind.RATE_LIMITED, Kind.UNAVAILABLE),
        has_secret=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/destinations",
        handler=destinations.list_destinations,
        returns=delivery_shapes.DestinationList,
        query=shapes.PageQuery,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/destinations/{destination_id}",
        handler=destinations.show_destination,
        returns=delivery_shapes.DestinationDetails,
        refusals=_OF_TRADER,
        counts_as_read=True,
    ),
    Endpoint(
        method="PATCH",
        path="/api/v1/destinations/{destination_id}",
        handler=destinations.change_destination,
        returns=delivery_shapes.MadeDestination,
        body=delivery_shapes.DestinationChange,
        refusals=(*_OF_TRADER, Kind.RATE_LIMITED, Kind.UNAVAILABLE),
    ),
    Endpoint(
        method="DELETE",
        path="/api/v1/destinations/{destination_id}",
        handler=destinations.delete_destination,
        status=204,
        refusals=_OF_TRADER,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/destinations/{destination_id}/test",
        handler=destinations.check_destination,
        returns=delivery_shapes.Delivery,
        refusals=(*_OF_TRADER, Kind.RATE_LIMITED),
        time_limit_s=DELIVERY_TEST_S_MAX,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/deliveries",
        handler=deliveries.list_deliveries,
        returns=delivery_shapes.DeliveryList,
        query=delivery_shapes.DeliveryQuery,
        counts_as_read=True,
    ),
    Endpoint(
        method="POST",
        path="/api/v1/deliveries/redrive",
        handler=deliveries.redrive_deliveries,
        returns=delivery_shapes.Redriven,
        body=delivery_shapes.Redrive,
        refusals=(Kind.RATE_LIMITED,),
    ),
    Endpoint(method="GET", path="/api/v1/me", handler=market.show_me, returns=shapes.Me, counts_as_read=True),
    Endpoint(
        method="DELETE",
        path="/api/v1/me",
        handler=exports.delete_me,
        status=204,
        refusals=(Kind.RATE_LIMITED,),
        needs=shapes.Scope.ADMIN,
        time_limit_s=None,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/me/export",
        handler=exports.export_me,
        returns=shapes.AccountExport,
        counts_as_read=True,
        needs=shapes.Scope.ADMIN,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/market/symbols",
        handler=market.list_symbols,
        returns=shapes.PairList,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/market/candles",
        handler=market.list_candles,
        returns=shapes.CandleList,
        query=shapes.CandleQuery,
        refusals=(Kind.NOT_FOUND,),
        counts_as_read=True,
    ),
    Endpoint(method="GET", path="/health/live", handler=health.live, returns=shapes.Live, needs_user=False),
    Endpoint(
        method="GET",
        path="/health/ready",
        handler=health.ready,
        returns=shapes.Ready,
        refusals=(Kind.UNAVAILABLE,),
        needs_user=False,
    ),
    Endpoint(
        method="GET", path="/health", handler=health.health, returns=shapes.ServiceSummary, needs_user=False
    ),
    Endpoint(
        method="GET", path="/metrics", handler=health.metrics, media_type="text/plain", needs_user=False
    ),
    Endpoint(
        method="GET", path="/openapi.json", handler=show_openapi, returns=dict[str, Any], needs_user=False
    ),
    Endpoint(method="GET", path="/", handler=page, media_type="text/html", needs_user=False),
)


def make_application(service: Service) -> ASGIApp:
    """The whole of it: envelope (CORS (guard (routes)))."""

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        service.metrics.refused(Kind.NOT_FOUND)
        refused = Refused(
            Kind.NOT_FOUND, "There is nothing at this address; /openapi.json lists what there is."
        )
        await problems.respond(refused)(scope, receive, send)

    application: ASGIApp = Guard(
        _PlainPaths(
            Router(
                routes(service, endpoints_of(service.settings)), redirect_slashes=False, default=not_found
            ),
            not_found,
        )
    )
    application = GZipMiddleware(application, minimum_size=GZIP_BYTES_MIN, compresslevel=GZIP_LEVEL)
    if service.settings.cors_origins:
        application = CORSMiddleware(
            application,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=ALLOWED_HEADERS,
            expose_headers=[
                "ETag",
                "Idempotency-Replayed",
                "Location",
                "Preference-Applied",
                "Retry-After",
                "WWW-Authenticate",
                "X-Request-Id",
            ],
            max_age=600,
        )
    return Envelope(application, service.metrics)


class _PlainPaths:
    """A path with a control character in it is nobody's: a route's pattern would take ``/health%0A`` for ``/health``."""

    def __init__(self, application: ASGIApp, not_found: ASGIApp) -> None:
        self._application = application
        self._not_found = not_found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application = self._application if scope["path"].isprintable() else self._not_found
        await application(scope, receive, send)


def endpoints_of(settings: Settings) -> tuple[Endpoint, ...]:
    """Those that are open with these settings: ``/metrics`` has a port of its own and is public only when asked for."""
    return tuple(e for e in ENDPOINTS if e.path != "/metrics" or settings.has_public_metrics)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of every endpoint."""
    return openapi.document(ENDPOINTS, VERSION)
