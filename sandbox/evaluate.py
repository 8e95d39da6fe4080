"""
From plans to hits: which traders match which symbols at a slot.

Decided here: what is due, what a match is, what traders share, what is kept from slot to slot. Not decided here: what
an operator's value is (`sandbox.compute`), and cooldowns, which need to know earlier signals and are applied in SQL.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np

from sandbox import axes
from sandbox.compute import Call, Calls, Computation, OperatorError, Ref
from sandbox.each import EachRunner
from sandbox.frame import TIMEFRAMES, Bools, Floats, Ints
from sandbox.operators import OPERATORS
from sandbox.operators.model import BLOCK_BARS, Array
from sandbox.panel import Panel
from sandbox.plan import Plan
from sandbox.standing import Standing

Frequency = Literal["every_bar", "on_enter"] | Mapping[str, int]
Value = float | bool | None

HISTORY_SLACK_BARS = 64
"""Bars kept beyond the need: a symbol without candles at the oldest bars needed still reads flat at its last close."""


class Hits(msgspec.Struct, frozen=True):
    """
    One trader's matches in one slot: symbols in panel order, the trigger bar's close, the shown values (NaN: None).

    `forming` tells that the filter reads bars in progress. A symbol that goes on matching while the trigger's bar is in
    progress is told at each slot: whoever stores signals keeps the first of each bar.
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


class RangeHits(msgspec.Struct, frozen=True):
    """
    Matches of one plan over many bars, oldest first, then in panel order: parallel columns.

    `triggered_at_ms` is the slot, the close time of a bar of `due_every`; `bars` counts those bars looked at.
    """

    timeframe: str
    due_every: str
    forming: bool
    bars: int
    triggered_at_ms: Ints
    symbols: list[str]
    prices: Floats
    values: dict[str, list[Value]]


_When = tuple[str, str, bool]
"""Trigger, how often traders are due, and whether they read bars in progress."""


