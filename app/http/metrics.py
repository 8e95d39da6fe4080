"""
What a web process counts. One registry per process, never the library's global one; labelled series exist from the start.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.errors import Kind

# Start and stop are promised below 100 ms: finer below it, coarse above.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The counters of one web process, in ``registry``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vyx_http_requests",
            "Requests answered, by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_duration = Histogram(
            "vyx_http_request_duration_seconds",
            "From request to the first byte of the answer's end; streams are not measured.",
            ["method", "route"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.problems = Counter(
            "vyx_http_problems", "Refusals, by the end of their type.", ["kind"], registry=self.registry
        )
        self.quota_rejections = Counter(
            "vyx_quota_rejections", "Starts refused by a full quota.", registry=self.registry
        )
        self.rate_limited = Counter(
            "vyx_rate_limited", "Requests refused by a rate limit.", registry=self.registry
        )
        self.compile_duration = Histogram(
            "vyx_filter_compile_duration_seconds", "Compiling one filter.", registry=self.registry
        )
        self.feed_horizon = Gauge(
            "vyx_feed_horizon", "Feed id up to which this replica has published.", registry=self.registry
        )
        self.feed_polls = Counter("vyx_feed_polls", "Polls of the feed reader.", registry=self.registry)
        self.feed_reconnects = Counter(
            "vyx_feed_reconnects", "Times the feed reader lost its connection.", registry=self.registry
        )
        self.feed_events = Counter(
            "vyx_feed_events", "Events handed to streams.", ["event"], registry=self.registry
        )
        self.feed_streams = Gauge("vyx_feed_streams", "Open event streams.", registry=self.registry)
        self.feed_resets = Counter(
            "vyx_feed_resets",
            "Streams whose cursor could not be resumed.",
            ["reason"],
            registry=self.registry,
        )
        self.feed_ends = Counter(
            "vyx_feed_stream_ends", "Streams ended by the server.", ["reason"], registry=self.registry
        )
        for kind in Kind:
            self.problems.labels(kind=kind)
        for event in ("signal", "trader"):
            self.feed_events.labels(event=event)
        for reason in ("unknown", "expired", "ahead"):
            self.feed_resets.labels(reason=reason)
        for reason in ("shutdown", "token_expired", "too_slow"):
            self.feed_ends.labels(reason=reason)

    def refused(self, kind: Kind) -> None:
        """Count a refusal, and again under the names of the two that operators watch."""
        self.problems.labels(kind=kind).inc()
        if kind is Kind.QUOTA_EXCEEDED:
            self.quota_rejections.inc()
        elif kind is Kind.RATE_LIMITED:
            self.rate_limited.inc()

    def render(self) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
