"""
Limits of one replica on one user, in memory. What must hold over all replicas is counted in Postgres.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from uuid import UUID

from app.errors import Kind, Refused

READS_MAX = 6000  # a minute and replica: a script that polls a hundred times a second is at its end, a page never near
READ_WINDOW_S = 60.0
USERS_MAX = 20_000  # remembered; the longest silent are forgotten first


class ReadLimit:
    """At most ``READS_MAX`` reads of a user in any ``READ_WINDOW_S``. *clock* is monotonic, in seconds."""

    def __init__(self, *, reads_max: int = READS_MAX, clock: Callable[[], float] = time.monotonic) -> None:
        self._reads_max = reads_max
        self._clock = clock
        self._reads: OrderedDict[UUID, deque[float]] = OrderedDict()

    def count(self, user_id: UUID) -> None:
        """
        Count a read.

        Raises:
            Refused: RATE_LIMITED; the read is not counted.
        """
        now = self._clock()
        reads = self._reads.setdefault(user_id, deque())
        self._reads.move_to_end(user_id)
        while reads and reads[0] <= now - READ_WINDOW_S:
            reads.popleft()
        if len(reads) >= self._reads_max:
            raise Refused(
                Kind.RATE_LIMITED,
                f"At most {self._reads_max} reads a minute; follow /api/v1/stream instead of polling.",
                retry_after_s=reads[0] + READ_WINDOW_S - now,
            )
        reads.append(now)
        if len(self._reads) > USERS_MAX:
            self._reads.popitem(last=False)
