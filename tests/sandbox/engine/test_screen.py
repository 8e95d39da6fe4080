"""Hits: what is due, what matches, and that nothing but the candles up to the slot decides."""

import random
from dataclasses import replace

import numpy as np
import pytest

from sandbox.engine import screen as evaluation
from sandbox.engine.candles.panel import Panel
from sandbox.engine.replay import evaluate_range, node_values
from sandbox.engine.screen import Evaluator
from sandbox.plan.document import build_plan
from sandbox.plan.operators import OPERATORS
from sandbox.plan.operators.kind import AcrossMarket, Each, Leaf
from sandbox.plan.timeframes import TIMEFRAMES
from tests.plans import bars, const, node, plan_of

MINUTE = 60_000


def above_previous(timeframe="1m"):
    """close > close[1]."""
    return build_plan([bars(timeframe), node("shift", 0, n=1), node("gt", 0, 1)], 2, {"before": 1})


def random_plan(seed, timeframes=("1m", "5m", "15m")):
    """A plan of random operators over random timeframes, nested a few deep."""
    rng = random.Random(seed)
    nodes = [bars(rng.choice(timeframes), field) for field in ("open", "high", "low", "close", "volume")]
    nodes += [bars(t) for t in timeframes] + [const(rng.choice([0, 1, 30, 50, 100, -0.5]))]
    kinds = ["float"] * (len(nodes) - 1) + ["const"]
    known = [
        o
        for o in OPERATORS.values()
        if not isinstance(o.kind, Leaf | Each) and o.name not in {"ta.mavp", "pow"}
    ]
    while len(nodes) < 30:
        operator = rng.choice(known)
        args = []
        for at in range(max(len(operator.inputs), 2 if operator.variadic else 0)):
            kind = operator.input_kind(at)
            fits = [i for i, k in enumerate(kinds) if (k == "bool") == (kind == "bool") and k != "const"]
            if kind == "any":
                fits = [i for i, k in enumerate(kinds) if k == "float"]
            args.append(rng.choice(fits) if fits else None)
        if None in args:
            continue
        params = {
            p.name: max(rng.choice([1, 2, 3, 7]), int(p.low or 0))
            for p in operator.params
            if p.name in {"period", "n", "occurrence"}
        }
        params |= {p.name: rng.choice([2, 3, 5, 9]) for p in operator.params if p.name == "timeperiod"}
        nodes.append(
            {"op": operator.name, "args": args, "params": params, "out": rng.randrange(len(operator.outputs))}
        )
        kinds.append("float" if operator.returns == "same" else operator.returns)
        if kinds[-1] == "float":
            nodes.append(node(rng.choice(["lt", "gt"]), len(nodes) - 1, rng.randrange(8)))
            kinds.append("bool")
    terms = [i for i, k in enumerate(kinds) if k == "bool"][-4:]
    nodes.append(node(rng.choice(["and", "or"]), *terms))
    shown = [i for i, k in enumerate(kinds) if k == "float"][-3:]
    return build_plan(nodes, len(nodes) - 1, {f"v{at}": index for at, index in enumerate(shown)})


def as_tuple(slot):
    return [
        (h.key, h.timeframe, h.symbols, h.prices.tolist(), repr(h.values))
        for h in sorted(slot.hits, key=lambda h: h.key)
    ]


@pytest.fixture
def markets(market):
    """1m, 5m and 15m candles of 5 symbols with holes; not rolled up from one another, which alignment must not need."""
    end = 91 * 128 * 15 * MINUTE * 7
    return [
        market(t, 5, count, seed, first_ms=end - count * TIMEFRAMES[t] * 1000, missing=0.02)
        for seed, (t, count) in enumerate([("1m", 2900), ("5m", 1700), ("15m", 1500)])
    ]


def last_close(markets):
    return int(markets[0].open_time[-1]) + MINUTE


