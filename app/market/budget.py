"""
The weight budget: how much we may ask of the exchange's REST interface this minute.

The exchange counts *weight* per address and clock minute, tells the count in a header of every answer, and answers
429, then bans, when 6000 is passed. Replicas behind one address share it, so our own count may be too low: the rule is
the greater of our count and the header's. Decided here: who may ask when, and that history leaves room: a share of the
ceiling is reserved for the live minute, and after a 429 history goes on at half its pace. Not decided: what a 429 means
(the client).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

WINDOW_S: Final = 60
LIMIT: Final = 6_000  # REQUEST_WEIGHT per minute and address since 2023-08-25; the often quoted 1200 is stale
CEILING: Final = 0.85  # what is left is for replicas behind the same address whose requests are on the way
RESERVED: Final = (
    0.2  # of the ceiling, once minutes are live: asking for one candle of 400 pairs takes 800 of 5100
)
PACE_MIN: Final = 0.05  # history never stops altogether
PACE_GROWTH: Final = 1.25  # a minute, after a 429 has halved it


class WeightBudget:
    """
    Weight left in this clock minute; those who must wait are served in the order they came.

    Args:
        limit: Weight per minute the exchange allows.
        ceiling: Share of it that we use.
        clock: Seconds since the epoch; the window is its clock minute.
        sleep: How to wait.
    """

    def __init__(
        self,
        *,
        limit: int = LIMIT,
        ceiling: float = CEILING,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.ceiling = int(limit * ceiling)
        self._clock = clock
        self._sleep = sleep
        self._minute = -1
        self._own = 0
        self._told = 0
        # first in, first out: a light request does not overtake a heavy one; live ones do not queue behind history
        self._turns = {False: asyncio.Lock(), True: asyncio.Lock()}
        self._reserved = 0.0
        self._pace = 1.0

    @property
    def used(self) -> int:
        """Weight used in this minute: the greater of our own count and what the exchange told."""
        self._roll_over()
        return max(self._own, self._told)

    @property
    def background_ceiling(self) -> int:
        """Weight of this minute beyond which history waits."""
        return max(1, int(self.ceiling * (1 - self._reserved) * self._pace))

    def reserve(self, share: float = RESERVED) -> None:
        """Keep *share* of the ceiling for requests that are not history."""
        self._reserved = share

    def slow_down(self) -> None:
        """The exchange said 429: history goes on at half its pace, and gets faster again by a quarter each minute."""
        self._pace = max(PACE_MIN, self._pace / 2)

    def resume(self, minute: int, used: int) -> None:
        """Go on from what is on record for this address: *used* in clock minute *minute* (minutes since the epoch)."""
        self._roll_over()
        if minute == self._minute:
            self._own = max(self._own, used)

    @property
    def minute(self) -> int:
        """The clock minute that `used` speaks of, in minutes since the epoch."""
        self._roll_over()
        return self._minute

    async def spend(self, weight: int, *, background: bool = False) -> int:
        """
        Wait until *weight* fits under the ceiling (of history, when *background*), and count it.

        Returns:
            The clock minute it was counted in, for `observe`.

        Raises:
            ValueError: *weight* alone is above the ceiling, so it would wait for ever.
        """
        if weight > self.ceiling:
            raise ValueError(f"a request of weight {weight} can never pass a ceiling of {self.ceiling}")
        async with self._turns[background]:
            while self._must_wait(weight, background=background):
                await self._sleep(self._until_next_minute_s())
            self._own += weight
            return self._minute

    def observe(self, used: int, *, minute: int) -> None:
        """
        Take over the count the exchange told, when it speaks of this minute.

        Args:
            used: The header's value.
            minute: What `spend` returned for the request. An answer to a request of an earlier minute is ignored:
                whether its header counts that minute or this one cannot be known, and our own count goes on.
        """
        self._roll_over()
        if minute == self._minute:
            self._told = max(self._told, used)

    def _must_wait(self, weight: int, *, background: bool) -> bool:
        if not background:
            return self.used + weight > self.ceiling
        # a request heavier than a slowed pace would wait for ever: one goes through in an unused minute
        used = self.used
        return used > 0 and used + weight > self.background_ceiling

    def _roll_over(self) -> None:
        minute = int(self._clock() // WINDOW_S)
        if minute != self._minute:
            if self._minute >= 0:
                self._pace = min(1.0, self._pace * PACE_GROWTH ** (minute - self._minute))
            self._minute, self._own, self._told = minute, 0, 0

    def _until_next_minute_s(self) -> float:
        # 50 ms more, so that a timer firing early does not spin, and a server slightly behind us has turned over too.
        return WINDOW_S - self._clock() % WINDOW_S + 0.05
