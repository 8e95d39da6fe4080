"""
Market time of the simulated exchange.

Decided here: market now = the market anchor + (wall now - the wall anchor) × speed, never past the end of the
candles: there time stands still. Nothing is kept, so every process with the same anchors shows the same time.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What the exchange asks of its clock; instants are market milliseconds since the epoch."""

    @property
    def speed(self) -> float:
        """Market seconds per wall second."""

    def now_ms(self) -> int:
        """Market now."""

    async def wait_until(self, at_ms: int) -> None:
        """Return once market now is *at_ms* or later; never, when the market ends before."""


@dataclass(frozen=True)
class MarketClock:
    """
    Attributes:
        anchor_ms: Market instant ...
        anchor_wall_s: ... that is shown at this wall instant, in seconds since the epoch. Earlier it stands still.
        speed: Market seconds per wall second, above 0.
        end_ms: Close time of the last candle; None for a market without end.
        wall: Seconds since the epoch.
    """

    anchor_ms: int
    anchor_wall_s: float
    speed: float = 1.0
    end_ms: int | None = None
    wall: Callable[[], float] = time.time

    def now_ms(self) -> int:
        passed_ms = max(0.0, self.wall() - self.anchor_wall_s) * 1_000 * self.speed
        now = self.anchor_ms + int(passed_ms)
        return now if self.end_ms is None else min(now, self.end_ms)

    async def wait_until(self, at_ms: int) -> None:
        if self.end_ms is not None and at_ms > self.end_ms:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        while self.now_ms() < at_ms:
            due = self.anchor_wall_s + (at_ms - self.anchor_ms) / 1_000 / self.speed
            await asyncio.sleep(max(0.001, due - self.wall()))


class ManualClock:
    """Market time that moves when told to, for tests: those who wait are woken in the order of their instants."""

    speed = 1.0

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def advance_to(self, at_ms: int) -> None:
        """Show *at_ms*, and wake whoever waited for it."""
        self._now_ms = max(self._now_ms, at_ms)
        for due, event in sorted(self._waiting, key=lambda item: item[0]):
            if due <= self._now_ms:
                event.set()
        self._waiting = [item for item in self._waiting if item[0] > self._now_ms]

    async def wait_until(self, at_ms: int) -> None:
        if at_ms <= self._now_ms:
            await asyncio.sleep(0)
            return
        event = asyncio.Event()
        self._waiting.append((at_ms, event))
        await event.wait()
