"""
The pairs that are fed: which trade, which are screened, and what the others wait for. In memory, for one feeder.

The rows of ``vyx.symbols`` are the truth; whoever changes one changes the other in the same breath.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from app.market.candles import Candles
from app.store.candles import Rows

LOADING: Final = "its history is loading"
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 900.0


@dataclass(slots=True)
class Waiting:
    """A trading pair without whole history. *due_at*: monotonic seconds when it is tried again."""

    reason: str = LOADING
    due_at: float = 0.0
    failures: int = 0

    def postpone(self, reason: str, now_s: float) -> float:
        """It could not be had again: wait 5 s, then twice as long each time, at most 15 minutes; returns for how long."""
        wait_s = min(RETRY_FIRST_S * 2.0**self.failures, RETRY_MAX_S)
        self.reason, self.due_at, self.failures = reason, now_s + wait_s, self.failures + 1
        return wait_s


@dataclass(slots=True)
class Pairs:
    """
    Attributes:
        ids: symbol_id of every pair that trades, by name.
        waiting: Those of them that are not screened yet.
    """

    ids: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)

    @property
    def screened(self) -> set[str]:
        """Pairs whose history is whole."""
        return self.ids.keys() - self.waiting.keys()

    def rows(self, batch: Candles) -> Rows:
        """A batch in the columns of the store, its symbols as ids; rows of pairs that do not trade any more are left out."""
        return candle_rows(batch, self.ids)


def candle_rows(batch: Candles, ids: Mapping[str, int]) -> Rows:
    """*batch* in the columns of the store; rows of symbols without an id are left out."""
    ids_of = np.array([ids.get(symbol, -1) for symbol in batch.symbols] or [-1], dtype=np.int64)
    of_row = ids_of[batch.symbol]
    if (of_row < 0).any():
        batch = batch.take(of_row >= 0)
        of_row = ids_of[batch.symbol]
    columns: dict[str, Any] = {
        name: getattr(batch, name)
        for name in ("open_time", "open", "high", "low", "close", "volume", "quote_volume")
    }
    return {"symbol_id": of_row, "trade_count": batch.trades, **columns}