class _Trader(msgspec.Struct, eq=False):
    """
    What screening needs of a trader.

    `enters` says that its frequency is `on_enter`; `before` is then the condition one trigger bar ago, where that is a
    value of its own (of what a bar in progress was it is none).
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


class _Board(msgspec.Struct):
    """The traders that are due together, and their rows as arrays (made anew when the traders change)."""

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
        self._boards: dict[_When, _Board] = {}
        self._entered = _Entered(panel, each)
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
        enters, when = frequency == "on_enter", (plan.trigger, plan.due_every, bool(plan.forming))
        before = self._calls.add_before(signal, plan.trigger) if enters and not plan.forming else None
        show = tuple((name, refs[node]) for name, node in plan.show.items())
        if before is not None:
            refs = (*refs, before)
        self._standing.add(ref.call for ref in refs)
        self.drop(key)
        functions = tuple(dict.fromkeys(ref.call for ref in refs if ref.call.operator.form == "each"))
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
        due = [when for when in self._boards if slot_ms % (TIMEFRAMES[when[1]] * 1000) == 0]
        chosen = self._traders if keys is None else dict.fromkeys(keys)
        if self._each is not None:
            self._each.begin(self._users(due, chosen))
        if keys is None and self._standing.can_advance(slot_ms):
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
        self._standing.advance(slot_ms)
        hits: list[Hits] = []
        failed: dict[Any, str] = {}
        asked = 0
        for when in due:
            board = self._boards[when]
            if not board.traders or not self._bar_closes(when, slot_ms):
                continue
            asked += board.nodes
            if self._standing.failed:
                failed |= self._failures(board)
            matches = self._matches(when, slot_ms, failed)
            hits.extend(found for found in matches if found.key not in failed)
        evaluated = sum(len(self._boards[when].traders) for when in due)
        return Slot(hits, failed, evaluated, asked, self._standing.computed)

    def _failures(self, board: _Board) -> dict[Any, str]:
        failed = self._standing.failed
        return {
            trader.key: str(failed[ref.call])
            for trader in board.traders.values()
            for ref in trader.refs
            if ref.call in failed
        }

    def _matches(self, when: _When, slot_ms: int, failed: dict[Any, str]) -> Iterator[Hits]:
        """Hits of traders that are due together, from the standing rows; those that fail on the way are added to *failed*."""
        rows, frame = self._standing.rows, self.panel.frame(when[1])
        newest = frame.bars_closed_at(slot_ms) - 1
        traders, signals, befores, masks = self._rows_of(self._boards[when])
        matched = rows.bits[signals] & rows.packed(frame.present[:, newest : newest + 1].T)
        entering = befores >= 0
        matched[entering] &= ~rows.bits[befores[entering]]
        matched &= masks
        found = np.flatnonzero(matched.any(axis=1))
        symbols, prices = self.panel.symbols, frame.field("close")[:, newest]
        unsure = []
        for at, own in zip(found.tolist(), rows.unpacked(matched[found]), strict=True):
            trader = traders[at]
            if trader.before is not None and trader.before.call in self._standing.unknown:
                unsure.append(trader.key)
                continue
            if trader.enters and trader.before is None:
                try:
                    own &= self._entered.at(trader, slot_ms)  # noqa: PLW2901 - a row of its own
                except OperatorError as error:
                    failed[trader.key] = str(error)
            where = np.flatnonzero(own)
            if len(where):
                values = {name: _told(rows.read(ref, [ref.row])[0, where]) for name, ref in trader.show}
                names = [symbols[row] for row in where.tolist()]
                yield Hits(trader.key, when[0], when[2], names, prices[where], values)
        if unsure:
            anew = self._anew(slot_ms, [when], unsure)
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
            _want(computation, trader.view, wanted, bars=1)
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
        values = {name: _told(_at(column, rows, np.zeros_like(rows))) for name, column in shown.items()}
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
            _want(computation, axes.NOW, [trader.signal], bars=1)
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
    if each is not None:
        each.begin()
    if plan.forming:
        return _slot_by_slot(panel, plan, (first_ms, last_ms), symbols, frequency, each)
    frame = panel.frame(plan.trigger)
    start, end = frame.bars_closed_at(first_ms - 1), frame.bars_closed_at(last_ms)
    refs = Calls().add(plan)
    totals = frozenset[str]().union(*(ref.call.totals for ref in refs))
    found = [
        _bars_at_once(panel, plan, refs, (first, last), symbols, frequency, each)
        for first, last in _stretches(panel, plan.trigger, totals, start, end)
    ]
    return RangeHits(
        plan.trigger,
        plan.due_every,
        False,
        end - start,
        np.concatenate([part.triggered_at_ms for part in found] or [np.empty(0, dtype=np.int64)]),
        [symbol for part in found for symbol in part.symbols],
        np.concatenate([part.prices for part in found] or [np.empty(0)]),
        {name: [value for part in found for value in part.values[name]] for name in plan.show},
    )


def _stretches(
    panel: Panel, trigger: str, totals: Collection[str], start: int, end: int
) -> Iterator[tuple[int, int]]:
    """[start, end) of the trigger's bars in pieces at which each running total is one and the same run."""
    frame = panel.frame(trigger)
    closes = frame.open_time[start:end] + frame.step_ms
    begins = np.zeros(len(closes), dtype=np.bool_)
    for axis in totals:
        seen = panel.frame(axis)
        newest = np.searchsorted(seen.open_time, closes - seen.step_ms, side="right") - 1
        block = seen.open_time[np.maximum(newest, 0)] // (BLOCK_BARS * seen.step_ms) if len(seen) else closes
        begins[1:] |= np.diff(block) != 0
    cuts = [start, *(start + np.flatnonzero(begins)).tolist(), end]
    return ((first, last) for first, last in pairwise(cuts) if first < last)


def _bars_at_once(  # noqa: PLR0917 - as given
    panel: Panel,
    plan: Plan,
    refs: Sequence[Ref],
    span: tuple[int, int],
    symbols: Collection[str] | None,
    frequency: Frequency,
    each: EachRunner | None,
) -> RangeHits:
    """The matches at the trigger's bars [start, end), in one computation."""
    frame, (start, end) = panel.frame(plan.trigger), span
    on_enter = frequency == "on_enter"
    computation = _asking(panel, plan, int(frame.open_time[end - 1]) + frame.step_ms, symbols, each)
    first = start - 1 if on_enter else start
    wanted = [refs[node] for node in (plan.signal, *plan.show.values())]
    _want(computation, plan.trigger, wanted, bars=end - first)
    computation.run()
    condition: Any = computation.values(refs[plan.signal], first, plan.trigger)
    matched = (_holds_newly(condition) if on_enter else condition) & frame.present[:, start:end]
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
        plan.due_every,
        False,
        end - start,
        frame.open_time[start + columns] + frame.step_ms,
        [panel.symbols[row] for row in rows],
        frame.field("close")[rows, start + columns],
        values,
    )


