"""
Limits of one replica on one user, in memory. What must hold over all replicas is counted in Postgres.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from app.errors import Kind, Refused

READS_MAX = 6000  # a script that polls a hundred times a second is at its end, a page never near
OPENINGS_MAX = 60  # of streams: ten tabs that lose their connection six times
EXPORTS_MAX = 2  # of a user at a time
WINDOW_S = 60.0
USERS_MAX = 20_000  # remembered; the longest silent are forgotten first


class CallLimit:
    """
    At most *calls_max* calls of a user in any ``WINDOW_S``, on this replica.

    Args:
        what: The calls, in the plural, and after it what to do instead.
        clock: Monotonic, in seconds.
    """

    def __init__(self, calls_max: int, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls_max = calls_max
        self._what = what
        self._clock = clock
        self._calls: OrderedDict[UUID, deque[float]] = OrderedDict()

    def count(self, user_id: UUID) -> None:
        """
        Count a call.

        Raises:
            Refused: RATE_LIMITED; the call is not counted.
        """
        now = self._clock()
        calls = self._calls.setdefault(user_id, deque())
        self._calls.move_to_end(user_id)
        while calls and calls[0] <= now - WINDOW_S:
            calls.popleft()
        if len(calls) >= self._calls_max:
            raise Refused(
                Kind.RATE_LIMITED,
                f"At most {self._calls_max} {self._what}.",
                retry_after_s=calls[0] + WINDOW_S - now,
            )
        calls.append(now)
        if len(self._calls) > USERS_MAX:
            self._calls.popitem(last=False)


def read_limit(*, clock: Callable[[], float] = time.monotonic) -> CallLimit:
    """For requests that only read."""
    return CallLimit(READS_MAX, "reads a minute; follow /api/v1/stream instead of polling", clock=clock)


def opening_limit(*, clock: Callable[[], float] = time.monotonic) -> CallLimit:
    """For streams that are opened, whatever becomes of them."""
    return CallLimit(OPENINGS_MAX, "streams are opened a minute; keep one open and resume it", clock=clock)


class InFlight:
    """
    At most *most* of a kind of long answer of one user at a time, on this replica. *what* names them, in
    the plural.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._held: Counter[UUID] = Counter()

    def check(self, user_id: UUID) -> None:
        """
        Raises:
            Refused: RATE_LIMITED, the user has as many under way.
        """
        if self._held[user_id] >= self._most:
            raise Refused(
                Kind.RATE_LIMITED,
                f"At most {self._most} {self._what} of one user are under way at a time; wait for one to end.",
                retry_after_s=5,
            )

    @contextmanager
    def counted(self, user_id: UUID) -> Iterator[None]:
        """Counts one while it is under way."""
        self._held[user_id] += 1
        try:
            yield
        finally:
            self._held[user_id] -= 1
            if not self._held[user_id]:
                del self._held[user_id]
