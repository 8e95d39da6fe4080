"""
Following the market minute by minute: what streams deliver goes into the assembly, what it says is ready is closed.

Decided here: when REST is asked for what streams did not deliver, how long that may take, and that one pair's trouble (an impossible
candle, an answer that does not come) becomes an excuse of that pair, never a delay of the others beyond the grace time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from app.domain import timeframes
from app.market import errors
from app.market.assembly import MINUTE_MS, Assembly, Excuse, Ready
from app.market.candles import Candle, RefusedCandle
from app.market.client import ExchangeClient
from app.market.closing import SlotCloser
from app.market.corrections import Corrections
from app.market.fetching import Fetched, Fetching, PairTrouble
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs
from app.market.streams import KlineStreams, StreamDown, StreamEvent, StreamUp
from app.store import candle_refusals, machines
from app.store.candle_refusals import Refusal
from app.store.pool import Pool

log = structlog.get_logger(__name__)
GRACE_S: Final = 5.0  # how long stragglers of a minute may take before REST is asked, in market time …
GRACE_MIN_S: Final = 0.25  # … but never less than this in real time, however fast a simulated market runs
SILENCE_S: Final = 20.0  # no candle for so long: ask REST whether the market goes on without us
REQUESTS_AT_ONCE: Final = 8
REPAIR_S: Final = 5.0  # how long asking for one pair's candle may hold up a slot …
REPAIR_S_EACH: Final = 0.2  # … and for each further request
ARRIVALS_MAX: Final = 50_000  # what may wait while the database is slow


@dataclass(frozen=True, slots=True)
class _AskedAgain:
    """REST confirmed that a pair's candle cannot be had."""

    symbol: str
    slot: int
    excuse: Excuse


_Event = StreamEvent | _AskedAgain


