"""
From plans to hits: which traders match which symbols at a slot.

Decided here: what is due, what a match is, what traders share, what is kept from slot to slot. Not decided here: what
an operator's value is (`sandbox.engine.ranges`), what one plan found over many bars (`sandbox.engine.replay`), and cooldowns, which
need to know earlier signals and are applied in SQL.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from sandbox.engine.calls import Call, Calls, OperatorError, Ref
from sandbox.engine.candles.frame import Bools, Floats, Ints
from sandbox.engine.candles.panel import Panel
from sandbox.engine.live import LiveValues
from sandbox.engine.ranges import Computation
from sandbox.interpreter.functions import EachRunner
from sandbox.plan import axis as axes
from sandbox.plan.document import Plan
from sandbox.plan.operators.kind import Array, Each
from sandbox.plan.timeframes import TIMEFRAMES

Frequency = Literal["every_bar", "on_enter"] | Mapping[str, int]
Value = float | bool | None

HISTORY_SLACK_BARS = 64
"""Bars kept beyond the need: a symbol without candles at the oldest bars needed still reads flat at its last close."""


class Hits(msgspec.Struct, frozen=True):
    """
    One trader's matches in one slot: symbols in panel order, the trigger bar's close, the shown values (NaN: None).

    `forming` tells that the filter reads bars in progress. A symbol that goes on matching while the trigger's bar is in
    progress is reported at every slot; the table of signals keeps the first per bar.
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


_When = tuple[str, str, bool]
"""Trigger, how often traders are due, and whether they read bars in progress."""


