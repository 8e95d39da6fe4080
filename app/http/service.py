"""
What the handlers of one web process share; put together by ``app/web.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.delivery.destinations import Destinations
from app.explain import Explaining
from app.http.api_key_auth import Keys
from app.http.auth import KnownUsers, Verifier
from app.http.feed import Feed
from app.http.limits import CallLimit, InFlight
from app.http.metrics import Metrics
from app.http.stream import Streams
from app.lifecycle import Lifecycle
from app.preview.request import PreviewRequest
from app.settings import Settings
from app.store.pool import Pool


@dataclass(kw_only=True)
class Service:
    """``is_draining`` is set once, when the process has been asked to end."""

    settings: Settings
    pool: Pool
    verifier: Verifier
    users: KnownUsers
    keys: Keys
    reads: CallLimit
    exports: InFlight
    metrics: Metrics
    feed: Feed
    streams: Streams
    lifecycle: Lifecycle
    previews: PreviewRequest
    explaining: Explaining
    destinations: Destinations
    is_draining: bool = False

    def drain(self) -> None:
        """Not ready any more; every stream is told and ends."""
        self.is_draining = True
        self.feed.close("shutdown")