def test_a_trader_is_due_when_its_trigger_closes(markets, panel_of):
    evaluator = Evaluator(panel_of(*markets))
    for timeframe in ("1m", "5m", "15m"):
        evaluator.put(timeframe, above_previous(timeframe), None, "every_bar")
    end = last_close(markets)

    due = [evaluator.evaluate(end - ago * MINUTE).evaluated for ago in range(16)]

    assert due == [3] + [1] * 4 + [2] + [1] * 4 + [2] + [1] * 4 + [3]


def test_a_match_is_the_condition_on_a_bar_that_exists(markets, panel_of):
    panel = panel_of(*markets)
    evaluator = Evaluator(panel)
    evaluator.put("t", above_previous(), None, "every_bar")
    frame = panel.frame("1m")
    checked = 0
    for bar in range(2000, 2060):
        slot = evaluator.evaluate(int(frame.open_time[bar]) + MINUTE)
        close = frame.field("close")
        wanted = [s for s in range(5) if frame.present[s, bar] and close[s, bar] > close[s, bar - 1]]
        if not wanted:
            assert slot.hits == []
            continue
        (hits,) = slot.hits
        checked += 1
        assert hits.symbols == [f"S{s}" for s in wanted]
        assert hits.timeframe == "1m"
        np.testing.assert_array_equal(hits.prices, close[wanted, bar])
        assert hits.values == {"before": close[wanted, bar - 1].tolist()}
    assert checked > 30


def test_on_enter_matches_only_where_the_bar_before_did_not(markets, panel_of):
    panel = panel_of(*markets)
    evaluator = Evaluator(panel)
    evaluator.put("every", above_previous(), None, "every_bar")
    evaluator.put("enter", above_previous(), None, "on_enter")
    evaluator.put("cooldown", above_previous(), None, {"cooldown_s": 60})
    close, present = panel.frame("1m").field("close"), panel.frame("1m").present
    up = close[:, 1:] > close[:, :-1]
    for bar in range(2000, 2040):
        slot = evaluator.evaluate(int(panel.frame("1m").open_time[bar]) + MINUTE)
        found = {hits.key: hits.symbols for hits in slot.hits}
        now, before = up[:, bar - 1] & present[:, bar], up[:, bar - 2]
        assert found.get("enter", []) == [f"S{s}" for s in range(5) if now[s] and not before[s]]
        assert found.get("every", []) == found.get("cooldown", []) == [f"S{s}" for s in range(5) if now[s]]


def test_only_the_traders_symbols_match(markets, panel_of):
    evaluator = Evaluator(panel_of(*markets))
    evaluator.put("some", above_previous(), frozenset({"S1", "S3", "UNKNOWN"}), "every_bar")
    evaluator.put("none", above_previous(), frozenset(), "every_bar")

    found = [h for ago in range(20) for h in evaluator.evaluate(last_close(markets) - ago * MINUTE).hits]

    assert {h.key for h in found} == {"some"}
    assert {s for h in found for s in h.symbols} == {"S1", "S3"}


def test_a_slot_without_a_bar_has_no_hits(markets, panel_of):
    evaluator = Evaluator(panel_of(*markets))
    evaluator.put("t", above_previous(), None, "every_bar")

    later = evaluator.evaluate(last_close(markets) + MINUTE)
    earlier = evaluator.evaluate(int(markets[0].open_time[0]))

    assert (later.hits, later.evaluated, later.failed) == ([], 1, {})
    assert (earlier.hits, earlier.evaluated) == ([], 1)


def test_an_empty_panel_is_screened_without_hits():
    evaluator = Evaluator(Panel(["A", "B"]))
    for seed in range(5):
        evaluator.put(seed, random_plan(seed), None, "on_enter")

    slot = evaluator.evaluate(15 * MINUTE)

    assert (slot.hits, slot.failed, slot.evaluated) == ([], {}, 5)


def test_the_coarser_timeframe_is_seen_as_of_its_last_closed_bar(markets, panel_of):
    panel = panel_of(*markets)
    plan = build_plan(
        [bars("1m"), bars("15m"), node("sub", 0, 1), node("gt", 2, 0), node("not", 3)], 4, {"d": 2, "c": 1}
    )
    coarse = panel.frame("15m")
    for ago in range(40):
        instant = last_close(markets) - ago * MINUTE
        values = node_values(panel, plan, instant, "S2")
        seen = int(np.flatnonzero(coarse.open_time + 15 * MINUTE <= instant)[-1])
        assert values[plan.show["c"]] == coarse.field("close")[2, seen]


