"""
The table of endpoints, and the ASGI application made of it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import Kind, Refused
from app.http import (
    deliveries,
    delivery_shapes,
    destinations,
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

VERSION = "0.1.0"
PREVIEW_S_MAX = 30.0  # waiting for a compiler, then for the answer, 10 s each, and some
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
        refusals=(Kind.FILTER_INVALID, Kind.RATE_LIMITED),
    ),
    Endpoint(
        method="GET",
        path="/api/v1/traders",
        handler=traders.list_traders,
        returns=shapes.TraderList,
        query=shapes.PageQuery,
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
        refusals=(*_OF_TRADER, Kind.FILTER_INVALID, Kind.RATE_LIMITED),
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
        returns=shapes.Status,
        status=202,
        refusals=(*_OF_TRADER, Kind.TRANSITION_NOT_ALLOWED, Kind.QUOTA_EXCEEDED, Kind.RATE_LIMITED),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/traders/{trader_id}/stop",
        handler=traders.stop_trader,
        returns=shapes.Status,
        status=202,
        refusals=(*_OF_TRADER, Kind.RATE_LIMITED),
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
        refusals=(*_OF_TRADER, Kind.UNAVAILABLE),
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
        refusals=(Kind.FILTER_INVALID, Kind.RATE_LIMITED),
        time_limit_s=PREVIEW_S_MAX,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/signals",
        handler=signals.list_signals,
        returns=shapes.SignalList,
        query=shapes.SignalQuery,
        counts_as_read=True,
    ),
    Endpoint(
        method="GET",
        path="/api/v1/stream",
        handler=signals.stream,
        query=shapes.StreamQuery,
        media_type="text/event-stream",
        refusals=(Kind.RATE_LIMITED,),
    ),
    Endpoint(
        method="POST",
        path="/api/v1/destinations",
        handler=destinations.create_destination,
        returns=delivery_shapes.MadeDestination,
        status=201,
        body=delivery_shapes.NewDestination,
        refusals=(Kind.QUOTA_EXCEEDED, Kind.RATE_LIMITED, Kind.UNAVAILABLE),
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
        Router(routes(service, ENDPOINTS), redirect_slashes=False, default=not_found)
    )
    if service.settings.cors_origins:
        application = CORSMiddleware(
            application,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Last-Event-ID",
                "Prefer",
                "X-Request-Id",
            ],
            expose_headers=[
                "Location",
                "Preference-Applied",
                "Retry-After",
                "WWW-Authenticate",
                "X-Request-Id",
            ],
            max_age=600,
        )
    return Envelope(application, service.metrics)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of every endpoint."""
    return openapi.document(ENDPOINTS, VERSION)
