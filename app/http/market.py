"""
What every signed-in user may read: who they are to us, the market's pairs and candles.
"""

from __future__ import annotations

from dataclasses import asdict

from app.errors import Kind, Refused
from app.http import shapes
from app.http.endpoints import Call
from app.store import accounts, candles, rate_limits, symbols
from app.store.rate_limits import LIFECYCLE


async def show_me(call: Call) -> shapes.Me:
    """Your tier, and how much of your quota and of your lifecycle requests is left."""
    async with call.service.pool.connection() as connection:
        account = await accounts.find_account(connection, call.user_id)
        left = await rate_limits.calls_left(connection, call.user_id, LIFECYCLE)
    return shapes.Me(
        user_id=call.user_id,
        tier=account.tier,
        running=account.running,
        max_running=account.max_running,
        stored=account.stored,
        max_stored=account.max_stored,
        max_streams=account.max_streams,
        signals_per_day=account.signals_per_day,
        rate=shapes.Rate(LIFECYCLE.max_calls, left.remaining, round(left.reset_after.total_seconds(), 3)),
    )


async def list_tiers(call: Call) -> shapes.TierList:
    """What each tier allows, the smallest first."""
    async with call.service.pool.connection() as connection:
        rows = await accounts.list_tiers(connection)
    return shapes.TierList(
        [
            shapes.Tier(
                tier=t.tier,
                max_running=t.max_running,
                max_stored=t.max_stored,
                max_streams=t.max_streams,
                signals_per_day=t.signals_per_day,
            )
            for t in rows
        ]
    )


async def list_symbols(call: Call) -> shapes.PairList:
    """Every pair of the market, and whether it trades now."""
    async with call.service.pool.connection() as connection:
        rows = await symbols.list_symbols(connection)
    return shapes.PairList([shapes.Pair(**asdict(pair)) for pair in rows])


async def list_candles(call: Call, query: shapes.CandleQuery) -> shapes.CandleList:
    """The newest closed candles of a pair that opened before `until` (default: now), oldest first."""
    symbol = query.symbol.upper()
    async with call.service.pool.connection() as connection:
        rows = await candles.list_candles(
            connection, symbol, query.timeframe, until=query.until, limit=query.limit
        )
        if not rows and not await symbols.symbol_exists(connection, symbol):
            raise Refused(Kind.NOT_FOUND, f"The market has no {symbol}.")
    return shapes.CandleList(
        [shapes.Candle(c.open_time, c.open, c.high, c.low, c.close, c.volume) for c in rows]
    )
