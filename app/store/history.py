"""
Stretches of stored candles for questions about the past (preview, explain): ``sql/queries/history.sql``.

Live screening reads by ``app/store/candles.py``; the rows are the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from app.store import queries
from app.store.pool import Connection

_SQL = queries.load("history")
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH_MS = 946_684_800_000
_ARRAY_HEADER_BYTES = 20  # dimensions, flags, element type, length, lower bound: four bytes each

Column = NDArray[Any]


class SymbolCandles(NamedTuple):
    """One symbol's candles as the database sent them: five columns and the open times, in no particular order."""

    symbol: str
    arrays: tuple[bytes, ...]

    def open_time(self) -> NDArray[np.int64]:
        """Milliseconds since 1970."""
        return _elements(self.arrays[0], ">i8").astype(np.int64) // 1000 + _POSTGRES_EPOCH_MS

    def fields(self) -> Iterator[NDArray[np.float64]]:
        """open, high, low, close, volume; each of the length of :meth:`open_time`."""
        return (_elements(array, ">f8").astype(np.float64) for array in self.arrays[1:])


class Unscreened(NamedTuple):
    """A slot that live screening passed over: for every symbol (None) or for one."""

    symbol: str | None
    slot: datetime


def _elements(array: bytes, code: str) -> Column:
    """The elements of a one-dimensional array without nulls in Postgres's binary form: (length, value) pairs, big-endian."""
    return np.frombuffer(
        array, dtype=np.dtype([("length", ">i4"), ("value", code)]), offset=_ARRAY_HEADER_BYTES
    )["value"]


async def axis(connection: Connection, timeframe: str, last: datetime, bars: int) -> list[datetime]:
    """The newest *bars* open times at or before *last* at which any symbol has a bar, oldest first; fewer when there are no more."""
    parameters = {"timeframe": timeframe, "last": last, "bars": bars}
    rows = await (await connection.execute(_SQL["axis"], parameters)).fetchall()
    return [row[0].astimezone(UTC) for row in reversed(rows)]


async def read(
    connection: Connection, timeframe: str, first: datetime, last: datetime, symbols: Sequence[str] | None
) -> list[SymbolCandles]:
    """The bars with first ≤ open_time ≤ last of *symbols* (None: all), a symbol without any left out."""
    parameters = {
        "timeframe": timeframe,
        "first": first,
        "last": last,
        "symbols": None if symbols is None else list(symbols),
    }
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_SQL["candles_by_symbol"], parameters)
        return [SymbolCandles(row[0], cast("tuple[bytes, ...]", row[1:])) for row in await cursor.fetchall()]


async def symbols_in_order(connection: Connection, symbols: Sequence[str] | None) -> list[str]:
    """Those of *symbols* (None: all) that the market knows, in the order of a panel's rows."""
    parameters = {"symbols": None if symbols is None else list(symbols)}
    return [
        row[0] for row in await (await connection.execute(_SQL["symbols_in_order"], parameters)).fetchall()
    ]


async def unscreened(connection: Connection, first: datetime, last: datetime) -> list[Unscreened]:
    """What live screening passed over between two slots, both included: outages, and candles that came too late."""
    rows = await (await connection.execute(_SQL["unscreened"], {"first": first, "last": last})).fetchall()
    return [Unscreened(row[0], row[1].astimezone(UTC)) for row in rows]


def instant(milliseconds: int) -> datetime:
    """Milliseconds since 1970 as an aware instant."""
    return _POSTGRES_EPOCH + timedelta(milliseconds=milliseconds - _POSTGRES_EPOCH_MS)