def test_dropping_and_replacing_traders_leaves_nothing_behind(markets, panel_of):
    evaluator = Evaluator(panel_of(*markets))
    for seed in range(20):
        evaluator.put(seed % 7, random_plan(seed), None, "every_bar")
        evaluator.evaluate(last_close(markets))
    assert len(evaluator) == 7
    for key in range(7):
        evaluator.drop(key)
    evaluator.drop("unknown")

    assert len(evaluator) == 0
    assert evaluator.needed() == {}
    assert len(evaluator._calls) == 0


def test_equal_expressions_are_computed_once(markets, panel_of):
    evaluator = Evaluator(panel_of(*markets))
    for key in range(50):
        nodes = [bars("1m"), node("ta.rsi", 0), const(40 + key), node("lt", 1, 2)]
        evaluator.put(key, build_plan(nodes, 3, {}), None, "every_bar")

    slot = evaluator.evaluate(last_close(markets))

    assert slot.nodes_asked == 200
    assert slot.nodes_computed <= 2 + 2 * 50


@pytest.mark.parametrize("seed", range(40))
def test_a_screen_is_a_function_of_the_candles_up_to_its_slot(seed, markets, panel_of):
    """
    The same hits and values, bit for bit, live at T, in catch-up over a longer panel, in a preview over a range, with
    exactly as much history as is needed, and for each symbol alone.
    """
    plan = random_plan(seed)
    end = last_close(markets)
    whole = panel_of(*markets)
    steady = Evaluator(whole)
    for frequency in ("every_bar", "on_enter"):
        steady.put(frequency, plan, None, frequency)
    step = TIMEFRAMES[plan.trigger] * 1000
    slots = [end - ago * step for ago in range(9, -1, -1)]
    caught_up = {slot: as_tuple(steady.evaluate(slot)) for slot in slots}
    backwards = {slot: as_tuple(steady.evaluate(slot)) for slot in reversed(slots)}
    assert caught_up == backwards

    for slot in slots[::4]:
        live = Evaluator(panel_of(*markets, until_ms=slot))
        live.put("every_bar", plan, None, "every_bar")
        live.put("on_enter", plan, None, "on_enter")
        assert as_tuple(live.evaluate(slot)) == caught_up[slot]
        needed = live.needed()
        short = panel_of(*markets, until_ms=slot)
        for timeframe in ("1m", "5m", "15m"):
            short.trim(timeframe, needed.get(timeframe, 0))
        trimmed = Evaluator(short)
        trimmed.put("every_bar", plan, None, "every_bar")
        trimmed.put("on_enter", plan, None, "on_enter")
        assert as_tuple(trimmed.evaluate(slot)) == caught_up[slot]

    for frequency in ("every_bar", "on_enter"):
        ranged = evaluate_range(whole, plan, slots[0], slots[-1], None, frequency)
        found = {}
        for at, (time, symbol) in enumerate(
            zip(ranged.triggered_at_ms.tolist(), ranged.symbols, strict=True)
        ):
            values = {name: column[at] for name, column in ranged.values.items()}
            found.setdefault(time, []).append((symbol, float(ranged.prices[at]), repr(values)))
        for slot in slots:
            expected = [
                (symbol, price, repr({name: column[at] for name, column in eval(values).items()}))  # noqa: S307 - our own repr
                for key, _, symbols, prices, values in caught_up[slot]
                if key == frequency
                for at, (symbol, price) in enumerate(zip(symbols, prices, strict=True))
            ]
            assert found.get(slot, []) == expected


