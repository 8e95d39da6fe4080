"""
Closed candles: ``sql/queries/candles.sql``, and bulk reads in Postgres's binary formats.

A COPY of fixed-width columns is one numpy view away from arrays: 400,000 bars in well under a second, where
rows would take several.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from app.store import queries
from app.store.pool import Connection
from app.store.rows import rows_of

_SQL = queries.load("candles")


def _tuple_of(*columns: tuple[str, str]) -> np.dtype[Any]:
    """
    One binary COPY tuple: field count, then (length, value) per field, big-endian; instants are µs since
    2000-01-01 UTC.
    """
    fields = [field for name, code in columns for field in ((f"{name}_length", ">i4"), (name, code))]
    return np.dtype([("count", ">i2"), *fields])


_PRICES = ("open", "high", "low", "close", "volume")
_READ = _tuple_of(("symbol_id", ">i4"), ("open_time", ">i8"), *((name, ">f8") for name in _PRICES))
_WRITE = _tuple_of(
    ("symbol_id", ">i4"),
    ("open_time", ">i8"),
    *((name, ">f8") for name in (*_PRICES, "quote_volume")),
    ("trade_count", ">i8"),
)
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER = b"\xff\xff"
_POSTGRES_EPOCH_MS = 946_684_800_000

_ARRAY_HEADER_BYTES = 20  # dimensions, flags, element type, length, lower bound: four bytes each

Column = NDArray[Any]
Rows = dict[str, Column]


def _decode(data: bytes) -> Rows:
    count = (len(data) - len(_COPY_HEADER) - len(_COPY_TRAILER)) // _READ.itemsize
    tuples = np.frombuffer(data, dtype=_READ, offset=len(_COPY_HEADER), count=count)
    rows: Rows = {name: tuples[name].astype(np.float64) for name in _PRICES}
    rows["symbol_id"] = tuples["symbol_id"].astype(np.int64)
    rows["open_time"] = tuples["open_time"].astype(np.int64) // 1000 + _POSTGRES_EPOCH_MS
    return rows


def _encode(rows: Rows) -> bytes:
    tuples = np.zeros(len(rows["symbol_id"]), dtype=_WRITE)
    tuples["count"] = (len(_WRITE.names or ()) - 1) // 2
    for name in rows:
        tuples[f"{name}_length"] = _WRITE[name].itemsize
        tuples[name] = rows[name]
    tuples["open_time"] = (rows["open_time"] - _POSTGRES_EPOCH_MS) * 1000
    return _COPY_HEADER + tuples.tobytes() + _COPY_TRAILER


async def read(connection: Connection, timeframe: str, first: datetime, last: datetime) -> Rows:
    """
    All bars of *timeframe* with first ≤ open_time ≤ last, in no particular order.

    Returns:
        Columns ``symbol_id`` int64, ``open_time`` int64 ms UTC, ``open high low close volume`` float64, each
        of shape (rows,).
    """
    statement = sql.SQL(
        "copy (select symbol_id, open_time, open, high, low, close, volume from vyx.candles"
        " where timeframe = {} and open_time between {} and {}) to stdout (format binary)"
    ).format(timeframe, first, last)  # COPY takes no parameters; psycopg quotes the literals
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        data = b"".join([bytes(block) async for block in copy])
    return _decode(data)


def columns(rows: Rows) -> dict[str, list[Any]]:
    """
    Parameters of the inserting queries from columns as :func:``read`` gives them (plus ``quote_volume`` and
    ``trade_count`` if known).
    """
    number = len(rows["symbol_id"])
    return {
        "symbol_ids": rows["symbol_id"].tolist(),
        "open_times": [datetime.fromtimestamp(ms / 1000, UTC) for ms in rows["open_time"].tolist()],
        "opens": rows["open"].tolist(),
        "highs": rows["high"].tolist(),
        "lows": rows["low"].tolist(),
        "closes": rows["close"].tolist(),
        "volumes": rows["volume"].tolist(),
        "quote_volumes": rows["quote_volume"].tolist() if "quote_volume" in rows else [0.0] * number,
        "trade_counts": rows["trade_count"].tolist() if "trade_count" in rows else [0] * number,
    }


async def insert(connection: Connection, timeframe: str, rows: Rows) -> int:
    """Store closed bars; those already stored stay as they are. Returns the number of new ones."""
    return (
        await connection.execute(_SQL["insert_candles"], {"timeframe": timeframe, **columns(rows)})
    ).rowcount


async def copy(connection: Connection, timeframe: str, rows: Rows) -> None:
    """
    As :func:``insert``, for history: one COPY however many bars. *rows* has every column, also
    ``quote_volume`` and ``trade_count``.

    Expects an open transaction.
    """
    await connection.execute(_SQL["make_staging"])
    async with connection.cursor() as cursor, cursor.copy(_SQL["copy_staging"]) as staging:
        await staging.write(_encode(rows))
    await connection.execute(_SQL["insert_staged"], {"timeframe": timeframe})


Bar = tuple[int, datetime]  # (symbol_id, open_time)


async def correct(connection: Connection, timeframe: str, rows: Rows) -> list[Bar]:
    """
    Store bars whose slot has been screened: new ones are late, differing ones corrections, each on record with what was there.

    Returns the bars that changed; equal copies change nothing.
    """
    cursor = await connection.execute(_SQL["correct_candles"], {"timeframe": timeframe, **columns(rows)})
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def rebuild_roll_ups(  # noqa: PLR0917 - one statement's parameters
    connection: Connection, timeframe: str, source: str, seconds: int, bars: Sequence[Bar], through: datetime
) -> list[Bar]:
    """
    Make the bars of *timeframe* again that contain *bars* of *source* and close by *through*; returns those that changed.

    A bar of which not all finer ones are known is forgotten in ``candle_ranges``: the exchange is asked for its own.
    """
    parameters = {
        "timeframe": timeframe,
        "source": source,
        "seconds": seconds,
        "symbol_ids": [symbol_id for symbol_id, _ in bars],
        "open_times": [open_time for _, open_time in bars],
        "through": through,
    }
    cursor = await connection.execute(_SQL["rebuild_roll_ups"], parameters)
    return [(row[0], row[1]) for row in await cursor.fetchall()]


async def newest_correction(connection: Connection) -> int:
    """A number that rises with every correction and with every pair whose history became whole; 0 before the first."""
    row = await (await connection.execute(_SQL["newest_correction"])).fetchone()
    return row[0] if row else 0


async def roll_up(
    connection: Connection, timeframe: str, source: str, seconds: int, slots: Sequence[datetime]
) -> int:
    """Build the bars of *timeframe* (of *seconds*) that closed at *slots* from the bars of *source*."""
    return (
        await connection.execute(
            _SQL["roll_up"],
            {"timeframe": timeframe, "source": source, "seconds": seconds, "slots": list(slots)},
        )
    ).rowcount


async def prune(
    connection: Connection, timeframe: str, market_time: datetime, *, bars: int, seconds: int
) -> int:
    """Delete bars of *timeframe* (of *seconds*) older than the newest *bars* at *market_time*, and no longer claim to know them."""
    before = market_time - timedelta(seconds=seconds * bars)
    row = await (
        await connection.execute(_SQL["prune_candles"], {"timeframe": timeframe, "before": before})
    ).fetchone()
    return int(row[0]) if row else 0


# -- the past: previews, explanations, charts ------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Candle:
    """A closed candle; prices and volume in quote and base currency."""

    open_time: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


class SymbolCandles(NamedTuple):
    """
    One symbol's candles as the database sent them: five columns and the open times, in no particular order.
    """

    symbol: str
    arrays: tuple[bytes, ...]

    def open_time(self) -> NDArray[np.int64]:
        """Milliseconds since 1970."""
        return _elements(self.arrays[0], ">i8").astype(np.int64) // 1000 + _POSTGRES_EPOCH_MS

    def fields(self) -> Iterator[NDArray[np.float64]]:
        """open, high, low, close, volume; each of the length of :meth:``open_time``."""
        return (_elements(array, ">f8").astype(np.float64) for array in self.arrays[1:])


def _elements(array: bytes, code: str) -> Column:
    """
    The elements of a one-dimensional array without nulls in Postgres's binary form: (length, value) pairs,
    big-endian.
    """
    return np.frombuffer(
        array, dtype=np.dtype([("length", ">i4"), ("value", code)]), offset=_ARRAY_HEADER_BYTES
    )["value"]


async def bar_times(connection: Connection, timeframe: str, last: datetime, bars: int) -> list[datetime]:
    """
    The newest *bars* open times at or before *last* at which any symbol has a bar, oldest first; fewer when
    there are no more.
    """
    parameters = {"timeframe": timeframe, "last": last, "bars": bars}
    rows = await (await connection.execute(_SQL["bar_times"], parameters)).fetchall()
    return [row[0].astimezone(UTC) for row in reversed(rows)]


async def read_by_symbol(
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


@dataclass(frozen=True, kw_only=True)
class LastCandle(Candle):
    """The last candle of a pair before some instant."""

    symbol_id: int
    symbol: str

    def prices(self) -> tuple[float, float, float, float, float]:
        """open, high, low, close, volume."""
        return self.open, self.high, self.low, self.close, self.volume


async def list_last_before(
    connection: Connection, timeframe: str, first: datetime, symbols: Sequence[str] | None
) -> list[LastCandle]:
    """
    Of each of *symbols* (None: all) without a bar at *first* its last one before; a symbol without any left out.

    A symbol that halts reads flat at its last close, however long ago that was: who loads a frame from *first* on
    needs these candles, too.
    """
    parameters = {
        "timeframe": timeframe,
        "first": first,
        "symbols": None if symbols is None else list(symbols),
    }
    async with connection.cursor(row_factory=rows_of(LastCandle)) as cursor:
        await cursor.execute(_SQL["last_candles_before"], parameters)
        return await cursor.fetchall()


async def list_candles(
    connection: Connection, symbol: str, timeframe: str, *, until: datetime | None, limit: int
) -> list[Candle]:
    """The newest *limit* closed candles that opened before *until* (None: now), oldest first."""
    async with connection.cursor(row_factory=rows_of(Candle)) as cursor:
        await cursor.execute(
            _SQL["list_candles"],
            {"symbol": symbol, "timeframe": timeframe, "until": until, "limit": limit},
        )
        return await cursor.fetchall()


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A candle that came late (``open`` is None: there was none) or changed, as it was before ``corrected_at``."""

    symbol: str
    timeframe: str
    open_time: datetime
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None
    corrected_at: datetime


async def list_corrections(
    connection: Connection, corrected_after: datetime, first: datetime, last: datetime
) -> list[Correction]:
    """Corrections after an instant, of bars that open from *first* to *last*; oldest correction first."""
    parameters = {"corrected_after": corrected_after, "first": first, "last": last}
    async with connection.cursor(row_factory=rows_of(Correction)) as cursor:
        await cursor.execute(_SQL["corrections_after"], parameters)
        return await cursor.fetchall()


async def prune_corrections(connection: Connection, *, before: datetime, limit: int) -> int:
    """Drop at most *limit* corrections made before an instant, never the newest; returns how many."""
    return (await connection.execute(_SQL["prune_corrections"], {"before": before, "limit": limit})).rowcount
