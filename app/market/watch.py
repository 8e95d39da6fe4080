"""
Watching the universe: listings, halts and returns while minutes are live.

Read every ten minutes, and at once when the exchange does not know a pair that it listed. A new pair streams from then on and waits
for its history; one that halts is not waited for any more, from that moment. Pairs that are screened stay while they trade: a rank
that moves by one does not swap them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from app.market import errors
from app.market.client import ExchangeClient
from app.market.metrics import MarketMetrics
from app.market.pairs import Pairs, Waiting
from app.market.universe import QUOTE, Universe, universe
from app.store import machines, symbols
from app.store.pool import Pool

log = structlog.get_logger(__name__)
LOOKS_AT_LEAST_S: Final = 5.0  # between two looks, however often a pair is unknown


class Watch:
    """
    Args:
        refresh_s: Between two looks at the exchange's list.
    """

    def __init__(
        self,
        pool: Pool,
        client: ExchangeClient,
        pairs: Pairs,
        metrics: MarketMetrics,
        *,
        boot_id: int,
        symbols_max: int,
        min_quote_volume: float,
        refresh_s: float,
    ) -> None:
        self._pool = pool
        self._client = client
        self._pairs = pairs
        self._metrics = metrics
        self._boot_id = boot_id
        self._symbols_max = symbols_max
        self._min_quote_volume = min_quote_volume
        self._refresh_s = refresh_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """The list has changed: look at once."""
        self._woken.set()

    async def begin(self) -> None:
        """
        Fill `Pairs` with what trades now.

        Raises:
            ExchangeError: The list cannot be had.
        """
        chosen, bases = await self._read(frozenset())
        await self._put(chosen, bases)
        log.info("universe", symbols=len(self._pairs.ids))

    async def changed(self) -> tuple[set[str], set[str]]:
        """Wait for the next change of the universe, and take it over: pairs that came, and pairs that are gone."""
        while True:
            try:
                async with asyncio.timeout(self._refresh_s):
                    await self._woken.wait()
                    await asyncio.sleep(0)
            except TimeoutError:
                pass
            was_woken, before = self._woken.is_set(), set(self._pairs.ids)
            self._woken.clear()
            try:
                chosen, bases = await self._read(frozenset(before))
            except errors.ExchangeError as error:
                log.warning("the exchange's list cannot be read", reason=str(error))
                continue
            await self._put(chosen, bases)
            came, gone = set(self._pairs.ids) - before, before - set(self._pairs.ids)
            if came or gone:
                log.info("universe changed", came=sorted(came), gone=sorted(gone))
                return came, gone
            if was_woken:  # the exchange lists what it says it does not know: do not ask it in a circle
                await asyncio.sleep(min(LOOKS_AT_LEAST_S, self._refresh_s))

    async def _read(self, keep: frozenset[str]) -> tuple[Universe, Mapping[str, str]]:
        info = await self._client.exchange_info()
        chosen = universe(
            info,
            await self._client.quote_volumes(),
            symbols_max=self._symbols_max,
            min_quote_volume=self._min_quote_volume,
            keep=keep,
        )
        return chosen, {listed.symbol: listed.base_asset for listed in info.symbols}

    async def _put(self, chosen: Universe, bases: Mapping[str, str]) -> None:
        listed = [(symbol, bases[symbol], QUOTE) for symbol in chosen.symbols]
        async with machines.fenced(self._pool, self._boot_id) as connection:
            await symbols.put_listed(connection, listed, chosen.skipped)
            rows = await symbols.list_universe(connection)
        ids = {pair.symbol: pair.symbol_id for pair in rows if pair.trading}
        came = [symbol for symbol in ids if symbol not in self._pairs.ids]
        for symbol in self._pairs.ids.keys() - ids.keys():
            self._pairs.waiting.pop(symbol, None)
        unscreened = {pair.symbol for pair in rows if not pair.screened}
        self._pairs.waiting |= {symbol: Waiting() for symbol in came if symbol in unscreened}
        self._pairs.ids.clear()
        self._pairs.ids.update(ids)
        self._metrics.universe_size.set(len(ids))