@pytest.mark.parametrize("seed", range(12))
def test_a_symbol_alone_and_among_many_gets_the_same_answer(seed, market, panel_of):
    """
    Where nobody's bars are missing (an axis bar that only others have is a bar for everyone) and the plan does not look
    across the market.
    """
    drawn = (random_plan(seed + more) for more in range(100, 200, 12))
    plan = next(p for p in drawn if all(not isinstance(OPERATORS[n.op].kind, AcrossMarket) for n in p.nodes))
    candles = [
        market(t, 5, 1500, at, first_ms=91 * 128 * 15 * MINUTE) for at, t in enumerate(("1m", "5m", "15m"))
    ]
    many = panel_of(*candles)
    for row in range(5):
        alone = Panel([f"S{row}"])
        for c in candles:
            symbol, *rest = c.columns()
            own = symbol == row
            alone.load(c.timeframe, np.zeros(own.sum(), dtype=int), *(column[own] for column in rest))
        instant = int(candles[0].open_time[-1]) + MINUTE
        assert repr(node_values(alone, plan, instant, f"S{row}")) == repr(
            node_values(many, plan, instant, f"S{row}")
        )


@pytest.mark.parametrize("seed", range(12))
def test_later_bars_never_change_an_earlier_value(seed, markets, panel_of):
    plan = random_plan(seed + 200)
    end = last_close(markets)
    whole = panel_of(*markets)
    for ago in (1, 15, 130, 777):
        instant = end - ago * MINUTE
        cut = panel_of(*markets, until_ms=instant)
        for symbol in ("S0", "S4"):
            assert repr(node_values(cut, plan, instant, symbol)) == repr(
                node_values(whole, plan, instant, symbol)
            )


@pytest.mark.parametrize("seed", range(6))
def test_slots_after_appends_equal_slots_after_a_fresh_load(seed, markets, panel_of):
    """One evaluator kept over 300 appended slots, across block boundaries, against new ones."""
    plans = {key: random_plan(1000 + seed * 10 + key) for key in range(4)}
    end = last_close(markets)
    start = end - 300 * MINUTE
    panel = panel_of(*markets, until_ms=start)
    kept = Evaluator(panel)
    for key, plan in plans.items():
        kept.put(key, plan, None, "on_enter" if key % 2 else "every_bar")
    for slot in range(start + MINUTE, end + MINUTE, MINUTE):
        for candles in markets:
            step = TIMEFRAMES[candles.timeframe] * 1000
            panel.append(candles.timeframe, *candles.columns((candles.open_time + step == slot)[None, :]))
        got = kept.evaluate(slot)
        if (slot - start) // MINUTE % 23 == 0 or slot == end:
            fresh = Evaluator(panel_of(*markets, until_ms=slot))
            for key, plan in plans.items():
                fresh.put(key, plan, None, "on_enter" if key % 2 else "every_bar")
            assert as_tuple(got) == as_tuple(fresh.evaluate(slot))


def test_a_correction_is_seen_at_the_next_evaluation(markets, panel_of):
    panel = panel_of(*markets)
    evaluator = Evaluator(panel)
    evaluator.put(
        "t",
        build_plan([bars("1m"), const(0), node("gt", 0, 1), node("ta.ema", 0)], 2, {"e": 3}),
        None,
        "every_bar",
    )
    end = last_close(markets)
    before = evaluator.evaluate(end)
    frame = panel.frame("1m")

    panel.correct("1m", [0], [int(frame.open_time[-3])], [1.0], [9999.0], [1.0], [9999.0], [1.0])
    after = evaluator.evaluate(end)

    assert before.hits[0].values["e"][0] < 200 < after.hits[0].values["e"][0]
    assert before.hits[0].values["e"][1:] == after.hits[0].values["e"][1:]


