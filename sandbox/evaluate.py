"""
From plans to hits: which traders match which symbols at a slot.

Decided here: what is due, what a match is, what traders share, what is kept from slot to slot. Not decided here: what
an operator's value is (`sandbox.compute`), and cooldowns, which need to know earlier signals and are applied in SQL.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from sandbox.compute import Call, Calls, Computation, OperatorError, Ref
from sandbox.each import EachRunner
from sandbox.operators import OPERATORS
from sandbox.operators.model import Array
from sandbox.panel import TIMEFRAMES, Bools, Floats, Ints, Panel
from sandbox.plan import Plan
from sandbox.standing import Standing

Frequency = Literal["every_bar", "on_enter"] | Mapping[str, int]
Value = float | bool | None

HISTORY_SLACK_BARS = 64
"""Bars kept beyond the need: a symbol without candles at the oldest bars needed still reads flat at its last close."""


class Hits(msgspec.Struct, frozen=True):
    """One trader's matches in one slot: symbols in panel order, the trigger bar's close, the shown values (NaN: None)."""

    key: Any
    timeframe: str
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


class RangeHits(msgspec.Struct, frozen=True):
    """
    Matches of one plan over many bars, oldest first, then in panel order: parallel columns.

    `triggered_at_ms` is the close time of the trigger bar; `bars` counts the trigger bars looked at.
    """

    timeframe: str
    bars: int
    triggered_at_ms: Ints
    symbols: list[str]
    prices: Floats
    values: dict[str, list[Value]]


class _Trader(msgspec.Struct, eq=False):
    """What screening needs of a trader; `before` is the condition one trigger bar ago, for `on_enter`."""

    key: Any
    trigger: str
    nodes: int
    need: dict[str, int]
    refs: tuple[Ref, ...]
    signal: Ref
    before: Ref | None
    show: tuple[tuple[str, Ref], ...]
    symbols: frozenset[str] | None
    owner: Hashable
    functions: tuple[Call, ...]


class _Board(msgspec.Struct):
    """The traders of one trigger timeframe, and their rows as arrays (made anew when the traders change)."""

    traders: dict[Any, _Trader] = {}
    nodes: int = 0
    rows: tuple[list[_Trader], Ints, Ints, Any] | None = None


class Evaluator:
    """
    All traders of one machine over one panel; equal expressions of all of them are computed once per slot.

    *each* runs the functions of `each`; without it the traders that have one fail. Whoever made it closes it.
    """

    def __init__(self, panel: Panel, each: EachRunner | None = None) -> None:
        self.panel = panel
        self._each = each
        self._calls = Calls()
        self._standing = Standing(panel, each)
        self._traders: dict[Any, _Trader] = {}
        self._callers: dict[Any, _Trader] = {}  # those with functions
        self._boards = {timeframe: _Board() for timeframe in TIMEFRAMES}
        self._need: dict[str, Counter[int]] = {}

    def __len__(self) -> int:
        return len(self._traders)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent by operator in the last slot that carried values on; "anew" is what had to be computed anew."""
        return self._standing.seconds

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
        signals, so here it means every bar. *owner* is the user whose time its functions take (`sandbox.shares`).
        Costs O(nodes of the plan).
        """
        refs = self._calls.add(plan)
        signal = refs[plan.signal]
        before = self._calls.add_before(signal, plan.trigger) if frequency == "on_enter" else None
        show = tuple((name, refs[node]) for name, node in plan.show.items())
        if before is not None:
            refs = (*refs, before)
        self._standing.add(ref.call for ref in refs)
        self.drop(key)
        functions = tuple(dict.fromkeys(ref.call for ref in refs if ref.call.operator.form == "each"))
        trader = _Trader(
            key,
            plan.trigger,
            len(plan.nodes),
            plan.need,
            refs,
            signal,
            before,
            show,
            symbols,
            owner,
            functions,
        )
        self._traders[key] = trader
        if functions:
            self._callers[key] = trader
        board = self._boards[plan.trigger]
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
        self._callers.pop(key, None)
        board = self._boards[trader.trigger]
        del board.traders[key]
        board.nodes -= trader.nodes
        board.rows = None
        for timeframe, bars in trader.need.items():
            self._need[timeframe][bars] -= 1
        self._standing.remove(self._calls.drop(trader.refs))

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
        due = [timeframe for timeframe, seconds in TIMEFRAMES.items() if slot_ms % (seconds * 1000) == 0]
        chosen = self._traders if keys is None else dict.fromkeys(keys)
        if self._each is not None:
            self._each.begin(self._users(due, chosen))
        if keys is None and self._standing.can_advance(slot_ms):
            return self._carried(slot_ms, due)
        return self._anew(slot_ms, due, chosen)

    def _users(self, due: list[str], chosen: Collection[Any]) -> dict[Hashable, set[Hashable]]:
        """Of each function, the owners of the due traders that have it."""
        users: dict[Hashable, set[Hashable]] = {}
        for trader in self._callers.values():
            if trader.trigger in due and trader.key in chosen:
                for call in trader.functions:
                    users.setdefault(call, set()).add(trader.owner)
        return users

    def _carried(self, slot_ms: int, due: list[str]) -> Slot:
        self._standing.advance(slot_ms)
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        asked = 0
        for timeframe in due:
            board = self._boards[timeframe]
            if not board.traders or not self._bar_closes(timeframe, slot_ms):
                continue
            asked += board.nodes
            if self._standing.failed:
                failed |= self._failures(board)
            matches = self._matches(timeframe, slot_ms, failed)
            hits.extend(found for found in matches if found.key not in failed)
        evaluated = sum(len(self._boards[timeframe].traders) for timeframe in due)
        return Slot(hits, failed, evaluated, asked, self._standing.computed)

    def _failures(self, board: _Board) -> dict[Any, str]:
        failed = self._standing.failed
        return {
            trader.key: str(failed[ref.call])
            for trader in board.traders.values()
            for ref in trader.refs
            if ref.call in failed
        }

    def _matches(self, timeframe: str, slot_ms: int, failed: dict[Any, str]) -> Iterable[Hits]:
        """Hits of one trigger timeframe from the standing rows; those that fail on the way are added to *failed*."""
        rows, frame = self._standing.rows, self.panel.frame(timeframe)
        newest = frame.bars_closed_at(slot_ms) - 1
        traders, signals, befores, masks = self._rows_of(self._boards[timeframe])
        matched = rows.bits[signals] & rows.packed(frame.present[:, newest : newest + 1].T)
        entering = befores >= 0
        matched[entering] &= ~rows.bits[befores[entering]]
        matched &= masks
        found = np.flatnonzero(matched.any(axis=1))
        symbols, prices = self.panel.symbols, frame.field("close")[:, newest]
        unsure = []
        for at, own in zip(found.tolist(), rows.unpacked(matched[found]), strict=True):
            trader, where = traders[at], np.flatnonzero(own)
            if trader.before is not None and trader.before.call in self._standing.unknown:
                unsure.append(trader.key)
                continue
            values = {name: _told(rows.read(ref, [ref.row])[0, where]) for name, ref in trader.show}
            yield Hits(trader.key, timeframe, [symbols[row] for row in where.tolist()], prices[where], values)
        if unsure:
            anew = self._anew(slot_ms, [timeframe], unsure)
            failed.update(anew.failed)
            yield from anew.hits

    def _rows_of(self, board: _Board) -> tuple[list[_Trader], Ints, Ints, Any]:
        width = self._standing.rows.bits.shape[1]
        if board.rows is None or board.rows[3].shape[1] != width:
            traders = list(board.traders.values())
            signals = np.array([trader.signal.row for trader in traders])
            befores = np.array([-1 if trader.before is None else trader.before.row for trader in traders])
            kinds = {trader.symbols: at for at, trader in enumerate(traders)}
            packed = dict(zip(kinds, self._standing.rows.packed(self._chosen(kinds)), strict=True))
            board.rows = traders, signals, befores, np.array([packed[trader.symbols] for trader in traders])
        return board.rows

    def _chosen(self, kinds: Iterable[frozenset[str] | None]) -> Bools:
        names = self.panel.symbols
        return np.array([[True] * len(names) if k is None else [name in k for name in names] for k in kinds])

    def _bar_closes(self, timeframe: str, slot_ms: int) -> bool:
        frame = self.panel.frame(timeframe)
        closed = frame.bars_closed_at(slot_ms)
        return closed > 0 and int(frame.open_time[closed - 1]) + frame.step_ms == slot_ms

    def _anew(self, slot_ms: int, due: list[str], keys: Iterable[Any]) -> Slot:
        """The slot from the candles alone, nothing carried."""
        chosen = [
            self._traders[key] for key in keys if key in self._traders and self._traders[key].trigger in due
        ]
        computation = Computation(self.panel, slot_ms, each=self._each)
        alive = [trader for trader in chosen if self._bar_closes(trader.trigger, slot_ms)]
        for trader in alive:
            wanted = [
                trader.signal,
                *(ref for _, ref in trader.show),
                *([trader.before] if trader.before else []),
            ]
            _want(computation, trader.trigger, wanted, bars=1)
        computation.run()
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        for trader in alive:
            try:
                found = self._hits(computation, trader)
            except OperatorError as error:
                failed[trader.key] = str(error)
                continue
            if found is not None:
                hits.append(found)
        asked = sum(trader.nodes for trader in alive)
        return Slot(hits, failed, len(chosen), asked, computation.computed)

    def _hits(self, computation: Computation, trader: _Trader) -> Hits | None:
        trigger = trader.trigger
        frame, newest = self.panel.frame(trigger), computation.end(trigger) - 1
        condition: Any = computation.values(trader.signal, newest, trigger)
        matched = condition[:, 0] & frame.present[:, newest]
        if trader.before is not None:
            before: Any = computation.values(trader.before, newest, trigger)
            matched &= ~before[:, 0]
        if trader.symbols is not None:
            matched &= self._chosen([trader.symbols])[0]
        rows = np.flatnonzero(matched)
        if not len(rows):
            return None
        shown = {name: computation.values(ref, newest, trigger) for name, ref in trader.show}
        values = {name: _told(_at(column, rows, np.zeros_like(rows))) for name, column in shown.items()}
        names = self.panel.symbols
        return Hits(
            trader.key, trigger, [names[row] for row in rows], frame.field("close")[rows, newest], values
        )


def evaluate_range(  # noqa: PLR0917 - the keyword-only rest would split what belongs together
    panel: Panel,
    plan: Plan,
    first_ms: int,
    last_ms: int,
    symbols: Collection[str] | None = None,
    frequency: Frequency = "every_bar",
    each: EachRunner | None = None,
) -> RangeHits:
    """
    The matches of a plan at every slot of [*first_ms*, *last_ms*]: bit for bit what `Evaluator.evaluate` finds slot by slot.

    Raises:
        OperatorError: An operator failed.
    """
    frame = panel.frame(plan.trigger)
    start, end = frame.bars_closed_at(first_ms - 1), frame.bars_closed_at(last_ms)
    on_enter = frequency == "on_enter"
    refs = Calls().add(plan)
    computation = _asking(panel, plan, last_ms, symbols, each)
    first = start - 1 if on_enter else start
    wanted = [refs[node] for node in (plan.signal, *plan.show.values())]
    _want(computation, plan.trigger, wanted, bars=end - first)
    computation.run()
    condition: Any = computation.values(refs[plan.signal], first, plan.trigger)
    matched = (_entered(condition) if on_enter else condition) & frame.present[:, start:end]
    if symbols is not None:
        chosen = frozenset(symbols)
        matched = matched & np.array([[name in chosen] for name in panel.symbols])
    columns, rows = np.nonzero(matched.T)
    values = {
        name: _told(_at(computation.values(refs[node], start, plan.trigger), rows, columns))
        for name, node in plan.show.items()
    }
    return RangeHits(
        plan.trigger,
        end - start,
        frame.open_time[start + columns] + frame.step_ms,
        [panel.symbols[row] for row in rows],
        frame.field("close")[rows, start + columns],
        values,
    )


def node_values(
    panel: Panel, plan: Plan, slot_ms: int, symbol: str, each: EachRunner | None = None
) -> list[Value]:
    """
    The value of every node of a plan for one symbol as seen at *slot_ms*: what `explain` tells. NaN is None.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    row = panel.index[symbol]
    computation = _asking(panel, plan, slot_ms, [symbol], each)
    refs = Calls().add(plan)
    end = computation.end(plan.trigger)
    for ref in refs:
        if ref.call.timeframe is not None:
            computation.want(ref.call, computation.end(ref.call.timeframe) - 1)
    computation.run()
    told: list[Value] = []
    for ref in refs:
        seen = computation.values(ref, end - 1, plan.trigger)
        told.extend(_told(_at(seen, np.array([row]), np.array([0]))) if end else [None])
    return told


def _asking(
    panel: Panel, plan: Plan, instant_ms: int, symbols: Collection[str] | None, each: EachRunner | None
) -> Computation:
    """A computation of one plan for *symbols*; what the plan asks of each symbol alone need not be asked of the others."""
    if each is not None:
        each.begin()
    across = any(OPERATORS[node.op].form == "market" for node in plan.nodes)
    chosen = None if symbols is None or across else frozenset(symbols)
    return Computation(panel, instant_ms, each=each, each_symbols=chosen)


def _want(computation: Computation, trigger: str, refs: Iterable[Ref], bars: int) -> None:
    """Ask for what is seen over the last *bars* trigger bars."""
    first = computation.end(trigger) - bars
    for ref in refs:
        if ref.call.timeframe is not None:
            computation.want(ref.call, computation.seen_from(trigger, first, ref.call.timeframe))


def _entered(condition: Any) -> Any:
    """True now, not true on the bar before; one column shorter."""
    return condition[:, 1:] & ~condition[:, :-1]


def _at(values: Array, rows: Ints, columns: Ints) -> Array:
    picked: Array = values[np.minimum(rows, len(values) - 1), columns]
    return picked


def _told(values: Array) -> list[Value]:
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - only NaN differs from itself