class _Trader(msgspec.Struct, eq=False):
    """
    What screening needs of a trader.

    `enters` says that its frequency is `on_enter`; `before` is then the condition one trigger bar ago. It is None for
    filters on forming bars, which keep no earlier states.
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

    @property
    def view(self) -> str:
        """The axis on whose last bar its values are read."""
        trigger, _, forming = self.when
        return axes.NOW if forming else trigger


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
        self._entered = _Entered(panel, each)
        self._need: dict[str, Counter[int]] = {}

    def __len__(self) -> int:
        return len(self._traders)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent by operator in the last slot that carried values on; "anew" is what had to be computed anew."""
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
        signal = refs[plan.signal]
        enters, when = frequency == "on_enter", (plan.trigger, plan.due_every, bool(plan.forming))
        before = self._calls.add_before(signal, plan.trigger) if enters and not plan.forming else None
        show = tuple((name, refs[node]) for name, node in plan.show.items())
        if before is not None:
            refs = (*refs, before)
        self._live.add(ref.call for ref in refs)
        self.drop(key)
        functions = tuple(dict.fromkeys(ref.call for ref in refs if isinstance(ref.call.operator.kind, Each)))
        trader = _Trader(
            key,
            when,
            len(plan.nodes),
            plan.need,
            refs,
            signal,
            enters,
            before,
            show,
            symbols,
            owner,
            functions,
        )
        self._traders[key] = trader
        if functions:
            self._callers[key] = trader
        board = self._boards.setdefault(when, _Board())
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
        self._entered.forget(key)
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

    def evaluate(self, slot_ms: int, keys: Iterable[Any] | None = None) -> Slot:
        """
        Screen the slot: every due trader (or those of *keys* that are due), seeing bars with close_time <= *slot_ms*.

        A later slot may have been appended already; the answer is the same. Unknown keys are ignored. Slots screened
        in order for all traders are cheapest: values are carried on from one to the next. An earlier slot, or some
        traders only, is computed anew and leaves what is carried alone.
        """
        due = [when for when in self._boards if slot_ms % (TIMEFRAMES[when[1]] * 1000) == 0]
        chosen = self._traders if keys is None else dict.fromkeys(keys)
        if self._each is not None:
            self._each.begin(self._users(due, chosen))
        if keys is None and self._live.can_advance(slot_ms):
            return self._carried(slot_ms, due)
        return self._anew(slot_ms, due, chosen)

    def _users(self, due: list[_When], chosen: Collection[Any]) -> dict[Hashable, set[Hashable]]:
        """Of each function, the owners of the due traders that have it."""
        users: dict[Hashable, set[Hashable]] = {}
        for trader in self._callers.values():
            if trader.when in due and trader.key in chosen:
                for call in trader.functions:
                    users.setdefault(call, set()).add(trader.owner)
        return users

    def _carried(self, slot_ms: int, due: list[_When]) -> Slot:
        self._live.advance(slot_ms)
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        asked = 0
        for when in due:
            board = self._boards[when]
            if not board.traders or not self._bar_closes(when, slot_ms):
                continue
            asked += board.nodes
            if self._live.failed:
                failed |= self._failures(board)
            matches = self._matches(when, slot_ms, failed)
            hits.extend(found for found in matches if found.key not in failed)
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

    def _matches(self, when: _When, slot_ms: int, failed: dict[Any, str]) -> Iterator[Hits]:
        """Hits of traders that are due together, from the standing rows; those that fail on the way are added to *failed*."""
        rows, frame = self._live.rows, self.panel.frame(when[1])
        newest = frame.bars_closed_at(slot_ms) - 1
        board = self._rows_of(self._boards[when])
        matched = rows.bits[board.signals] & rows.packed(frame.present[:, newest : newest + 1].T)
        entering = board.befores >= 0
        matched[entering] &= ~rows.bits[board.befores[entering]]
        matched &= board.symbols
        found = np.flatnonzero(matched.any(axis=1))
        symbols, prices = self.panel.symbols, frame.field("close")[:, newest]
        unsure = []
        for at, own in zip(found.tolist(), rows.unpacked(matched[found]), strict=True):
            trader = board.traders[at]
            if trader.before is not None and trader.before.call in self._live.unknown:
                unsure.append(trader.key)
                continue
            if trader.enters and trader.before is None:
                try:
                    own &= self._entered.at(trader, slot_ms)  # noqa: PLW2901 - a row of its own
                except OperatorError as error:
                    failed[trader.key] = str(error)
            where = np.flatnonzero(own)
            if len(where):
                values = {name: as_values(rows.read(ref, [ref.row])[0, where]) for name, ref in trader.show}
                names = [symbols[row] for row in where.tolist()]
                yield Hits(trader.key, when[0], when[2], names, prices[where], values)
        if unsure:
            anew = self._anew(slot_ms, [when], unsure)
            failed.update(anew.failed)
            yield from anew.hits

    def _rows_of(self, board: _Board) -> _BoardRows:
        generation = self._live.generation
        if board.rows is None or board.rows.generation != generation:
            traders = list(board.traders.values())
            signals = np.array([trader.signal.row for trader in traders])
            befores = np.array([-1 if trader.before is None else trader.before.row for trader in traders])
            kinds = {trader.symbols: at for at, trader in enumerate(traders)}
            packed = dict(zip(kinds, self._live.rows.packed(self._chosen(kinds)), strict=True))
            symbols = np.array([packed[trader.symbols] for trader in traders])
            board.rows = _BoardRows(generation, traders, signals, befores, symbols)
        return board.rows

    def _chosen(self, kinds: Iterable[frozenset[str] | None]) -> Bools:
        names = self.panel.symbols
        return np.array([[True] * len(names) if k is None else [name in k for name in names] for k in kinds])

    def _bar_closes(self, when: _When, slot_ms: int) -> bool:
        frame = self.panel.frame(when[1])
        closed = frame.bars_closed_at(slot_ms)
        return closed > 0 and int(frame.open_time[closed - 1]) + frame.step_ms == slot_ms

    def _anew(self, slot_ms: int, due: list[_When], keys: Iterable[Any]) -> Slot:
        """The slot from the candles alone, nothing carried."""
        chosen = [
            self._traders[key] for key in keys if key in self._traders and self._traders[key].when in due
        ]
        computation = Computation(self.panel, slot_ms, each=self._each)
        alive = [trader for trader in chosen if self._bar_closes(trader.when, slot_ms)]
        for trader in alive:
            wanted = [
                trader.signal,
                *(ref for _, ref in trader.show),
                *([trader.before] if trader.before else []),
            ]
            computation.want_seen(trader.view, wanted, bars=1)
        computation.run()
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        for trader in alive:
            try:
                found = self._hits(computation, trader, slot_ms)
            except OperatorError as error:
                failed[trader.key] = str(error)
                continue
            if found is not None:
                hits.append(found)
        asked = sum(trader.nodes for trader in alive)
        return Slot(hits, failed, len(chosen), asked, computation.computed)

    def _hits(self, computation: Computation, trader: _Trader, slot_ms: int) -> Hits | None:
        (trigger, due_every, forming), view = trader.when, trader.view
        frame, newest = self.panel.frame(due_every), computation.end(due_every) - 1
        last = computation.end(view) - 1
        condition: Any = computation.values(trader.signal, last, view)
        matched = condition[:, 0] & frame.present[:, newest]
        if trader.before is not None:
            before: Any = computation.values(trader.before, last, view)
            matched &= ~before[:, 0]
        elif trader.enters and matched.any():
            matched &= self._entered.at(trader, slot_ms)
        if trader.symbols is not None:
            matched &= self._chosen([trader.symbols])[0]
        rows = np.flatnonzero(matched)
        if not len(rows):
            return None
        shown = {name: computation.values(ref, last, view) for name, ref in trader.show}
        values = {
            name: as_values(gathered(column, rows, np.zeros_like(rows))) for name, column in shown.items()
        }
        names = [self.panel.symbols[row] for row in rows]
        return Hits(trader.key, trigger, forming, names, frame.field("close")[rows, newest], values)