@pytest.mark.parametrize("carried", [True, False])
def test_an_operator_that_raises_fails_only_the_traders_using_it(carried, markets, panel_of):
    panel = panel_of(*markets)
    evaluator = Evaluator(panel)
    bad = build_plan(
        [bars("1m"), node("ta.rsi", 0), const(0), node("gt", 1, 2), node("shift", 3, n=1)], 4, {}
    )
    evaluator.put("good", above_previous(), None, "every_bar")
    evaluator.put("bad", bad, None, "every_bar")
    call = next(ref.call for ref in evaluator._traders["bad"].refs if ref.call.operator.name == "ta.rsi")
    keys = None if carried else ["good", "bad"]

    def broken(*_rows, **_params):
        raise ZeroDivisionError("no such luck")

    working = call.operator
    stream = type("Broken", (), {"open_and_fill": staticmethod(broken), "update": staticmethod(broken)})
    end = last_close(markets)
    assert not evaluator.evaluate(end - 2 * MINUTE, keys).failed
    call.operator = replace(working, kind=replace(working.kind, run=broken, stream=stream))
    slot = evaluator.evaluate(end - MINUTE, keys)
    call.operator = working
    repaired = evaluator.evaluate(end, keys)

    assert slot.failed == {"bad": "ta.rsi: no such luck"}
    assert slot.evaluated == 2
    assert {hits.key for hits in slot.hits} <= {"good"}
    fresh = Evaluator(panel)
    fresh.put("good", above_previous(), None, "every_bar")
    fresh.put("bad", bad, None, "every_bar")
    assert not repaired.failed
    assert as_tuple(repaired) == as_tuple(fresh.evaluate(end))


@pytest.mark.parametrize("name", ["abs", "rank", "highest", "crossover"])
def test_an_operator_that_raises_while_it_is_carried_on_fails_only_the_traders_using_it(
    name, markets, panel_of
):
    """Whatever its values are carried by; the next slot has them right again."""
    more = {"highest": {"period": 3}}.get(name, {})
    args = [1, 1] if name == "crossover" else [1]
    bad = build_plan([bars("1m"), node("neg", 0), node(name, *args, **more), node("le", 2, 2)], 3, {"v": 2})
    panel, end = panel_of(*markets), last_close(markets)
    evaluator = Evaluator(panel)
    evaluator.put("good", above_previous(), None, "every_bar")
    evaluator.put("bad", bad, None, "every_bar")
    call = next(ref.call for ref in evaluator._traders["bad"].refs if ref.call.operator.name == name)
    group = evaluator._live._calls[call]

    def broken(_event):
        raise ZeroDivisionError("no such luck")

    assert not evaluator.evaluate(end - 2 * MINUTE).failed
    group.step = broken
    slot = evaluator.evaluate(end - MINUTE)
    del group.step
    repaired = evaluator.evaluate(end)

    assert slot.failed == {"bad": f"{name}: no such luck"}
    assert {hits.key for hits in slot.hits} <= {"good"}
    fresh = Evaluator(panel)
    fresh.put("good", above_previous(), None, "every_bar")
    fresh.put("bad", bad, None, "every_bar")
    assert not repaired.failed
    assert as_tuple(repaired) == as_tuple(fresh.evaluate(end))


def test_only_the_keys_asked_for_are_screened(markets, panel_of):
    evaluator = Evaluator(panel_of(*markets))
    for key in range(4):
        evaluator.put(key, above_previous(), None, "every_bar")

    slot = evaluator.evaluate(last_close(markets), keys=[1, 3, "unknown"])

    assert slot.evaluated == 2
    assert {hits.key for hits in slot.hits} <= {1, 3}


def test_another_symbols_series_is_the_same_for_all(markets, panel_of):
    panel = panel_of(*markets)
    plan = build_plan(
        [bars("1m"), bars("1m", symbol="S3"), node("ta.sma", 1), node("ge", 0, 0)], 3, {"leader": 2}
    )
    evaluator = Evaluator(panel)
    evaluator.put("t", plan, None, "every_bar")

    (hits,) = evaluator.evaluate(last_close(markets)).hits
    own = build_plan([bars("1m"), node("ta.sma", 0), node("ge", 0, 0)], 2, {"mean": 1})

    assert set(hits.values["leader"]) == {
        node_values(panel, own, last_close(markets), "S3")[own.show["mean"]]
    }
    assert evaluation.HISTORY_SLACK_BARS > 0