def _slot_by_slot(  # noqa: PLR0917 - as given
    panel: Panel,
    plan: Plan,
    span_ms: tuple[int, int],
    symbols: Collection[str] | None,
    frequency: Frequency,
    each: EachRunner | None,
) -> RangeHits:
    """What a bar in progress was is no candle: every slot is a screen of its own, by what screens live."""
    frame = panel.frame(plan.due_every)
    start, end = frame.bars_closed_at(span_ms[0] - 1), frame.bars_closed_at(span_ms[1])
    slots = (frame.open_time[start:end] + frame.step_ms).tolist()
    evaluator = Evaluator(panel, each)
    evaluator.put("", plan, None if symbols is None else frozenset(symbols), frequency)
    found: list[tuple[int, str, float, list[Value]]] = []
    for slot_ms in slots:
        slot = evaluator.evaluate(slot_ms)
        if slot.failed:
            raise OperatorError(slot.failed[""])
        for hits in slot.hits:
            for at, symbol in enumerate(hits.symbols):
                values = [hits.values[name][at] for name in plan.show]
                found.append((slot_ms, symbol, float(hits.prices[at]), values))
    return RangeHits(
        plan.trigger,
        plan.due_every,
        True,
        len(slots),
        np.array([at_ms for at_ms, *_ in found], dtype=np.int64),
        [symbol for _, symbol, *_ in found],
        np.array([price for *_, price, _ in found], dtype=np.float64),
        {name: [values[at] for *_, values in found] for at, name in enumerate(plan.show)},
    )


def signalled(found: RangeHits, counted: Ints) -> Ints:
    """Which of the matches *counted* (indices, ascending) become signals: of a bar in progress the first of each symbol."""
    if not found.forming:
        return counted
    length_ms = TIMEFRAMES[found.timeframe] * 1000
    first: dict[tuple[str, int], int] = {}
    for at in counted.tolist():
        first.setdefault((found.symbols[at], -(-int(found.triggered_at_ms[at]) // length_ms)), at)
    return np.array(list(first.values()), dtype=np.int64)


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
    if each is not None:
        each.begin()
    computation = _asking(panel, plan, slot_ms, [symbol], each)
    refs = Calls().add(plan)
    view = axes.NOW if plan.forming else plan.trigger
    end = computation.end(view)
    for ref in refs:
        if ref.call.axis is not None:
            computation.want(ref.call, computation.end(ref.call.axis) - 1)
    computation.run()
    told: list[Value] = []
    for ref in refs:
        seen = computation.values(ref, end - 1, view)
        told.extend(_told(_at(seen, np.array([row]), np.array([0]))) if end else [None])
    return told


def held_before(panel: Panel, plan: Plan, slot_ms: int, symbol: str, each: EachRunner | None = None) -> bool:
    """
    Whether the condition held for one symbol on the bar before the slot's, as `on_enter` sees it.

    Raises:
        KeyError: The panel does not have the symbol.
        OperatorError: An operator failed.
    """
    if plan.forming:
        before_ms = close_before(panel, plan.trigger, slot_ms)
        return (
            before_ms is not None and node_values(panel, plan, before_ms, symbol, each)[plan.signal] is True
        )
    if each is not None:
        each.begin()
    calls, row = Calls(), panel.index[symbol]
    before = calls.add_before(calls.add(plan)[plan.signal], plan.trigger)
    computation = _asking(panel, plan, slot_ms, [symbol], each)
    _want(computation, plan.trigger, [before], bars=1)
    computation.run()
    end = computation.end(plan.trigger)
    held = computation.values(before, end - 1, plan.trigger) if end else np.zeros((1, 1), dtype=np.bool_)
    return bool(_at(held, np.array([row]), np.array([0]))[0])


def _asking(
    panel: Panel, plan: Plan, instant_ms: int, symbols: Collection[str] | None, each: EachRunner | None
) -> Computation:
    """A computation of one plan for *symbols*; what the plan asks of each symbol alone need not be asked of the others."""
    across = any(OPERATORS[node.op].form == "market" for node in plan.nodes)
    chosen = None if symbols is None or across else frozenset(symbols)
    return Computation(panel, instant_ms, each=each, each_symbols=chosen)


def _want(computation: Computation, view: str, refs: Iterable[Ref], bars: int) -> None:
    """Ask for what is seen over the last *bars* bars of an axis."""
    first = computation.end(view) - bars
    for ref in refs:
        if ref.call.axis is not None:
            computation.want(ref.call, computation.seen_from(view, first, ref.call.axis))


def _holds_newly(condition: Any) -> Any:
    """True now, not true on the bar before; one column shorter."""
    return condition[:, 1:] & ~condition[:, :-1]


def _at(values: Array, rows: Ints, columns: Ints) -> Array:
    picked: Array = values[np.minimum(rows, len(values) - 1), columns]
    return picked


def _told(values: Array) -> list[Value]:
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - only NaN differs from itself