class _Entered:
    """
    For traders on bars in progress: where the condition did not hold when the trigger's bar before closed.

    Asked only about traders that match, and kept while that bar stays the one before, since most go on matching.
    """

    def __init__(self, panel: Panel, each: EachRunner | None) -> None:
        self._panel = panel
        self._each = each
        self._kept: dict[Any, tuple[tuple[int, ...], Bools]] = {}

    def at(self, trader: _Trader, slot_ms: int) -> Bools:
        """Shape (symbols,). Raises OperatorError when computing it failed."""
        panel, trigger = self._panel, trader.when[0]
        before_ms = close_before(panel, trigger, slot_ms)
        if before_ms is None:
            return np.ones(len(panel.symbols), dtype=np.bool_)
        known = (before_ms, len(panel.symbols), *(panel.frame(timeframe).epoch for timeframe in trader.need))
        kept = self._kept.get(trader.key)
        if kept is None or kept[0] != known:
            computation = Computation(panel, before_ms, each=self._each)
            computation.want_seen(axes.NOW, [trader.signal], bars=1)
            computation.run()
            held: Any = computation.values(trader.signal, 0, axes.NOW)[:, 0]
            kept = self._kept[trader.key] = known, np.broadcast_to(~held, len(panel.symbols))
        return kept[1]

    def forget(self, key: Any) -> None:
        """A trader is gone, or another one now."""
        self._kept.pop(key, None)


def close_before(panel: Panel, timeframe: str, slot_ms: int) -> int | None:
    """When the bar before the one that *slot_ms* is in, or closes, had closed; None when there is none."""
    frame = panel.frame(timeframe)
    began_ms = (slot_ms - 1) // frame.step_ms * frame.step_ms
    closed = frame.bars_closed_at(began_ms)
    return int(frame.open_time[closed - 1]) + frame.step_ms if closed else None


def gathered(values: Array, rows: Ints, columns: Ints) -> Array:
    """Values of shape (symbols or 1, bars) at these places, shape (n,)."""
    found: Array = values[np.minimum(rows, len(values) - 1), columns]
    return found


def as_values(values: Array) -> list[Value]:
    """Values as they are told: NaN is None."""
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - only NaN differs from itself