@pytest.mark.parametrize("gaps", [False, True])
def test_every_operator_is_carried_on_bit_for_bit(gaps, market, panel_of):
    """
    160 slots across a block boundary, with a symbol listed on the way and candles missing: each slot's values are those
    that a preview computes from the candles alone.
    """
    first_ms = 91 * 128 * 15 * MINUTE * 7 - 1500 * MINUTE
    candles = market("1m", 4, 1600, 5, first_ms=first_ms, missing=0.02)
    candles.present[3, :1450] = False
    end = int(candles.open_time[-1]) + MINUTE
    panel = panel_of(candles, until_ms=end - 160 * MINUTE)
    evaluator = Evaluator(panel)
    plans = {
        o.name: plan_of(o, "1m", gaps=gaps) for o in OPERATORS.values() if not isinstance(o.kind, Leaf | Each)
    }
    for name, plan in plans.items():
        evaluator.put(name, plan, None, "every_bar")
    found = {name: [] for name in plans}
    for slot in range(end - 159 * MINUTE, end + MINUTE, MINUTE):
        panel.append("1m", *candles.columns((candles.open_time + MINUTE == slot)[None, :]))
        result = evaluator.evaluate(slot)
        assert not result.failed
        for hits in result.hits:
            found[hits.key] += [(slot, *row) for row in zip(hits.symbols, *hits.values.values(), strict=True)]

    for name, plan in plans.items():
        ranged = evaluate_range(panel, plan, end - 159 * MINUTE, end)
        rows = zip(ranged.triggered_at_ms.tolist(), ranged.symbols, *ranged.values.values(), strict=True)
        expected = sorted(rows, key=lambda row: row[:2])
        got = sorted(found[name], key=lambda row: row[:2])
        different = [pair for pair in zip(got, expected, strict=True) if repr(pair[0]) != repr(pair[1])]
        assert not different, (name, different[:3])


def both_ways(keys, evaluator, slot_ms):
    """The slot as carried on, and from the candles alone, by trader."""
    carried = {hits.key: (hits.symbols, hits.values) for hits in evaluator.evaluate(slot_ms).hits}
    scratch = {hits.key: (hits.symbols, hits.values) for hits in evaluator.evaluate(slot_ms, keys).hits}
    return carried, scratch


@pytest.mark.parametrize("listed", [1, 70])  # within one word of 64 symbols, and beyond it
def test_traders_keep_their_own_matches_when_a_pair_is_listed(market, listed):
    """
    After a listing every trader matches by its own condition, the new pair included, though rows are handed out again.
    """
    candles = market("1m", 5 + listed, 12, seed=4)
    minutes = candles.open_time + MINUTE

    def columns(chosen_symbols, chosen_bars):
        rows, bar = (m.ravel() for m in np.meshgrid(chosen_symbols, chosen_bars, indexing="ij"))
        return rows, candles.open_time[bar], *(values[rows, bar] for values in candles.fields.values())

    panel = Panel([f"S{row}" for row in range(5)])
    panel.load("1m", *columns(range(5), range(10)))
    evaluator = Evaluator(panel)
    plans = {
        level: build_plan([bars("1m"), const(level), node("gt", 0, 1)], 2, {"close": 0})
        for level in (1e6, 50.0, 1e5, 2.0)
    }
    for level, plan in plans.items():
        evaluator.put(level, plan, None, "every_bar")
    evaluator.evaluate(int(minutes[8]))
    evaluator.drop(50.0)
    evaluator.put("chosen", plans[2.0], frozenset({"S1", "S5"}), "every_bar")
    evaluator.evaluate(int(minutes[9]))
    panel.add_symbols([f"S{row}" for row in range(5, 5 + listed)])
    panel.append("1m", *columns(range(5 + listed), [10]))

    carried, scratch = both_ways([*plans, "chosen"], evaluator, int(minutes[10]))

    assert carried == scratch
    assert carried.keys() == {2.0, "chosen"}
    assert carried[2.0][0] == panel.symbols
    assert carried["chosen"][0] == ["S1", "S5"]
