"""
One pair's candles by REST, and whose trouble it is when they are not to be had.

Decided here: a pair that is refused or answers errors while the exchange is otherwise well is *its own* trouble
(`PairTrouble`): nothing else waits for it, and its failures do not open the breaker. Everything else is the exchange's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from app.market import errors
from app.market.candles import Candles, RefusedCandle
from app.market.client import ExchangeClient

UNKNOWN_SYMBOL: Final = -1121


class PairTrouble(errors.MarketError):
    """One pair's candles cannot be had now, for a reason that is no other pair's."""


class Fetched(NamedTuple):
    """Candles of one pair, and those that were refused twice."""

    candles: Candles
    refused: list[RefusedCandle]


class Fetching:
    """
    Args:
        on_unknown: Called with a pair the exchange says it does not know (-1121): its list has changed.
    """

    def __init__(self, client: ExchangeClient, on_unknown: Callable[[str], None]) -> None:
        self._client = client
        self._on_unknown = on_unknown

    @property
    def settled_ms(self) -> int:
        """Up to which instant an answer says what there is."""
        return self._client.settled_ms

    async def fetch(
        self, symbol: str, timeframe: str, first_ms: int, until_ms: int, *, background: bool
    ) -> Fetched:
        """
        Closed bars with first ≤ open time < until; impossible ones were asked for twice.

        Raises:
            PairTrouble: It is this pair's trouble.
            ExchangeError: It is not.
        """
        refused: list[RefusedCandle] = []
        try:
            candles = await self._client.klines_between(
                symbol, timeframe, first_ms, until_ms, background=background, on_refused=refused.append
            )
        except errors.RequestInvalid as error:
            if error.code == UNKNOWN_SYMBOL:
                self._on_unknown(symbol)
            raise PairTrouble(str(error)) from error
        except errors.AnswerInvalid as error:
            raise PairTrouble(str(error)) from error
        except errors.ExchangeUnavailable as error:
            await self._client.ping()  # raises when it is not only this pair; a pong closes the breaker again
            raise PairTrouble(str(error)) from error
        return Fetched(candles, refused)
