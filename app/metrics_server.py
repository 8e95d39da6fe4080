"""Prometheus metrics on a port of their own, never on the public one's path to users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from app.errors import SettingInvalid

log = structlog.get_logger(__name__)


@contextmanager
def serve_metrics(host: str, port: int | None, registry: CollectorRegistry) -> Iterator[None]:
    """
    Serve ``/metrics`` of *registry* while the context lasts; None serves nothing, 0 picks a free port
    (logged).

    Raises:
        SettingInvalid: the port is taken.
    """
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise SettingInvalid(
            f"VYX_METRICS_PORT {port} cannot be used ({error.strerror}); choose another, 0 for a free one, or off."
        ) from error
    log.info("metrics", host=host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