class Follow:
    """
    Args:
        grace_s: How long stragglers may take after the first candle of a slot, in real time.
    """

    def __init__(  # noqa: PLR0917 - the parts it joins, given once
        self,
        pool: Pool,
        client: ExchangeClient,
        fetching: Fetching,
        pairs: Pairs,
        closer: SlotCloser,
        corrections: Corrections,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        grace_s: float,
    ) -> None:
        self._pool = pool
        self._client = client
        self._fetching = fetching
        self._pairs = pairs
        self._closer = closer
        self._corrections = corrections
        self._metrics = metrics
        self._boot_id = boot_id
        self._grace_s = grace_s
        self._gate = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._arrivals: asyncio.Queue[_Event] = asyncio.Queue(maxsize=ARRIVALS_MAX)
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self, assembly: Assembly, streams: KlineStreams) -> None:
        """Close slot after slot, for ever."""
        reader = asyncio.create_task(self._read(streams))
        try:
            while True:
                await self._gather(assembly, reader)
                while (ready := assembly.ready(time.monotonic())) is not None:
                    await self._close_ready(assembly, ready)
        finally:
            tasks = [reader, *self._asking]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def look_again(self) -> None:
        """Fewer pairs are expected: the slot that waited for one of them may be full."""
        with contextlib.suppress(asyncio.QueueFull):
            self._arrivals.put_nowait(StreamDown((), "a pair was dropped"))

    async def _read(self, streams: KlineStreams) -> None:
        async with contextlib.aclosing(streams.events()) as events:
            async for event in events:
                self._metrics.count_reconnects(streams.reconnect_count)
                await self._arrivals.put(event)

    async def _gather(self, assembly: Assembly, reader: asyncio.Task[None]) -> None:
        """Take what has arrived; wait for the first of it until stragglers run out of time or the silence grows suspicious."""
        wait_s = assembly.wait_s(time.monotonic())
        try:
            async with asyncio.timeout(SILENCE_S if wait_s is None else wait_s):
                events = [await self._arrivals.get()]
        except TimeoutError:
            if reader.done():
                reader.result()
                raise ConnectionError("the stream ended") from None
            if wait_s is None:
                await self._fill_hole(assembly)
            return
        while not self._arrivals.empty():
            events.append(self._arrivals.get_nowait())
        await self._take(assembly, events)

    async def _take(self, assembly: Assembly, events: Sequence[_Event]) -> None:
        now = time.monotonic()
        late: list[Candle] = []
        for event in events:
            if isinstance(event, Candle):
                if not assembly.add(event, now) and event.symbol in assembly.expected:
                    late.append(event)
                self._metrics.saw_candle(event.symbol, event.open_time)
            elif isinstance(event, RefusedCandle):
                self._ask_again(assembly, event)
            elif isinstance(event, _AskedAgain):
                assembly.excuse(event.symbol, event.slot, event.excuse)
        if late:
            await self._corrections.take(late, assembly.newest)
        if any(isinstance(event, StreamUp) and event.hole for event in events):
            await self._fill_hole(assembly)

    # -- one impossible candle ----------------------------------------------------------------------------------------

    def _ask_again(self, assembly: Assembly, refused: RefusedCandle) -> None:
        """Set the stream's candle aside and ask REST for it, beside everything else."""
        if refused.symbol not in assembly.expected:
            return
        task = asyncio.create_task(self._settle_refused(refused))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _settle_refused(self, refused: RefusedCandle) -> None:
        slot = refused.open_time + MINUTE_MS
        log.warning("candle refused", symbol=refused.symbol, open_time=refused.open_time, what=refused.what)
        self._metrics.refused("stream", 1)
        await self._put_refusals("stream", [refused])
        try:
            fetched = await self._fetching.fetch(
                refused.symbol, "1m", refused.open_time, slot, background=False
            )
        except (PairTrouble, errors.ExchangeError) as trouble:
            reason = f"refused ({refused.what}), and not to be asked for again: {trouble}"
            await self._arrivals.put(_AskedAgain(refused.symbol, slot, Excuse(reason, is_settled=False)))
            return
        await self._put_refusals("rest", fetched.refused)
        for candle in fetched.candles.rows():
            await self._arrivals.put(candle)
        if not len(fetched.candles):
            what = fetched.refused[0].what if fetched.refused else refused.what
            await self._arrivals.put(_AskedAgain(refused.symbol, slot, _refused_excuse(what)))

    async def _put_refusals(self, source: str, refused: Sequence[RefusedCandle]) -> None:
        if not refused:
            return
        rows = [
            Refusal(self._pairs.ids[r.symbol], timeframes.instant(r.open_time), source, r.what, r.raw)
            for r in refused
            if r.symbol in self._pairs.ids
        ]
        async with machines.fenced(self._pool, self._boot_id) as connection:
            await candle_refusals.put(connection, "1m", rows)

    # -- what did not come by itself ----------------------------------------------------------------------------------

    async def _fill_hole(self, assembly: Assembly) -> None:
        """Ask REST for every minute since the ledger that should be there by now; the newest one is left its grace."""
        try:
            settled_ms = await self._client.settled_time()
            if not self._client.has_ended:
                settled_ms -= int(GRACE_S * 1000)
        except errors.ExchangeError as error:
            log.warning("cannot ask how far the market is", reason=str(error))
            return
        last = settled_ms - settled_ms % MINUTE_MS
        if last > assembly.newest:
            await self._repair(assembly, assembly.newest + MINUTE_MS, last)

    async def _repair(self, assembly: Assembly, first: int, last: int) -> None:
        """Ask REST for what these slots lack, within a bounded time; who gives no answer is excused for that."""
        lacking = assembly.lacking(first, last)
        troubles: dict[str, str] = {}
        asking = {
            asyncio.create_task(self._fetch_hole(symbol, slot, last, troubles)): symbol
            for symbol, slot in lacking.items()
        }
        pages = 1 + (last - first) // (1_000 * MINUTE_MS)
        try:
            _, late = (
                await asyncio.wait(asking, timeout=REPAIR_S + REPAIR_S_EACH * pages * len(asking))
                if asking
                else (set(), set())
            )
        finally:
            for task in asking:
                task.cancel()
            answers = await asyncio.gather(*asking, return_exceptions=True)
        self._metrics.repairs.inc(len(lacking))
        for task in late:
            troubles[asking[task]] = "REST did not answer in time"
        await self._take_repaired(assembly, [a for a in answers if isinstance(a, Fetched)])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        assembly.repaired(first, last, troubles, settled=self._client.settled_ms if lacking else None)

    async def _take_repaired(self, assembly: Assembly, answers: Sequence[Fetched]) -> None:
        now = time.monotonic() - self._grace_s  # REST has said what there is: no more grace
        refused = [row for fetched in answers for row in fetched.refused]
        for fetched in answers:
            for candle in fetched.candles.rows():
                assembly.add(candle, now)
        for row in refused:
            assembly.excuse(row.symbol, row.open_time + MINUTE_MS, _refused_excuse(row.what))
        self._metrics.refused("rest", len(refused))
        await self._put_refusals("rest", refused)

    async def _fetch_hole(
        self, symbol: str, slot: int, last: int, troubles: dict[str, str]
    ) -> Fetched | None:
        async with self._gate:
            try:
                return await self._fetching.fetch(symbol, "1m", slot - MINUTE_MS, last, background=False)
            except (PairTrouble, errors.ExchangeError) as trouble:
                troubles[symbol] = str(trouble)
                return None

    async def _close_ready(self, assembly: Assembly, ready: Ready) -> None:
        if ready.repair:
            await self._repair(assembly, ready.first, ready.last)
        await self._closer.close(ready.first, ready.last, assembly.take(ready.first, ready.last))


def _refused_excuse(what: str) -> Excuse:
    return Excuse(f"its candle was refused: {what}")
