"""What the system tests ask of a running service beyond :mod:`bench.service`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.service import Service


def all_signals(service: Service, token: str, trader_id: str) -> list[dict[str, Any]]:
    """Every signal of a trader, page by page."""
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        path = f"/api/v1/signals?trader_id={trader_id}&limit=1000{cursor}"
        status, page, _ = service.request("GET", path, token)
        assert status == 200, page
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


def eventually(predicate: Callable[[], Any], *, within_s: float, what: str) -> Any:
    """The first truthy answer of *predicate*, asked ten times a second."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if answer := predicate():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {within_s:g} s: {what}")
