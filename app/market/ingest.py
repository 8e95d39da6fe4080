"""
Ingest: from the exchange to rows. Runs on one machine of the cluster at a time (the holder of the ingest lock).

History first (every timeframe, by REST), then minute by minute: the 1m candles, the exact roll-ups of every timeframe that closes, the
slot row and the deferred tick are ONE fenced transaction, so a slot that is complete in the ledger has all its candles.
A later machine goes on from the ledger: what is missing since the newest slot comes by REST, and only what the exchange does not have
becomes an outage, with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import structlog

from app.domain import timeframes
from app.market.assembly import MINUTE_MS, Assembly, Ready
from app.market.candles import Candle, Candles
from app.market.client import ExchangeClient
from app.market.metrics import MarketMetrics
from app.market.streams import StreamEvent, StreamUp
from app.market.universe import QUOTE, universe
from app.store import candles as candle_store
from app.store import machines, signals, slots, symbols
from app.store.candles import Rows
from app.store.pool import Connection, Pool
from app.store.slots import ClosedSlot

log = structlog.get_logger(__name__)

# Each timeframe from the next finer one that divides it: a bucket reads at most five rows per symbol.
ROLL_UP_FROM = {
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
GRACE_S = 5.0  # how long stragglers of a minute may take before REST is asked, in market time …
GRACE_MIN_S = 0.25  # … but never less than this in real time, however fast a simulated market runs
SILENCE_S = 20.0  # no candle for so long: ask REST whether the market goes on without us
REQUESTS_AT_ONCE = 8
ARRIVALS_MAX = 50_000  # what may wait while the database is slow
ROWS_AT_ONCE = 20_000  # candles per transaction: well below its statement timeout
COPY_FROM_ROWS = 2000  # as arrays 20,000 rows take psycopg 0.23 s inside the transaction (its idle limit is 0.5 s), as a COPY 2 ms
OUTAGE_REASON = "the exchange has no candles"


class Ingest:
    """
    Args:
        boot_id: The machine on whose behalf everything is written; a buried one is refused.
        speed: Market minutes per real minute.
        history_bars: How many bars of each timeframe to fetch for a symbol without history.
        wake: Defers the tick job inside the slot's transaction.
        on_progress: Called with (done, total) requests while history loads.
    """

    def __init__(
        self,
        pool: Pool,
        client: ExchangeClient,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        speed: float,
        history_bars: int,
        symbols_max: int,
        min_quote_volume: float,
        wake: Callable[[Connection], Awaitable[None]],
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._pool = pool
        self._client = client
        self._metrics = metrics
        self._boot_id = boot_id
        self._grace_s = max(GRACE_MIN_S, GRACE_S / speed)
        self._history_bars = history_bars
        self._symbols_max = symbols_max
        self._min_quote_volume = min_quote_volume
        self._wake = wake
        self._on_progress = on_progress
        self._ids: dict[str, int] = {}
        self._gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def run(self) -> None:
        """Feed the market until cancelled, or until the exchange or the database is out of reach (the caller starts again)."""
        await self._list_symbols()
        newest = await self._load_history()
        await self._follow(Assembly(self._ids, newest, self._grace_s))

    # -- universe and history -------------------------------------------------------------------------------------------

    async def _list_symbols(self) -> None:
        info = await self._client.exchange_info()
        chosen = universe(
            info,
            await self._client.quote_volumes(),
            symbols_max=self._symbols_max,
            min_quote_volume=self._min_quote_volume,
        )
        bases = {listed.symbol: listed.base_asset for listed in info.symbols}
        async with machines.fenced(self._pool, self._boot_id) as connection:
            await symbols.put_listed(
                connection, [(symbol, bases[symbol], QUOTE) for symbol in chosen.symbols]
            )
            pairs = await symbols.list_universe(connection)
        self._ids = {pair.symbol: pair.symbol_id for pair in pairs if pair.trading}
        log.info("universe", symbols=len(self._ids))

    async def _load_history(self) -> int:
        """Fetch what the table lacks of every timeframe up to the last closed minute; returns the newest closed slot, in ms."""
        async with self._pool.connection() as connection:
            ledger = await slots.newest_closed(connection)
        now_ms = await self._client.server_time()
        through_ms = now_ms - now_ms % MINUTE_MS if ledger is None else timeframes.epoch_ms(ledger)
        lacking = [
            request
            for timeframe in timeframes.TIMEFRAMES
            for request in await self._lacking_history(timeframe, through_ms)
        ]
        lacking.sort()  # symbol by symbol: a simulated exchange builds each from the same minutes
        loads = [self._load(*request, through_ms) for request in lacking]
        for done, loading in enumerate(asyncio.as_completed(loads), start=1):
            await loading
            self._on_progress(done, len(lacking))
        if ledger is None:
            await self._close(through_ms, through_ms, {})
        return through_ms

    async def _lacking_history(self, timeframe: str, through_ms: int) -> list[tuple[str, str, int]]:
        """(symbol, timeframe, first open time in ms) of every stretch of history that is not stored."""
        length_ms = timeframes.length_ms(timeframe)
        last_open = through_ms - through_ms % length_ms - length_ms
        async with self._pool.connection() as connection:
            stored = await candle_store.last_open_times(connection, timeframe)
        requests = []
        for symbol, symbol_id in self._ids.items():
            have = stored.get(symbol_id)
            first = (
                last_open - (self._history_bars - 1) * length_ms
                if have is None
                else timeframes.epoch_ms(have) + length_ms
            )
            if first <= last_open and (have is None or timeframe != "1m"):
                requests.append((symbol, timeframe, max(first, 0)))
        return requests

    async def _load(self, symbol: str, timeframe: str, first_ms: int, through_ms: int) -> None:
        async with self._gate:  # around both: what has been fetched waits in memory only while it is stored
            await self._store(timeframe, await self._fetch(symbol, timeframe, first_ms, through_ms))

    async def _fetch(self, symbol: str, timeframe: str, first_ms: int, through_ms: int) -> Candles:
        """Closed bars of one symbol from *first_ms* on that closed by *through_ms*."""
        last_open = through_ms - timeframes.length_ms(timeframe)
        return await self._client.klines_between(symbol, timeframe, first_ms, last_open + 1)

    async def _store(self, timeframe: str, batch: Candles) -> None:
        for start in range(0, len(batch), ROWS_AT_ONCE):
            async with machines.fenced(self._pool, self._boot_id) as connection:
                await candle_store.copy(
                    connection, timeframe, self._rows(batch.take(slice(start, start + ROWS_AT_ONCE)))
                )

    # -- minute by minute -----------------------------------------------------------------------------------------------

    async def _follow(self, assembly: Assembly) -> None:
        """Close slot after slot, for ever."""
        arrivals: asyncio.Queue[StreamEvent] = asyncio.Queue(maxsize=ARRIVALS_MAX)
        reader = asyncio.create_task(self._read(arrivals))
        try:
            while True:
                await self._gather(assembly, arrivals, reader)
                while (ready := assembly.ready(time.monotonic())) is not None:
                    await self._close_ready(assembly, ready)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, arrivals: asyncio.Queue[StreamEvent]) -> None:
        async with contextlib.aclosing(self._client.stream_klines(list(self._ids))) as events:
            async for event in events:
                await arrivals.put(event)

    async def _gather(
        self, assembly: Assembly, arrivals: asyncio.Queue[StreamEvent], reader: asyncio.Task[None]
    ) -> None:
        """Take what has arrived; wait for the first of it until stragglers run out of time or the silence grows suspicious."""
        wait_s = assembly.wait_s(time.monotonic())
        try:
            async with asyncio.timeout(SILENCE_S if wait_s is None else wait_s):
                events = [await arrivals.get()]
        except TimeoutError:
            if reader.done():
                reader.result()
                raise ConnectionError("the stream ended") from None
            if wait_s is None:
                await self._fill_hole(assembly)
            return
        while not arrivals.empty():
            events.append(arrivals.get_nowait())
        now = time.monotonic()
        late = [event for event in events if isinstance(event, Candle) and not assembly.add(event, now)]
        if late:
            await self._record_late(late)
        if any(isinstance(event, StreamUp) and event.hole for event in events):
            await self._fill_hole(assembly)

    async def _fill_hole(self, assembly: Assembly) -> None:
        """Ask REST for every minute since the ledger that should be there by now; the newest one is left its grace."""
        settled_ms = await self._client.server_time() - int(GRACE_S * 1000)
        last = settled_ms - settled_ms % MINUTE_MS
        if last > assembly.newest:
            await self._repair(assembly, assembly.newest + MINUTE_MS, last)

    async def _repair(self, assembly: Assembly, first: int, last: int) -> None:
        lacking = assembly.lacking(first, last)
        results = await asyncio.gather(
            *(self._fetch_hole(symbol, slot, last) for symbol, slot in lacking.items())
        )
        self._metrics.repairs.inc(len(lacking))
        now = time.monotonic() - self._grace_s  # REST has said what there is: no more grace
        for batch in results:
            for candle in batch.rows():
                assembly.add(candle, now)
        assembly.repaired(first, last)

    async def _fetch_hole(self, symbol: str, slot: int, last: int) -> Candles:
        async with self._gate:
            return await self._fetch(symbol, "1m", slot - MINUTE_MS, last)

    async def _close_ready(self, assembly: Assembly, ready: Ready) -> None:
        if ready.repair:
            await self._repair(assembly, ready.first, ready.last)
        slots_at_once = max(1, ROWS_AT_ONCE // max(1, len(self._ids))) * MINUTE_MS
        for first in range(ready.first, ready.last + 1, slots_at_once):
            last = min(first + slots_at_once - MINUTE_MS, ready.last)
            await self._close(first, last, assembly.take(first, last))

    async def _close(self, first: int, last: int, taken: Mapping[int, Mapping[str, Candle]]) -> None:
        """One transaction: candles, roll-ups, ledger, tick, and after it everybody wakes up."""
        started = time.perf_counter()
        instants = list(range(first, last + 1, MINUTE_MS))
        fresh = [candle for slot in instants for candle in taken.get(slot, {}).values()]
        closed = [self._outcome(slot, taken) for slot in instants]
        rows = self._rows(Candles.from_rows(fresh)) if fresh else None
        async with machines.fenced(self._pool, self._boot_id) as connection:
            await self._keep_partitions(connection, instants)
            if rows is not None:
                store = candle_store.insert if len(fresh) < COPY_FROM_ROWS else candle_store.copy
                await store(connection, "1m", rows)
            for timeframe, source in ROLL_UP_FROM.items():
                due = [timeframes.instant(slot) for slot in instants if timeframes.closes_at(slot, timeframe)]
                if due:
                    await candle_store.roll_up(
                        connection, timeframe, source, timeframes.TIMEFRAMES[timeframe], due
                    )
            await slots.close(connection, closed)
            await self._wake(connection)
        self._count(closed, len(fresh), time.perf_counter() - started)

    def _outcome(self, slot: int, taken: Mapping[int, Mapping[str, Candle]]) -> ClosedSlot:
        if not taken:  # the first slot of a ledger: its candles are history already
            return ClosedSlot(timeframes.instant(slot), "complete", len(self._ids))
        present = taken.get(slot, {})
        if not present:
            return ClosedSlot(
                timeframes.instant(slot), "outage", len(self._ids), sorted(self._ids), OUTAGE_REASON
            )
        missing = sorted(self._ids.keys() - present.keys())
        return ClosedSlot(
            timeframes.instant(slot),
            "complete",
            len(self._ids),
            missing,
            "some symbols have no candle" if missing else None,
        )

    async def _keep_partitions(self, connection: Connection, instants: Sequence[int]) -> None:
        for month in sorted(
            {
                timeframes.instant(slot).replace(day=1, hour=0, minute=0)
                for slot in (instants[0], instants[-1])
            }
        ):
            await signals.keep_signal_partition(connection, month)

    async def _record_late(self, late: Sequence[Candle]) -> None:
        async with machines.fenced(self._pool, self._boot_id) as connection:
            recorded = await candle_store.insert_late(connection, self._rows(Candles.from_rows(late)))
        if recorded:
            self._metrics.candles_late.inc(recorded)
            log.warning("candles arrived after their slot had closed", candles=recorded, first=late[0].symbol)

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
                "outage of the exchange",
                first=outages[0].slot.isoformat(),
                last=outages[-1].slot.isoformat(),
                slots=len(outages),
            )

    def _rows(self, batch: Candles) -> Rows:
        """A batch in the columns of the store, its symbols as ids."""
        ids = np.array([self._ids.get(symbol, 0) for symbol in batch.symbols] or [0], dtype=np.int64)
        columns: dict[str, Any] = {
            name: getattr(batch, name)
            for name in ("open_time", "open", "high", "low", "close", "volume", "quote_volume")
        }
        return {"symbol_id": ids[batch.symbol], "trade_count": batch.trades, **columns}
