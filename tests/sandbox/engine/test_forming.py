"""
Bars in progress: what they hold, what is computed on them, and when a match on one is told.

The oracle for values is the engine for closed bars itself, over candles in which the bar in progress, rolled up by a
plain loop, is put in as if it were closed.
"""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.engine.candles.panel import Panel
from sandbox.engine.explain import explain
from sandbox.engine.replay import evaluate_range, node_values, signalled
from sandbox.engine.screen import Evaluator
from sandbox.plan.document import PlanError, build_plan, load_plan
from sandbox.plan.operators import FIELDS, OPERATORS
from sandbox.plan.operators.kind import AcrossMarket, Each, Leaf
from sandbox.plan.timeframes import TIMEFRAMES
from tests.plans import bars, forming, node, plan_of

MINUTE = 60_000
FIVE = 5 * MINUTE
BLOCK = 1024 * 86_400_000 * 16


def rolled_up(minutes, timeframe, until_ms):
    """(row, open time) -> candle, from the 1m candles closed at *until_ms*; the last bar may be in progress."""
    step = TIMEFRAMES[timeframe] * 1000
    candles = {}
    for row, column in zip(*np.nonzero(minutes.present), strict=True):
        at = int(minutes.open_time[column])
        if at + MINUTE > until_ms:
            continue
        o, h, low, c, v = (float(minutes.fields[name][row, column]) for name in FIELDS)
        key = (int(row), at // step * step)
        if v == 0:
            o = h = low = None
        old = candles.get(key)
        if old is None:
            candles[key] = [o, h, low, c, v]
            continue
        if o is not None:
            old[0] = o if old[0] is None else old[0]
            old[1] = h if old[1] is None else max(old[1], h)
            old[2] = low if old[2] is None else min(old[2], low)
        old[3], old[4] = c, old[4] + v
    for candle in candles.values():
        close = candle[3]
        candle[0] = close if candle[0] is None else candle[0]
        candle[1] = close if candle[1] is None else max(candle[1], close)
        candle[2] = close if candle[2] is None else min(candle[2], close)
    return candles


def columns(candles):
    rows, times = zip(*candles, strict=True)
    return np.array(rows), np.array(times), *np.array(list(candles.values())).T


def panel_at(minutes, slot_ms, timeframes):
    """What a machine holds at a slot: 1m candles and the closed bars rolled up from them."""
    panel = Panel([f"S{row}" for row in range(len(minutes.present))])
    closed = (minutes.open_time + MINUTE <= slot_ms)[None, :]
    panel.load("1m", *minutes.columns(closed))
    for timeframe in timeframes:
        step = TIMEFRAMES[timeframe] * 1000
        candles = rolled_up(minutes, timeframe, slot_ms)
        panel.load(timeframe, *columns({k: v for k, v in candles.items() if k[1] + step <= slot_ms}))
    return panel


def grow(panel, minutes, slot_ms, timeframes):
    """Append what closes at a slot."""
    panel.append("1m", *minutes.columns((minutes.open_time + MINUTE == slot_ms)[None, :]))
    for timeframe in timeframes:
        step = TIMEFRAMES[timeframe] * 1000
        if slot_ms % step == 0:
            candles = rolled_up(minutes, timeframe, slot_ms)
            new = {k: v for k, v in candles.items() if k[1] + step == slot_ms}
            if new:
                panel.append(timeframe, *columns(new))


def forged_at(minutes, slot_ms, timeframe, others=()):
    """A panel whose bar in progress is a closed candle."""
    panel = panel_at(minutes, slot_ms, others)
    panel.load(timeframe, *columns(rolled_up(minutes, timeframe, slot_ms)))
    return panel


def found_at(evaluator, slot_ms, keys=None):
    slot = evaluator.evaluate(slot_ms, keys)
    assert not slot.failed
    return {
        (hits.key, symbol): [values[at] for values in hits.values.values()]
        for hits in slot.hits
        for at, symbol in enumerate(hits.symbols)
    }


@pytest.fixture
def minutes(market):
    """1m candles of 4 symbols across a 5m block boundary: holes, minutes without a trade, a symbol listed on the way."""
    made = market("1m", 4, 1500, 11, first_ms=BLOCK - 1460 * MINUTE, missing=0.03)
    rng = np.random.default_rng(4)
    quiet = rng.random(made.present.shape) < 0.1
    for name in FIELDS[:3]:
        made.fields[name][quiet] = made.fields["close"][quiet]
    made.fields["volume"][quiet] = 0.0
    made.present[3, :1380] = False
    return made


def test_the_bar_in_progress_is_rolled_up_from_closed_minutes(minutes):
    slots = range(BLOCK - 30 * MINUTE, BLOCK + 30 * MINUTE, MINUTE)
    panel = panel_at(minutes, slots[0] - MINUTE, ["15m"])
    for slot in slots:
        grow(panel, minutes, slot, ["15m"])
        frame = panel.forming("15m", slot)
        expected = forged_at(minutes, slot, "15m").frame("15m")
        assert frame.open_time.tolist() == expected.open_time.tolist()
        assert (frame.present == expected.present).all()
        for name in FIELDS:
            assert np.array_equal(frame.field(name), expected.field(name), equal_nan=True)
        assert frame.is_forming == (slot % (15 * MINUTE) != 0)


@given(st.lists(st.integers(0, 59), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_frame_shown_at_any_instants_in_any_order_is_the_same(market, ats):
    made = market("1m", 3, 120, 5, first_ms=BLOCK - 60 * MINUTE, missing=0.2)
    panel = panel_at(made, BLOCK + 60 * MINUTE, ["5m"])
    for at in ats:
        slot = BLOCK + at * MINUTE
        fresh = panel_at(made, slot, ["5m"]).forming("5m", slot)
        frame = panel.forming("5m", slot)
        assert frame.open_time.tolist() == fresh.open_time.tolist()
        assert np.array_equal(frame.field("volume"), fresh.field("volume"), equal_nan=True)


def test_a_frame_follows_trimmed_and_corrected_candles(minutes):
    slot = BLOCK + 7 * MINUTE
    panel = panel_at(minutes, slot, ["5m"])
    before = panel.forming("5m", slot).epoch
    panel.trim("5m", 20)
    frame = panel.forming("5m", slot)
    assert (len(frame), frame.first, frame.epoch) == (21, panel.frame("5m").first, before)

    panel.correct("5m", [0], [BLOCK], [1.0], [9.0], [1.0], [2.0], [3.0])
    frame = panel.forming("5m", slot)
    assert frame.epoch != before
    assert frame.field("close")[0, -2] == 2.0


@pytest.mark.parametrize("gaps", [False, True])
def test_every_operator_sees_the_bar_in_progress_as_if_it_were_closed(gaps, minutes):
    """Carried on minute by minute, across the close of bars and the beginning of a block."""
    known = [o for o in OPERATORS.values() if not isinstance(o.kind, Leaf | Each)]
    slots = range(BLOCK - 8 * MINUTE, BLOCK + 14 * MINUTE, MINUTE)
    panel = panel_at(minutes, slots[0] - MINUTE, ["5m"])
    live = Evaluator(panel)
    plans = {o.name: plan_of(o, "5m", gaps=gaps, missing_below=90) for o in known}
    for operator in known:
        live.put(
            operator.name,
            plan_of(operator, "5m", gaps=gaps, leaf=forming, missing_below=90),
            None,
            "every_bar",
        )
    compared = 0
    for slot in slots:
        grow(panel, minutes, slot, ["5m"])
        got = found_at(live, slot)
        assert got
        if (slot // MINUTE) % 3 == 0:
            continue
        forged = Evaluator(forged_at(minutes, slot, "5m"))
        for name, plan in plans.items():
            forged.put(name, plan, None, "every_bar")
        expected = found_at(forged, -(-slot // FIVE) * FIVE, list(plans))
        different = [key for key in got if repr(got[key]) != repr(expected.get(key))]
        assert not different, (slot, [(key, got[key], expected.get(key)) for key in different[:3]])
        compared += len(got)
    assert compared > 8000


def mixed_plan():
    """Due each minute; conditions on the axis in progress, on coarser closed bars, and on both at this instant."""
    return build_plan(
        [
            forming("5m", "close"),
            forming("5m", "high"),
            bars("15m", "close"),
            bars("5m", "close"),
            node("highest", 1, period=3),
            node("shift", 4, n=1),
            node("ta.ema", 2, timeperiod=4),
            node("sub", 0, 6),  # on 5m forming: coarser closed bars are seen from each of its bars
            node("ta.sma", 7, timeperiod=3),
            node("sub", 0, 3),  # now
            node("gt", 0, 5),
            node("gt", 8, 9),
            node("or", 10, 11),
            node("crossover", 0, 6),
            node("or", 12, 13),
        ],
        14,
        {"mean": 8, "since": 9},
    )


def test_live_equals_a_range_and_each_slot_anew(minutes):
    slots = range(BLOCK - 40 * MINUTE, BLOCK + 35 * MINUTE, MINUTE)
    panel = panel_at(minutes, slots[0] - MINUTE, ["5m", "15m"])
    plan = mixed_plan()
    live = Evaluator(panel)
    live.put("x", plan, None, "every_bar")
    rows = []
    for slot in slots:
        grow(panel, minutes, slot, ["5m", "15m"])
        got = found_at(live, slot)
        again = Evaluator(panel_at(minutes, slot, ["5m", "15m"]))
        again.put("x", plan, None, "every_bar")
        assert repr(got) == repr(found_at(again, slot, ["x"]))
        for (_, symbol), values in got.items():
            rows.append((slot, symbol, repr(values)))

    ranged = evaluate_range(panel, plan, slots[0], slots[-1])

    values = map(list, zip(ranged.values["mean"], ranged.values["since"], strict=True))
    assert rows == list(zip(ranged.triggered_at_ms.tolist(), ranged.symbols, map(repr, values), strict=True))
    assert len(rows) > 10
    news = signalled(ranged, np.arange(len(rows)))
    bars_told = [(rows[at][1], -(-rows[at][0] // FIVE)) for at in news]
    assert len(set(bars_told)) == len(bars_told) < len(rows)
    assert set(bars_told) == {(symbol, -(-slot // FIVE)) for slot, symbol, _ in rows}
    assert all(
        (slot, symbol) >= (rows[at][0], symbol)
        for at in news
        for slot, symbol, _ in rows
        if (symbol, -(-slot // FIVE)) == (rows[at][1], -(-rows[at][0] // FIVE))
    )
    assert (ranged.timeframe, ranged.due_every, ranged.bars) == ("5m", "1m", len(slots))


def test_values_by_hand(minutes):
    """The close in progress is the last minute's; the high is the highest of its traded minutes."""
    plan = build_plan(
        [forming("15m", "high"), forming("15m", "close"), node("le", 1, 0), node("shift", 1, n=1)],
        2,
        {"high": 0, "close": 1, "before": 3},
    )
    slot = BLOCK + 4 * MINUTE
    panel = panel_at(minutes, slot, ["15m"])
    for row in range(4):
        held = [c for c in range(1460, 1464) if minutes.present[row, c]]
        if not minutes.present[row, 1463]:
            continue
        told = node_values(panel, plan, slot, f"S{row}")
        high, close, before = (told[plan.show[name]] for name in ("high", "close", "before"))
        traded = [c for c in held if minutes.fields["volume"][row, c] > 0]
        expected = [minutes.fields["high"][row, c] for c in traded] + [minutes.fields["close"][row, held[-1]]]
        assert high == max(expected)
        assert close == minutes.fields["close"][row, held[-1]]
        last = max(c for c in range(1460) if minutes.present[row, c])
        assert before == minutes.fields["close"][row, last]


def test_a_finer_closed_timeframe_keeps_its_trigger(minutes):
    """5m bars beside the 15m one in progress: due when a 5m bar closes, with the 15m bar as of then."""
    plan = build_plan([bars("5m"), forming("15m", "open"), node("gt", 0, 1)], 2, {"open": 1})
    assert (plan.trigger, plan.due_every, plan.forming) == ("5m", "5m", ("15m",))
    panel = panel_at(minutes, BLOCK + 10 * MINUTE, ["5m", "15m"])
    evaluator = Evaluator(panel)
    evaluator.put("x", plan, None, "every_bar")
    assert evaluator.evaluate(BLOCK + 9 * MINUTE).evaluated == 0
    candles = rolled_up(minutes, "5m", BLOCK + 10 * MINUTE)
    starts = {row: candles[row, BLOCK][0] for row in range(4) if (row, BLOCK) in candles}
    ends = {row: candles[row, BLOCK + FIVE][3] for row in range(4) if (row, BLOCK + FIVE) in candles}
    expected = {f"S{row}" for row in starts if row in ends and ends[row] > starts[row]}
    (hits,) = evaluator.evaluate(BLOCK + 10 * MINUTE).hits
    assert (set(hits.symbols), hits.timeframe, hits.forming) == (expected, "5m", True)


def test_on_enter_looks_at_the_close_of_the_bar_before(minutes):
    """Rising against the last closed bar: told in a bar only where the bar before did not end so."""
    plan = build_plan([forming("5m"), node("shift", 0, n=1), node("gt", 0, 1)], 2, {})
    slots = range(BLOCK - 60 * MINUTE, BLOCK + 30 * MINUTE, MINUTE)
    panel = panel_at(minutes, slots[0] - MINUTE, ["5m"])
    live, every = Evaluator(panel), Evaluator(panel)
    live.put("x", plan, None, "on_enter")
    every.put("x", plan, None, "every_bar")
    entered = 0
    for slot in slots:
        grow(panel, minutes, slot, ["5m"])
        all_now = {symbol for _, symbol in found_at(every, slot)}
        bar = (slot - 1) // FIVE * FIVE
        frame = panel.frame("5m")
        closed = frame.bars_closed_at(bar)
        was = {
            symbol
            for row, symbol in enumerate(panel.symbols)
            if frame.field("close")[row, closed - 1] > frame.field("close")[row, closed - 2]
        }
        got = {symbol for _, symbol in found_at(live, slot)}
        again = Evaluator(panel)
        again.put("x", plan, None, "on_enter")
        assert got == all_now - was == {symbol for _, symbol in found_at(again, slot, ["x"])}
        entered += len(got)
    assert entered > 5


def test_a_symbol_without_the_minute_does_not_match(market):
    made = market("1m", 2, 40, 3, first_ms=BLOCK - 20 * MINUTE)
    made.present[1, 22] = False
    slot = BLOCK + 3 * MINUTE
    evaluator = Evaluator(panel_at(made, slot, ["5m"]))
    evaluator.put("x", build_plan([forming("5m"), node("eq", 0, 0)], 1, {}), None, "every_bar")
    (hits,) = evaluator.evaluate(slot).hits
    assert hits.symbols == ["S0"]


def test_the_bar_in_progress_of_1m_is_the_closed_one():
    closed = build_plan([bars("1m"), node("shift", 0, n=1), node("gt", 0, 1)], 2, {})
    assert build_plan([forming("1m"), node("shift", 0, n=1), node("gt", 0, 1)], 2, {}).hash == closed.hash
    assert closed.forming == ()


def test_a_plan_tells_what_it_needs_for_bars_in_progress():
    plan = load_plan(build_plan([forming("1h"), bars("4h"), node("gt", 0, 1)], 2, {}).encode())
    assert (plan.trigger, plan.due_every, plan.forming) == ("1h", "1m", ("1h",))
    assert plan.timeframes == ("1h", "4h")
    assert plan.need["1m"] >= 60 + 60
    assert plan.summary()["forming"] == ["1h"]


@pytest.mark.parametrize(
    "mixture",
    [
        [forming("1h"), bars("1h"), node("sub", 0, 1)],
        [forming("1h"), bars("15m"), node("sub", 0, 1)],
        [forming("1h"), forming("15m"), node("sub", 0, 1)],
    ],
)
def test_what_has_a_present_value_only_cannot_be_looked_back_on(mixture):
    look_back = [*mixture, node("shift", 2, n=1), node("gt", 3, 2)]
    with pytest.raises(PlanError, match=r"s\[n\] needs history, and this series has none") as refused:
        build_plan(look_back, 4, {})
    assert (refused.value.code, refused.value.node) == ("forming", 3)
    assert build_plan([*mixture, node("abs", 2), node("gt", 3, 2)], 4, {}).forming


def test_explain_tells_the_bar_in_progress(minutes):
    plan = build_plan([forming("15m"), bars("15m"), node("gt", 0, 1)], 2, {"close": 0})
    slot = BLOCK + 4 * MINUTE
    panel = panel_at(minutes, slot, ["15m"])
    told = explain(plan, [], panel, slot, "S0")
    assert told.forming["15m"].open_time_ms == BLOCK
    assert told.bars["15m"].open_time_ms == BLOCK - 15 * MINUTE
    assert told.forming["15m"].close == told.values["close"]
    assert told.matched == (told.values["close"] > told.bars["15m"].close)
    closed = BLOCK + 15 * MINUTE
    assert explain(plan, [], panel_at(minutes, closed, ["15m"]), closed, "S0").forming == {}


def test_a_late_minute_changes_the_bar_in_progress(minutes):
    plan = build_plan([forming("15m", "volume"), node("ge", 0, 0)], 1, {"volume": 0})
    slot = BLOCK + 10 * MINUTE
    minutes.present[:, 1460:1470] = True
    panel = panel_at(minutes, slot - MINUTE, ["15m"])
    live = Evaluator(panel)
    live.put("x", plan, None, "every_bar")
    live.evaluate(slot - MINUTE)
    grow(panel, minutes, slot, ["15m"])
    late = {name: minutes.fields[name][0, 1462] for name in FIELDS} | {"volume": 5000.0}
    panel.correct("1m", [0], [BLOCK + 2 * MINUTE], *([late[name]] for name in FIELDS))
    assert found_at(live, slot)["x", "S0"][0] > 5000


def test_across_the_market_at_this_instant(minutes):
    """rank of a mix of the bar in progress and closed bars: of the symbols that have the minute."""
    plan = build_plan(
        [forming("15m"), bars("15m"), node("div", 0, 1), node("rank", 2), node("le", 3, 3)], 4, {"rank": 3}
    )
    slot = BLOCK + 4 * MINUTE
    minutes.present[:, 1463] = True
    panel = panel_at(minutes, slot, ["15m"])
    evaluator = Evaluator(panel)
    evaluator.put("x", plan, None, "every_bar")
    now, closed = minutes.fields["close"][:, 1463], panel.frame("15m").field("close")[:, -1]
    ranks = {symbol: values[0] for (_, symbol), values in found_at(evaluator, slot).items()}
    order = sorted(range(4), key=lambda row: -now[row] / closed[row])
    assert [ranks[f"S{row}"] for row in order] == sorted(ranks.values())


def test_a_trader_added_while_a_bar_is_in_progress_is_carried_on_from_there(minutes):
    """Its first slot computes what the bars before it left; the next ones stand on that."""
    plan = build_plan(
        [
            forming("5m"),
            forming("5m", "open"),
            node("crossover", 0, 1),
            node("crossunder", 0, 1),
            node("or", 2, 3),
            node("ta.sma", 0, timeperiod=3),
            node("shift", 5, n=1),
            node("ta.stddev", 5, timeperiod=3),
            node("gt", 0, 5),
            node("or", 4, 8),
        ],
        9,
        {"crossed": 4, "before": 6, "spread": 7},
    )
    crossed = 0
    for begin in range(BLOCK - 30 * MINUTE, BLOCK + 20 * MINUTE, MINUTE):
        panel = panel_at(minutes, begin, ["5m"])
        live = Evaluator(panel)
        live.put("x", plan, None, "every_bar")
        live.evaluate(begin)
        for slot in (begin + MINUTE, begin + 2 * MINUTE):
            grow(panel, minutes, slot, ["5m"])
            got = found_at(live, slot)
            assert repr(got) == repr(found_at(live, slot, ["x"]))
            crossed += sum(values[0] for values in got.values())
    assert crossed > 5


def random_mixture(seed):
    """A plan of random operators over closed bars and bars in progress of three timeframes; what has no past is not looked back on."""
    rng = random.Random(seed)
    leaves = [
        make(t, f)
        for make in (bars, forming)
        for t in ("1m", "5m", "15m")
        for f in ("close", "high", "volume")
    ]
    nodes = [*leaves, node("const", value=rng.choice([0, 1, 100]))]
    kinds = ["float"] * len(leaves) + ["const"]
    known = [o for o in OPERATORS.values() if not isinstance(o.kind, Leaf | Each) and o.name != "ta.mavp"]
    across = [o for o in known if isinstance(o.kind, AcrossMarket)]
    while len(nodes) < 60:
        operator = rng.choice(across if rng.random() < 0.2 else known)
        wanted = [
            operator.input_kind(at) for at in range(max(len(operator.inputs), 2 if operator.variadic else 1))
        ]
        fits = [[i for i, k in enumerate(kinds) if k == ("bool" if w == "bool" else "float")] for w in wanted]
        if not all(fits):
            fits = [list(range(len(leaves)))] * 2
            operator = OPERATORS[rng.choice(["lt", "gt"])]
        params = {
            p.name: rng.choice([2, 3, 5])
            for p in operator.params
            if p.name in {"period", "n", "occurrence", "timeperiod"}
        }
        more = node(operator.name, *map(rng.choice, fits), out=rng.randrange(len(operator.outputs)), **params)
        try:
            build_plan([*nodes, more, node("eq", len(nodes), 0)], len(nodes) + 1, {})
        except PlanError:
            continue
        nodes.append(more)
        kinds.append("float" if operator.returns == "same" else operator.returns)
    shown = [i for i, k in enumerate(kinds) if k == "float"][-20:]
    return build_plan([*nodes, node("eq", 0, 0)], len(nodes), {f"v{at}": i for at, i in enumerate(shown)})


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_is_carried_on_as_it_is_computed_anew(seed, minutes):
    plan = random_mixture(seed)
    slots = range(BLOCK - 4 * MINUTE, BLOCK + 9 * MINUTE, MINUTE)
    panel = panel_at(minutes, slots[0] - MINUTE, ["5m", "15m"])
    live = Evaluator(panel)
    live.put("x", plan, None, "every_bar")
    told = 0
    for slot in slots:
        grow(panel, minutes, slot, ["5m", "15m"])
        got = found_at(live, slot)
        assert repr(got) == repr(found_at(live, slot, ["x"]))
        told += len(got)
    assert told > 20
