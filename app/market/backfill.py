"""
When a pair is screened: as soon as its history is whole, never before.

At the start of a feeder everything that is lacking is loaded before the ledger goes on; minutes that pass meanwhile come by REST. A
pair that cannot be had is left behind and loaded in the background, like one that is listed or returns while minutes are live.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from app.market import errors
from app.market.assembly import Assembly
from app.market.closing import SlotCloser
from app.market.fetching import PairTrouble
from app.market.history import History, Piece
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs, Waiting
from app.store import machines, symbols
from app.store.pool import Pool

log = structlog.get_logger(__name__)
PAIRS_AT_ONCE: Final = 8
LOOK_EVERY_S: Final = 60.0  # for gaps that nobody reported
TAIL_TRIES: Final = 3  # until a pair that is being loaded is given the slot's lock to catch up

OnProgress = Callable[[int, int], Awaitable[None]]


class Backfill:
    """Loads pairs into whole history, and lets them be screened."""

    def __init__(
        self,
        pool: Pool,
        history: History,
        pairs: Pairs,
        closer: SlotCloser,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        on_progress: OnProgress,
    ) -> None:
        self._pool = pool
        self._history = history
        self._pairs = pairs
        self._closer = closer
        self._metrics = metrics
        self._boot_id = boot_id
        self._on_progress = on_progress
        self._gate = asyncio.Semaphore(PAIRS_AT_ONCE)
        self._woken = asyncio.Event()
        self._done = 0

    def wake(self) -> None:
        """There is a pair to load, or a gap to fill."""
        self._woken.set()

    # -- at the start -------------------------------------------------------------------------------------------------

    async def load_all(self, through_ms: int) -> None:
        """
        Load what every trading pair lacks up to *through_ms*; pairs that cannot be had wait, all others are screened.

        Raises:
            ExchangeError: The exchange is out of reach, or no pair can be had at all.
        """
        lacking = await self._history.lacking(list(self._pairs.ids), through_ms)
        total = sum(len(pieces) for pieces in lacking.values())
        self._done = 0
        self._metrics.history_backlog.set(total)
        async with asyncio.TaskGroup() as loading:
            for symbol, pieces in lacking.items():
                loading.create_task(self._load_first(symbol, pieces, through_ms, total))
        troubles = {s: w.reason for s, w in self._pairs.waiting.items() if w.failures}
        if troubles and len(troubles) == len(self._pairs.ids):
            reason = next(iter(troubles.values()))
            raise errors.ExchangeUnavailable(f"No pair's candles can be had: {reason}")
        changed = self._pairs.waiting.keys() | lacking.keys()
        await self._screen([symbol for symbol in self._pairs.ids if symbol in changed - troubles.keys()])

    async def _load_first(self, symbol: str, pieces: Sequence[Piece], through_ms: int, total: int) -> None:
        async with self._gate:
            try:
                for piece in pieces:
                    await self._history.fill(symbol, piece, through_ms, background=False)
                    self._done += 1
                    self._metrics.history_backlog.set(total - self._done)
                    await self._on_progress(self._done, total)
            except PairTrouble as trouble:
                self._pairs.waiting.setdefault(symbol, Waiting())
                await self._postpone(symbol, str(trouble))

    # -- while minutes are live ---------------------------------------------------------------------------------------

    async def run(self, assembly: Assembly) -> None:
        """Load waiting pairs when they are due, and fill gaps of screened ones, for ever."""
        while True:
            self._woken.clear()
            await self._load_due(assembly)
            wait_s = LOOK_EVERY_S
            if self._pairs.waiting:
                due_at = min(waiting.due_at for waiting in self._pairs.waiting.values())
                wait_s = min(wait_s, max(0.05, due_at - time.monotonic()))
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _load_due(self, assembly: Assembly) -> None:
        now = time.monotonic()
        due = [symbol for symbol, waiting in self._pairs.waiting.items() if waiting.due_at <= now]
        if self._closer.has_gaps:
            self._closer.has_gaps = False
            due += sorted(self._pairs.screened)
        lacking = await self._history.lacking(due, assembly.newest)
        self._metrics.history_backlog.set(sum(map(len, lacking.values())))
        async with asyncio.TaskGroup() as loading:
            for symbol in due:
                if symbol in self._pairs.waiting or symbol in lacking:
                    loading.create_task(self._load(symbol, assembly))
        self._metrics.history_backlog.set(0)

    async def _load(self, symbol: str, assembly: Assembly) -> None:
        async with self._gate:
            try:
                for _ in range(TAIL_TRIES):
                    newest = assembly.newest
                    await self._fill(symbol, newest)
                    if await self._join(symbol, assembly, newest):
                        return
                async with self._closer.lock:  # slots close faster than it is loaded: let them wait once
                    await self._fill(symbol, assembly.newest)
                    await self._admit(symbol, assembly)
            except PairTrouble as trouble:
                await self._postpone(symbol, str(trouble))
            except errors.ExchangeError as error:
                await self._postpone(symbol, str(error))

    async def _fill(self, symbol: str, through_ms: int) -> None:
        lacking = await self._history.lacking([symbol], through_ms)
        for piece in lacking.get(symbol, ()):
            await self._history.fill(symbol, piece, through_ms, background=True)

    async def _join(self, symbol: str, assembly: Assembly, through_ms: int) -> bool:
        """Let slots wait for the pair; False when one has closed since *through_ms*, whose minute the pair lacks."""
        async with self._closer.lock:
            if assembly.newest != through_ms:
                return False
            await self._admit(symbol, assembly)
            return True

    async def _admit(self, symbol: str, assembly: Assembly) -> None:
        if symbol in self._pairs.waiting:
            await self._screen([symbol])
            assembly.join(symbol)
            log.info("pair is screened", symbol=symbol)

    # -- in rows and in memory ----------------------------------------------------------------------------------------

    async def _screen(self, names: Sequence[str]) -> None:
        ids = [self._pairs.ids[symbol] for symbol in names if symbol in self._pairs.ids]
        if ids:
            async with machines.fenced(self._pool, self._boot_id) as connection:
                await symbols.screen(connection, ids)
        for symbol in names:
            self._pairs.waiting.pop(symbol, None)

    async def _postpone(self, symbol: str, reason: str) -> None:
        waiting = self._pairs.waiting.get(symbol)
        if waiting is None or symbol not in self._pairs.ids:
            log.warning("a gap of a pair is not filled yet", symbol=symbol, reason=reason)
            self._closer.has_gaps = True  # looked at again within a minute
            return
        wait_s = waiting.postpone(reason, time.monotonic())
        log.warning("pair waits for its history", symbol=symbol, reason=reason, retry_s=wait_s)
        async with machines.fenced(self._pool, self._boot_id) as connection:
            await symbols.let_wait(connection, self._pairs.ids[symbol], reason, wait_s)
