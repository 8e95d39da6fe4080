"""
The two ways to the database, judged against each other.

A link that swallows packets fails no statement by itself. When calls on one way get no answer, new connections are tried on it; when
those get none either while the other way answers, this process cannot work and says so: it gives its leases back by the other way
while it can. When both are silent the database may be gone for everybody, so nothing is given back: whoever can still beat decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)
LOOK_EVERY_S = 0.25
TRIES = 2
PROBE_S = 1.5


@dataclass(frozen=True, slots=True)
class Way:
    """
    One way to the database.

    ``is_silent``: whether calls on it get no answer at present. ``answers``: whether a new connection gets one within so many seconds.
    """

    name: str
    is_silent: Callable[[], bool]
    answers: Callable[[float], Awaitable[bool]]


async def watch(one: Way, other: Way, *, on_dead: Callable[[str], None]) -> None:
    """Look at *one* until it is dead while *other* answers, call *on_dead* with its name, and return."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if one.is_silent() and await _is_dead(one) and await other.answers(PROBE_S):
            log.error("this way to the database is dead, the other one answers", dead=one.name)
            on_dead(one.name)
            return


async def _is_dead(way: Way) -> bool:
    for attempt in range(1, TRIES + 1):
        began = time.monotonic()
        if await way.answers(PROBE_S) or not way.is_silent():
            return False
        log.warning("no answer from a new connection either", way=way.name, attempt=attempt)
        await asyncio.sleep(max(0.0, PROBE_S - (time.monotonic() - began)))  # a refusal comes at once
    return True
