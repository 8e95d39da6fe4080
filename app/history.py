"""
The candles that screening a plan over some bars of the past takes, read from the table: exactly those, and as
live screening sees them.

Decided here: how far back each timeframe reaches, and which symbols' candles are needed.

* Each timeframe reaches back from the oldest slot looked at by the bars that the plan needs. One whose first bar
  closes later is read from its first bar on.
* A symbol that halts reads flat at its last close. Where a symbol lacks the first bar that is read, its last candle
  before it is read, too: one more bar at the front of the panel's axis, farther back than any value looks.
* A bar of the axis that none of the symbols read has (others do) is kept on the axis by a candle of ``AXIS_ROW``, a
  row of the panel that nobody can name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.timeframes import epoch_ms, instant
from app.store import candles
from app.store import symbols as symbol_store
from app.store.candles import LastCandle, SymbolCandles
from app.store.pool import Connection
from sandbox.engine.candles.panel import Panel
from sandbox.engine.screen import HISTORY_SLACK_BARS
from sandbox.plan.document import Plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import AcrossMarket
from sandbox.plan.timeframes import TIMEFRAMES

Columns = tuple[NDArray[Any], ...]
"""A panel's columns: symbol row and open time (ms, int64), open, high, low, close, volume (float64)."""
AXIS_ROW = "\N{MIDDLE DOT}axis"


@dataclass(frozen=True)
class Stretch:
    """
    Candles of the past: ``symbols`` are a panel's rows, ``frames`` its columns by timeframe.

    ``first`` is the oldest slot that is looked at; None when there is none. ``begins`` holds when the first bar opens
    of each timeframe of which no bar had closed at the oldest slot that was asked for.
    """

    symbols: list[str]
    frames: dict[str, Columns]
    first: datetime | None
    begins: dict[str, datetime] = field(default_factory=dict)

    def panel(self) -> Panel:
        """A panel of these candles; takes some time, so call it where that hurts nobody."""
        panel = Panel(self.symbols)
        for timeframe, columns in self.frames.items():
            panel.load(timeframe, *columns)
        return panel


def symbols_read(plan: Plan, symbols: Collection[str] | None) -> list[str] | None:
    """
    Whose candles the plan's answers for *symbols* depend on: theirs and those it names; None (all) when it
    looks across the market.
    """
    if symbols is None or any(isinstance(OPERATORS[node.op].kind, AcrossMarket) for node in plan.nodes):
        return None
    named = {str(node.params["symbol"]) for node in plan.nodes if node.params.get("symbol")}
    return sorted(named | set(symbols))


async def load(
    connection: Connection,
    plan: Plan,
    *,
    bars: int,
    until: datetime,
    symbols: Collection[str] | None,
    on_loaded: Callable[[str], None] = lambda _: None,
) -> Stretch:
    """
    What it takes to screen *plan* at the newest *bars* slots at which it is due by *until*, for *symbols*
    (None: all).

    Returns fewer bars where history begins later. *on_loaded* is called with each timeframe once it is read.
    """
    read = symbols_read(plan, symbols)
    rows = await symbol_store.symbols_in_order(connection, read)
    names = rows if read is None else [*rows, AXIS_ROW]
    due_axis = await candles.bar_times(
        connection,
        plan.due_every,
        until - _length(plan.due_every),
        bars + plan.need[plan.due_every] + HISTORY_SLACK_BARS,
    )
    if not due_axis:
        return Stretch(names, {}, None)
    looked_at = due_axis[-bars:]
    first = looked_at[0] + _length(plan.due_every)
    frames: dict[str, Columns] = {}
    begins: dict[str, datetime] = {}
    for timeframe, need in plan.need.items():
        if timeframe == plan.due_every:
            begin, begins_late = due_axis[0], len(due_axis) < bars
        else:
            begin, found = await reach(connection, timeframe, first, need + HISTORY_SLACK_BARS)
            begins_late = not found
        last = until - _length(timeframe)
        if begin <= last:
            frames[timeframe] = await _frame(connection, timeframe, (begin, last), names, read)
            if begins_late and len(frames[timeframe][1]):
                begins[timeframe] = instant(int(frames[timeframe][1].min()))
        on_loaded(timeframe)
    return Stretch(names, frames, first, begins)


async def reach(connection: Connection, timeframe: str, slot: datetime, bars: int) -> tuple[datetime, int]:
    """
    From which open time on the candles of *timeframe* hold its newest *bars* bars that close by *slot*, and how many of
    those there are.

    Fewer than *bars* where history begins later; then the open time is at or before the very first bar.
    """
    newest = slot - _length(timeframe)
    axis = await candles.bar_times(connection, timeframe, newest, bars)
    return (axis[0] if axis else newest), len(axis)


async def _frame(
    connection: Connection,
    timeframe: str,
    span: tuple[datetime, datetime],
    names: Sequence[str],
    read: Sequence[str] | None,
) -> Columns:
    """The candles of the symbols *read* that open in *span*, both ends included."""
    first, last = span
    found = await candles.read_by_symbol(connection, timeframe, first, last, read)
    before = await candles.list_last_before(connection, timeframe, first, read)
    whole = None if read is None else await _whole_axis(connection, timeframe, first, last)
    return await asyncio.to_thread(_columns, names, found, before, whole)


async def _whole_axis(
    connection: Connection, timeframe: str, first: datetime, last: datetime
) -> list[datetime]:
    most = (last - first) // _length(timeframe) + 1
    return [at for at in await candles.bar_times(connection, timeframe, last, most) if at >= first]


def _length(timeframe: str) -> timedelta:
    return timedelta(seconds=TIMEFRAMES[timeframe])


def _columns(
    names: Sequence[str],
    found: Sequence[SymbolCandles],
    before: Sequence[LastCandle],
    whole_axis: Sequence[datetime] | None,
) -> Columns:
    """Symbol row, open time and the five fields of all candles, one behind the other."""
    row_of = {name: row for row, name in enumerate(names)}
    times = [own.open_time() for own in found]
    rows = [np.full(len(t), row_of[own.symbol]) for t, own in zip(times, found, strict=True)]
    fields = [list(own.fields()) for own in found]
    if before:
        times.append(np.array([epoch_ms(last.open_time) for last in before], dtype=np.int64))
        rows.append(np.array([row_of[last.symbol] for last in before]))
        fields.append(list(np.array([last.prices() for last in before]).T))
    if whole_axis is not None:
        held = np.concatenate([np.empty(0, dtype=np.int64), *times])
        kept = np.setdiff1d(np.array([epoch_ms(at) for at in whole_axis], dtype=np.int64), held)
        times.append(kept)
        rows.append(np.full(len(kept), row_of[AXIS_ROW]))
        fields.append([np.ones(len(kept))] * 5)
    if not times:
        return (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), *[np.empty(0)] * 5)
    return (
        np.concatenate(rows),
        np.concatenate(times),
        *(np.concatenate([own[at] for own in fields]) for at in range(5)),
    )
