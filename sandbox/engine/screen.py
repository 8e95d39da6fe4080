"""
From plans to hits: which traders match which symbols at a slot.

One candle's way through it, with the figures of `bench/screening.py --traders 10000` (400 symbols, six timeframes):

1. At 00:00 a bar of every timeframe closes. The candles of 400 symbols become one column in each of six frames. This
   lives in `candles/panel`.
2. All traders whose `due_every` closes are due: 10,000 now, 1,500 at an ordinary minute. This lives in `Evaluator.evaluate`.
3. Their plans have 161,655 nodes. Equal nodes are one call, 42,329 in all, whoever's plan they are in. This was decided
   when the traders were put, and lives in `calls` and `lowering`.
4. Each call has its newest value for 400 symbols in a row of a table, and calls of one shape are a group. Each group
   moves on by one bar with a few NumPy calls. This lives in `live` and `kinds/`.
5. A condition is a row of 7 words with a bit for each symbol. It is joined with the bits of the symbols that have a
   candle of their own, of the conditions one bar ago, and of the symbols that the trader chose. This lives in `matching`.
6. 1,120 traders have a bit left: the slot's hits, with prices and shown values. This lives in `Evaluator._incremental`.

All of it takes 0.4 s, 39 us a trader. A slot screened again, or for some traders only, is recomputed from the candles
(`ranges`) and leaves the newest values alone; the answer is the same, bit for bit.

Decided here: what is due, what traders share. Not decided here: what a match is (`sandbox.engine.matching`), what one
plan found over many bars (`sandbox.engine.replay`).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from sandbox.engine.calls import Call, Calls, OperatorError, Ref
from sandbox.engine.candles.frame import Floats, Ints
from sandbox.engine.candles.panel import Panel
from sandbox.engine.live import LiveValues
from sandbox.engine.matching import (
    ConditionsBefore,
    Frequency,
    chosen_symbols,
    closing_bar,
    condition_before,
    matches,
    view_axis,
)
from sandbox.engine.ranges import Computation
from sandbox.interpreter.functions import EachRunner
from sandbox.plan.axis import Axis
from sandbox.plan.document import Plan
from sandbox.plan.operators.kind import Array, Each
from sandbox.plan.timeframes import TIMEFRAMES

Value = float | bool | None

HISTORY_SLACK_BARS = 64
"""Bars kept beyond the need: a symbol without candles at the oldest bars needed still reads flat at its last close."""


class Hits(msgspec.Struct, frozen=True):
    """
    One trader's matches in one slot: symbols in panel order, the trigger bar's close, the shown values (NaN: None).

    `forming`: the filter reads forming bars. A symbol that goes on matching while the trigger's bar is forming is
    reported at every slot; the table of signals keeps the first per bar.
    """

    key: Any
    timeframe: str
    forming: bool
    symbols: list[str]
    prices: Floats
    values: dict[str, list[Value]]


class Slot(msgspec.Struct, frozen=True):
    """
    What a slot yielded. `evaluated` counts the due traders, failed ones included; `failed` says why by trader.

    `nodes_asked` counts plan nodes of the due traders, `nodes_computed` the calls computed for all of them.
    """

    hits: list[Hits]
    failed: dict[Any, str]
    evaluated: int
    nodes_asked: int
    nodes_computed: int


class _When(msgspec.Struct, frozen=True):
    """What traders that are due together have in common; `view` is the axis on whose newest bar their values are read."""

    trigger: str
    due_every: str
    forming: bool
    view: Axis


class _Trader(msgspec.Struct, eq=False):
    """
    What screening needs of a trader.

    `enters`: its frequency is `on_enter`. `before` is then the condition one trigger bar ago; None for filters on
    forming bars, which keep no earlier states.
    """

    key: Any
    when: _When
    nodes: int
    need: dict[str, int]
    refs: tuple[Ref, ...]
    signal: Ref
    enters: bool
    before: Ref | None
    show: tuple[tuple[str, Ref], ...]
    symbols: frozenset[str] | None
    owner: Hashable
    functions: tuple[Call, ...]


class _BoardRows(msgspec.Struct, frozen=True):
    """
    The rows of a board's traders as arrays, shape (traders,), and their symbols as words, shape (traders, words).

    Valid for one generation of row numbers: `befores` is -1 where a trader has no such row.
    """

    generation: int
    traders: list[_Trader]
    signals: Ints
    befores: Ints
    symbols: Any


class _Board(msgspec.Struct):
    """The traders that are due together, and their rows (made again when the traders or the row numbers change)."""

    traders: dict[Any, _Trader] = {}
    nodes: int = 0
    rows: _BoardRows | None = None

    def rows_in(self, live: LiveValues) -> _BoardRows:
        """The rows of the traders among the live values."""
        if self.rows is None or self.rows.generation != live.generation:
            rows, names, traders = live.rows, live.panel.symbols, list(self.traders.values())
            signals = np.array([rows.of(trader.signal) for trader in traders])
            befores = [-1 if trader.before is None else rows.of(trader.before) for trader in traders]
            choices = list(dict.fromkeys(trader.symbols for trader in traders))
            words = rows.packed(np.array([chosen_symbols(names, choice) for choice in choices]))
            packed = dict(zip(choices, words, strict=True))
            symbols = np.array([packed[trader.symbols] for trader in traders])
            self.rows = _BoardRows(live.generation, traders, signals, np.array(befores), symbols)
        return self.rows


class Evaluator:
    """
    All traders of one machine over one panel; equal expressions of all of them are computed once per slot.

    *each* runs the functions of `each`; without it the traders that have one fail. Whoever made it closes it.
    """

    def __init__(self, panel: Panel, each: EachRunner | None = None) -> None:
        self.panel = panel
        self._each = each
        self._calls = Calls()
        self._live = LiveValues(panel, each)
        self._traders: dict[Any, _Trader] = {}
        self._callers: dict[Any, _Trader] = {}  # those with functions
        self._boards: dict[_When, _Board] = {}
        self._before = ConditionsBefore(panel, each)
        self._need: dict[str, Counter[int]] = {}

    def __len__(self) -> int:
        return len(self._traders)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by operator of the last incremental slot; "recomputed" is what was computed from the candles."""
        return self._live.seconds

    def put(
        self,
        key: Any,
        plan: Plan,
        symbols: frozenset[str] | None,
        frequency: Frequency,
        owner: Hashable = None,
    ) -> None:
        """
        Add a trader, or replace it: from the next evaluation on it is screened by this plan.

        `symbols` None means all; those the panel does not have are ignored. A cooldown is applied by whoever stores
        signals, so here it means every bar. *owner* is the user whose time its functions take (`sandbox.interpreter.fair_time`).
        Costs O(nodes of the plan).
        """
        refs = self._calls.add(plan)
        signal, enters = refs[plan.signal], frequency == "on_enter"
        show = tuple((name, refs[node]) for name, node in plan.show.items())
        before = condition_before(self._calls, plan, signal) if enters else None
        if before is not None:
            refs = (*refs, before)
        self._live.add(ref.call for ref in refs)
        self.drop(key)
        functions = dict.fromkeys(ref.call for ref in refs if isinstance(ref.call.operator.kind, Each))
        trader = _Trader(
            key=key,
            when=_When(plan.trigger, plan.due_every, bool(plan.forming), view_axis(plan)),
            nodes=len(plan.nodes),
            need=plan.need,
            refs=refs,
            signal=signal,
            enters=enters,
            before=before,
            show=show,
            symbols=symbols,
            owner=owner,
            functions=tuple(functions),
        )
        self._traders[key] = trader
        if functions:
            self._callers[key] = trader
        board = self._boards.setdefault(trader.when, _Board())
        board.traders[key] = trader
        board.nodes += trader.nodes
        board.rows = None
        for timeframe, bars in plan.need.items():
            self._need.setdefault(timeframe, Counter())[bars] += 1

    def drop(self, key: Any) -> None:
        """Forget a trader; an unknown one is no error."""
        trader = self._traders.pop(key, None)
        if trader is None:
            return
        self._before.forget(key)
        self._callers.pop(key, None)
        board = self._boards[trader.when]
        del board.traders[key]
        board.nodes -= trader.nodes
        board.rows = None
        for timeframe, bars in trader.need.items():
            self._need[timeframe][bars] -= 1
        self._live.remove(self._calls.drop(trader.refs))

    def needed(self) -> dict[str, int]:
        """How many bars of each timeframe the panel must hold for exact answers."""
        needs = {timeframe: +counts for timeframe, counts in self._need.items()}
        return {timeframe: max(counts) + HISTORY_SLACK_BARS for timeframe, counts in needs.items() if counts}

    def prepare(self, slot_ms: int, seconds: float) -> int:
        """
        Compute what new traders need in advance, for about *seconds*; returns how many calls are left.

        Without it the next slot does all of it. *slot_ms* is the newest slot whose candles the panel has.
        """
        return self._live.prepare(slot_ms, seconds)

    def evaluate(self, slot_ms: int, keys: Iterable[Any] | None = None) -> Slot:
        """
        Screen the slot: every due trader (or those of *keys* that are due), seeing bars with close_time <= *slot_ms*.

        A later slot may have been appended already; the answer is the same. Unknown keys are ignored. Slots screened
        in order for all traders are cheapest: values move on from one to the next. An earlier slot, or some traders only,
        is recomputed from the candles and leaves the newest values alone.
        """
        due = [when for when in self._boards if slot_ms % (TIMEFRAMES[when.due_every] * 1000) == 0]
        chosen = self._traders if keys is None else dict.fromkeys(keys)
        if self._each is not None:
            self._each.begin(self._users(due, chosen))
        if keys is None and self._live.can_advance(slot_ms):
            return self._incremental(slot_ms, due)
        return self._recomputed(slot_ms, due, chosen)

    def _users(self, due: list[_When], chosen: Collection[Any]) -> dict[Hashable, set[Hashable]]:
        """Of each function, the owners of the due traders that have it."""
        users: dict[Hashable, set[Hashable]] = {}
        for trader in self._callers.values():
            if trader.when in due and trader.key in chosen:
                for call in trader.functions:
                    users.setdefault(call, set()).add(trader.owner)
        return users

    def _incremental(self, slot_ms: int, due: list[_When]) -> Slot:
        """The slot from the values of the one before, moved on."""
        self._live.advance(slot_ms)
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        asked = 0
        for when in due:
            board = self._boards[when]
            newest = closing_bar(self.panel.frame(when.due_every), slot_ms)
            if not board.traders or newest is None:
                continue
            asked += board.nodes
            if self._live.failed:
                failed |= self._failures(board)
            hits.extend(
                found for found in self._found(when, newest, slot_ms, failed) if found.key not in failed
            )
        evaluated = sum(len(self._boards[when].traders) for when in due)
        return Slot(hits, failed, evaluated, asked, self._live.computed)

    def _failures(self, board: _Board) -> dict[Any, str]:
        failed = self._live.failed
        return {
            trader.key: str(failed[ref.call])
            for trader in board.traders.values()
            for ref in trader.refs
            if ref.call in failed
        }

    def _found(self, when: _When, newest: int, slot_ms: int, failed: dict[Any, str]) -> Iterator[Hits]:
        """Hits of traders that are due together, from the live rows; those that fail on the way are added to *failed*."""
        rows, frame = self._live.rows, self.panel.frame(when.due_every)
        board = self._boards[when].rows_in(self._live)
        own_candle = rows.packed(frame.present[:, newest : newest + 1].T)
        before = rows.bits[board.befores]
        before[board.befores < 0] = 0
        matched = matches(rows.bits[board.signals], own_candle, before=before, chosen=board.symbols)
        found = np.flatnonzero(matched.any(axis=1))
        unsure = []
        for at, own in zip(found.tolist(), rows.unpacked(matched[found]), strict=True):
            trader = board.traders[at]
            if trader.before is not None and trader.before.call in self._live.unknown:
                unsure.append(trader.key)
                continue
            if trader.enters and trader.before is None:
                try:
                    own &= ~self._held_before(trader, slot_ms)  # noqa: PLW2901 - a row of its own
                except OperatorError as error:
                    failed[trader.key] = str(error)
            where = np.flatnonzero(own)
            if len(where):
                shown = {name: as_values(rows.newest(ref)[where]) for name, ref in trader.show}
                yield self._hits(trader, where, newest, shown)
        if unsure:
            recomputed = self._recomputed(slot_ms, [when], unsure)
            failed.update(recomputed.failed)
            yield from recomputed.hits

    def _held_before(self, trader: _Trader, slot_ms: int) -> Any:
        return self._before.of(trader.key, trader.signal, trader.when.trigger, trader.need, slot_ms)

    def _recomputed(self, slot_ms: int, due: list[_When], keys: Iterable[Any]) -> Slot:
        """The slot from the candles alone."""
        chosen = [self._traders[key] for key in keys if key in self._traders]
        chosen = [trader for trader in chosen if trader.when in due]
        newest = {when: closing_bar(self.panel.frame(when.due_every), slot_ms) for when in due}
        computation = Computation(self.panel, slot_ms, each=self._each)
        alive = [trader for trader in chosen if newest[trader.when] is not None]
        for trader in alive:
            wanted = [trader.signal, *(ref for _, ref in trader.show)]
            if trader.before is not None:
                wanted.append(trader.before)
            computation.want_seen(trader.when.view, wanted, bars=1)
        computation.run()
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        for trader in alive:
            try:
                hits.extend(self._found_alone(computation, trader, slot_ms))
            except OperatorError as error:
                failed[trader.key] = str(error)
        asked = sum(trader.nodes for trader in alive)
        return Slot(hits, failed, len(chosen), asked, computation.computed)

    def _found_alone(self, computation: Computation, trader: _Trader, slot_ms: int) -> Iterator[Hits]:
        """The hits of one trader, from the candles. Raises OperatorError."""
        when = trader.when
        frame, last = self.panel.frame(when.due_every), computation.end(when.view) - 1
        newest = frame.bars_closed_at(slot_ms) - 1

        def seen(ref: Ref) -> Any:
            return computation.values(ref, last, when.view)

        condition, own_candle = seen(trader.signal)[:, 0], frame.present[:, newest]
        before = None
        if trader.before is not None:
            before = seen(trader.before)[:, 0]
        elif trader.enters and (condition & own_candle).any():
            before = self._held_before(trader, slot_ms)
        chosen = None if trader.symbols is None else chosen_symbols(self.panel.symbols, trader.symbols)
        where = np.flatnonzero(matches(condition, own_candle, before=before, chosen=chosen))
        if len(where):
            values = {name: seen(ref) for name, ref in trader.show}
            column = np.zeros_like(where)
            shown = {name: as_values(gathered(array, where, column)) for name, array in values.items()}
            yield self._hits(trader, where, newest, shown)

    def _hits(self, trader: _Trader, where: Ints, newest: int, shown: dict[str, list[Value]]) -> Hits:
        when, symbols = trader.when, self.panel.symbols
        prices = self.panel.frame(when.due_every).field("close")[where, newest]
        names = [symbols[row] for row in where.tolist()]
        return Hits(trader.key, when.trigger, when.forming, names, prices, shown)


def gathered(values: Array, rows: Ints, columns: Ints) -> Array:
    """Values of shape (symbols or 1, bars) at these places, shape (n,)."""
    found: Array = values[np.minimum(rows, len(values) - 1), columns]
    return found


def as_values(values: Array) -> list[Value]:
    """Values as Python's own; NaN is None."""
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - only NaN differs from itself
