"""
Closing slots: the 1m candles, the exact roll-ups of every timeframe that closes, what is known of them, the ledger's row and the
deferred tick are ONE fenced transaction, so a slot that is complete in the ledger has all its candles.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from app.domain import timeframes
from app.market.assembly import MINUTE_MS, NO_CANDLE, Taken
from app.market.candles import Candles
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs
from app.store import candle_ranges, machines, signals, slots
from app.store import candles as candle_store
from app.store.candle_ranges import Span
from app.store.pool import Connection, Pool
from app.store.slots import ClosedSlot

log = structlog.get_logger(__name__)

# Each timeframe from the next finer one that divides it: a bucket reads at most five rows per symbol.
ROLL_UP_FROM: Final = {
    "3m": "1m",
    "5m": "1m",
    "15m": "5m",
    "30m": "15m",
    "1h": "30m",
    "2h": "1h",
    "4h": "2h",
    "6h": "2h",
    "8h": "4h",
    "12h": "4h",
    "1d": "12h",
}
ROWS_AT_ONCE: Final = 20_000  # candles per transaction: well below its statement timeout
# as arrays 20,000 rows take psycopg 0.23 s inside the transaction (its idle limit is 0.5 s), as a COPY 2 ms
COPY_FROM_ROWS: Final = 2_000
OUTAGE_REASON: Final = "the exchange has no candles"
MISSING_REASON: Final = "some symbols have no candle"


class SlotCloser:
    """
    Args:
        boot_id: The machine on whose behalf everything is written; a buried one is refused.
        wake: Defers the tick job inside the slot's transaction.

    Attributes:
        lock: Held while a slot is being closed; whoever changes which pairs are screened takes it.
        has_gaps: Some bar of a screened pair could not be asked for: the backfill looks again.
    """

    def __init__(
        self,
        pool: Pool,
        pairs: Pairs,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        wake: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._pool = pool
        self._pairs = pairs
        self._metrics = metrics
        self._boot_id = boot_id
        self._wake = wake
        self.lock = asyncio.Lock()
        self.has_gaps = False

    async def begin(self, slot: int) -> None:
        """The first slot of a ledger: its candles are history already."""
        await self._close([slot], {slot: Taken({}, {})}, is_first=True)

    async def close(self, first: int, last: int, taken: Mapping[int, Taken]) -> None:
        """Close slots first … last (ms), in as many transactions as their rows need; after each everybody wakes up."""
        at_once = max(1, ROWS_AT_ONCE // max(1, len(self._pairs.ids))) * MINUTE_MS
        for start in range(first, last + 1, at_once):
            instants = list(range(start, min(start + at_once, last + MINUTE_MS), MINUTE_MS))
            await self._close(instants, taken)

    async def _close(
        self, instants: Sequence[int], taken: Mapping[int, Taken], *, is_first: bool = False
    ) -> None:
        started = time.perf_counter()
        fresh = [candle for slot in instants for candle in taken[slot].candles.values()]
        closed = [self._outcome(slot, taken[slot], is_first=is_first) for slot in instants]
        async with self.lock, machines.fenced(self._pool, self._boot_id) as connection:
            await self._keep_partitions(connection, instants)
            if fresh:
                store = candle_store.insert if len(fresh) < COPY_FROM_ROWS else candle_store.copy
                await store(connection, "1m", self._pairs.rows(Candles.from_rows(fresh)))
            if not is_first:
                await candle_ranges.know(connection, "1m", self._spans(instants, taken))
                await self._roll_up(connection, instants)
            await slots.close(connection, closed)
            await self._wake(connection)
        if any(not e.is_settled for slot in instants for e in taken[slot].excuses.values()):
            self.has_gaps = True
        self._count(closed, len(fresh), time.perf_counter() - started)

    async def _roll_up(self, connection: Connection, instants: Sequence[int]) -> None:
        for timeframe, source in ROLL_UP_FROM.items():
            due = [timeframes.instant(slot) for slot in instants if timeframes.closes_at(slot, timeframe)]
            if due:
                seconds = timeframes.TIMEFRAMES[timeframe]
                await candle_store.roll_up(connection, timeframe, source, seconds, due)
                await candle_ranges.know_rolled(connection, timeframe, source, seconds, due)

    def _spans(self, instants: Sequence[int], taken: Mapping[int, Taken]) -> list[Span]:
        """What is known of each pair's minutes after these slots: neighbours are one span."""
        spans: list[Span] = []
        newest: dict[tuple[str, bool], int] = {}  # where a pair's last span stands in the list
        for slot in instants:
            candles, excuses = taken[slot]
            known = [(symbol, False) for symbol in candles]
            known += [(symbol, True) for symbol, excuse in excuses.items() if excuse.is_settled]
            for key in known:
                symbol_id = self._pairs.ids.get(key[0])
                if symbol_id is None:
                    continue
                at = newest.get(key)
                if at is not None and spans[at].until == slot - MINUTE_MS:
                    spans[at] = spans[at]._replace(until=slot)
                else:
                    newest[key] = len(spans)
                    spans.append(Span(symbol_id, slot - MINUTE_MS, slot, key[1]))
        return spans

    def _outcome(self, slot: int, taken: Taken, *, is_first: bool) -> ClosedSlot:
        missing = {symbol: excuse.reason for symbol, excuse in taken.excuses.items()}
        missing |= {
            symbol: f"waiting for history: {waiting.reason}"
            for symbol, waiting in self._pairs.waiting.items()
        }
        expected = len(self._pairs.ids)
        if not taken.candles and not is_first:
            reasons = set(missing.values()) - {NO_CANDLE.reason}
            reason = OUTAGE_REASON if len(reasons) != 1 else reasons.pop()
            return ClosedSlot(timeframes.instant(slot), "outage", expected, missing, reason)
        return ClosedSlot(
            timeframes.instant(slot), "complete", expected, missing, MISSING_REASON if missing else None
        )

    async def _keep_partitions(self, connection: Connection, instants: Sequence[int]) -> None:
        ends = (instants[0], instants[-1])
        for month in sorted({timeframes.instant(slot).replace(day=1, hour=0, minute=0) for slot in ends}):
            await signals.keep_signal_partition(connection, month)

    def _count(self, closed: Sequence[ClosedSlot], stored: int, seconds: float) -> None:
        self._metrics.candles.inc(stored)
        self._metrics.close_delay.set(seconds)
        for slot in closed:
            self._metrics.slots_closed.labels(slot.state).inc()
            if slot.state == "complete":
                self._metrics.candles_missing.inc(len(slot.missing))
        outages = [slot for slot in closed if slot.state == "outage"]
        if outages:
            log.warning(
                "slots without any candle",
                first=outages[0].slot.isoformat(),
                last=outages[-1].slot.isoformat(),
                slots=len(outages),
                reason=outages[-1].reason,
            )
