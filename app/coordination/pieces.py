"""
How many rows the next statement takes: as many as it does in a quarter of a second.

A statement over everything livelocked a cluster once: it exceeded its timeout, was rolled back, and everybody tried it again. Here
a piece that times out is halved, a quick one doubled, and each is committed for itself.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import psycopg
import structlog

from app.metrics import WorkerMetrics
from app.store.pool import NoAnswer

log = structlog.get_logger(__name__)
FIRST = 1000
LEAST = 25
MOST = 20_000
TARGET_S = 0.25


class Piece:
    """
    The size of one kind of piece, kept between the calls.

    Args:
        kind: claim, release, settle or retry: for the log and the metric.
    """

    def __init__(self, kind: str, metrics: WorkerMetrics) -> None:
        self._kind = kind
        self._metrics = metrics
        self.size = FIRST

    async def run(self, work: Callable[[int], Awaitable[int]], *, at_most: int = MOST) -> int:
        """
        Do one piece of *work*, which takes a number of rows and returns how many there were; 0 as well when it timed out.

        Raises:
            NoAnswer: the connection is gone; the next piece is smaller, too.
        """
        size = min(self.size, at_most)
        began = time.monotonic()
        try:
            done = await work(size)
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
            self._shrink(size, str(error))
            return 0
        except NoAnswer as error:
            self._shrink(size, str(error))
            raise
        self._adapt(size, done, time.monotonic() - began)
        return done

    def _shrink(self, size: int, reason: str) -> None:
        self.size = max(LEAST, size // 2)
        self._metrics.pieces_shrunk.labels(self._kind).inc()
        log.warning(
            "piece took too long, the next is smaller", kind=self._kind, rows=self.size, reason=reason
        )

    def _adapt(self, size: int, done: int, took_s: float) -> None:
        if took_s > 2 * TARGET_S and size > LEAST:
            self._shrink(size, f"took {took_s:.2f} s")
        elif done == size == self.size and took_s < TARGET_S / 2:
            self.size = min(MOST, size * 2)
