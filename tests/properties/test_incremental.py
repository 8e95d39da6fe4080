"""
Incremental screening as a state machine: traders and symbols come, go and change between slots, in any order.

At every slot the answer that carries values on is held against the answer of a new evaluator over the same candles, for all
traders. The example that started it: two traders, one dropped and one put, then a symbol listed, and a filter `close > 1e6`
signalled every pair.

``VYX_PROPERTY=large`` runs a soak.
"""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sandbox.engine.candles.panel import Panel
from sandbox.engine.screen import Evaluator
from sandbox.plan.document import build_plan
from sandbox.plan.operators import FIELDS
from sandbox.plan.timeframes import TIMEFRAMES
from tests.plans import bars, const, forming, node

LARGE = os.environ.get("VYX_PROPERTY") == "large"
PROFILE = settings(
    max_examples=400 if LARGE else 40,
    stateful_step_count=80 if LARGE else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[phase for phase in Phase if LARGE or phase is not Phase.shrink],  # shrinking takes minutes
)
MINUTE = 60_000
BLOCK = 1024 * 86_400_000 * 16  # a block boundary of every timeframe and every block length
SYMBOLS_MAX = 140  # three 64-symbol words
HISTORY = 60  # bars before the first slot; it lies so that a block begins within the run
USED = ("1m", "3m", "5m", "15m")


def plans():
    """One plan for each way in which a value is carried on, over closed bars and over forming ones."""
    made = []
    for leaf in (bars, forming):
        made += [
            build_plan([leaf("1m"), const(level), node("gt", 0, 1)], 2, {"close": 0})
            for level in (2.0, 100.0, 1e6)
        ]
        for timeframe in ("1m", "3m", "5m"):
            average = [leaf(timeframe), node("ta.sma", 0, timeperiod=7), node("gt", 0, 1)]
            made.append(build_plan(average, 2, {"average": 1}))
        made.append(
            build_plan([leaf("1m"), node("ta.ema", 0, timeperiod=5), node("lt", 0, 1)], 2, {"average": 1})
        )
        made.append(build_plan([leaf("3m"), node("rank", 0), const(20), node("le", 1, 2)], 3, {"place": 1}))
        made.append(build_plan([leaf("1m"), leaf("15m"), node("gt", 0, 1)], 2, {"coarse": 1}))
    leader = [bars("1m"), bars("1m", symbol="S3"), node("gt", 0, 1)]
    made.append(build_plan(leader, 2, {"leader": 1}))
    shifted = [bars("1m"), node("shift", 0, n=3), node("gt", 0, 1)]
    made.append(build_plan(shifted, 2, {"before": 1}))
    highest = [bars("1m", "high"), node("highest", 0, period=9), node("ge", 0, 1)]
    made.append(build_plan(highest, 2, {"highest": 1}))
    crossing = [bars("3m"), node("ta.ema", 0, timeperiod=4), node("crossover", 0, 1)]
    made.append(build_plan(crossing, 2, {"average": 1}))
    earlier = [
        bars("1m"),
        node("ta.ema", 0, timeperiod=4),
        node("shift", 1, n=2),
        node("rising", 1, period=2),
        node("gt", 1, 2),
        node("or", 3, 4),
    ]
    made.append(build_plan(earlier, 5, {"before": 2}))
    mixed = [bars("1m"), bars("5m"), node("sub", 0, 1), node("shift", 2, n=1), node("gt", 2, 3)]
    made.append(build_plan(mixed, 4, {"difference": 2, "before": 3}))
    return made


PLANS = plans()
FREQUENCIES = ("every_bar", "on_enter", {"cooldown_s": 120})
CHOICES = (None, frozenset({"S0", "S7"}), frozenset(f"S{n}" for n in range(0, SYMBOLS_MAX, 3)))


class Incremental(RuleBasedStateMachine):
    @initialize(
        symbols=st.sampled_from([3, 30, 63, 64, 65, 127]), seed=st.integers(0, 9), before=st.integers(1, 40)
    )
    def begin(self, symbols, seed, before):
        self.random = np.random.default_rng(seed)
        self.slot_ms = BLOCK - before * MINUTE
        self.close = np.full(SYMBOLS_MAX, 100.0)
        self.panel = Panel([f"S{n}" for n in range(symbols)])
        for timeframe in USED:
            step = TIMEFRAMES[timeframe] * 1000
            newest = self.slot_ms // step * step - step
            times = newest - step * np.arange(HISTORY)[::-1]
            self.panel.load(
                timeframe, *self.candles(np.repeat(times, symbols), np.tile(np.arange(symbols), HISTORY))
            )
        self.evaluator = Evaluator(self.panel)
        self.traders = {}
        self.number = 0
        self.start_many(8, seed, "on_enter" if seed % 2 else "every_bar")

    def candles(self, times, rows):
        """Candles at these places, a twentieth of them missing and some minutes without a trade."""
        kept = self.random.random(len(rows)) >= 0.05
        times, rows = times[kept], rows[kept]
        close = np.round(100 * np.exp(self.random.normal(0, 0.01, len(rows))), 4)
        opened = np.round(close * np.exp(self.random.normal(0, 0.003, len(rows))), 4)
        volume = np.where(self.random.random(len(rows)) < 0.1, 0.0, self.random.lognormal(3, 1, len(rows)))
        columns = dict(
            zip(
                FIELDS,
                (opened, np.maximum(opened, close), np.minimum(opened, close), close, volume),
                strict=True,
            )
        )
        return rows, times, *(columns[name] for name in FIELDS)

    def put(self, key, plan, choice, frequency):
        self.traders[key] = plan, choice, frequency
        self.evaluator.put(key, plan, choice, frequency)

    @rule(
        plan=st.sampled_from(PLANS), choice=st.sampled_from(CHOICES), frequency=st.sampled_from(FREQUENCIES)
    )
    def start(self, plan, choice, frequency):
        self.number += 1
        self.put(self.number, plan, choice, frequency)

    @rule(
        count=st.integers(2, 12), first=st.integers(0, len(PLANS) - 1), frequency=st.sampled_from(FREQUENCIES)
    )
    def start_many(self, count, first, frequency):
        for at in range(count):
            self.start(PLANS[(first + at) % len(PLANS)], CHOICES[at % len(CHOICES)], frequency)

    @rule(
        which=st.integers(0, 50),
        plan=st.sampled_from(PLANS),
        choice=st.sampled_from(CHOICES),
        frequency=st.sampled_from(FREQUENCIES),
    )
    def change(self, which, plan, choice, frequency):
        if self.traders:
            self.put(list(self.traders)[which % len(self.traders)], plan, choice, frequency)

    @rule(which=st.integers(0, 50))
    def stop(self, which):
        if self.traders:
            key = list(self.traders)[which % len(self.traders)]
            del self.traders[key]
            self.evaluator.drop(key)

    @rule(count=st.integers(1, 40))
    def list_symbols(self, count):
        known = len(self.panel.symbols)
        self.panel.add_symbols([f"S{n}" for n in range(known, min(known + count, SYMBOLS_MAX))])

    @rule(
        stops=st.lists(st.integers(0, 50), max_size=4),
        first=st.integers(0, 20),
        listed=st.integers(1, 10),
        frequency=st.sampled_from(FREQUENCIES),
        parts=st.integers(0, 3),
    )
    def change_much(self, stops, first, listed, frequency, parts):
        """Two slots with comings and goings before each, part of it prepared."""
        for which in stops:
            self.stop(which)
        self.start_many(2 + len(stops), first, frequency)
        for _ in range(parts):
            self.evaluator.prepare(self.slot_ms, 0.0)
        self.screen(1)
        self.list_symbols(listed)
        self.screen(1)

    @rule(keep=st.integers(30, 80))
    def trim(self, keep):
        for timeframe in USED:
            self.panel.trim(timeframe, max(keep, self.evaluator.needed().get(timeframe, 0)))

    @rule()
    def reload(self):
        """What a correction does: all candles are read again, some of them different."""
        frame = self.panel.frame("1m")
        rows, columns, values = frame.rows()
        values[FIELDS.index("close")][-3:] *= 1.0
        changed = [np.array(value) for value in values]
        for name in ("open", "high", "low", "close"):
            changed[FIELDS.index(name)][-1] = 101.5
        self.panel.load("1m", rows, frame.open_time[columns], *changed)

    @rule()
    def outage(self):
        """No candle at all: the axis has no such bar, nothing is screened."""
        self.slot_ms += MINUTE

    @rule(which=st.sets(st.integers(0, 50), max_size=5))
    def catch_up(self, which):
        """Some traders are screened again, alone: what the others carry must not notice."""
        keys = [key for at, key in enumerate(self.traders) if at in which]
        assert self.found(self.evaluator.evaluate(self.slot_ms, keys)) == self.from_scratch(keys)

    @rule(parts=st.integers(1, 12))
    def prepare(self, parts):
        """What new traders need is computed in advance, all of it or a part."""
        for _ in range(parts):
            self.evaluator.prepare(self.slot_ms, 0.0)

    @rule(first=st.integers(0, 23), frequency=st.sampled_from(FREQUENCIES))
    def lose_the_minute_of_a_coarse_bar(self, first, frequency):
        """A bar of 3m or 5m closes and none of 1m: a pair's minute came late, or was never delivered."""
        while (self.slot_ms + MINUTE) % (3 * MINUTE) and (self.slot_ms + MINUTE) % (5 * MINUTE):
            self.screen(1)
        self.start_many(6, first, frequency)
        self.screen(1, without="1m")
        self.screen(2)

    @rule(times=st.integers(1, 4))
    def screen(self, times, without=""):
        for _ in range(times):
            self.slot_ms += MINUTE
            for timeframe in USED:
                step = TIMEFRAMES[timeframe] * 1000
                if self.slot_ms % step == 0 and timeframe != without:
                    rows = np.arange(len(self.panel.symbols))
                    columns = self.candles(np.full(len(rows), self.slot_ms - step), rows)
                    if len(columns[0]):
                        self.panel.append(timeframe, *columns)
            assert self.found(self.evaluator.evaluate(self.slot_ms)) == self.from_scratch(self.traders)

    def from_scratch(self, keys):
        """The same of an evaluator that has carried nothing, and shares nothing with the other but the candles."""
        fresh = Evaluator(self.panel)
        for key in keys:
            fresh.put(key, *self.traders[key])
        return self.found(fresh.evaluate(self.slot_ms, list(keys)))

    @staticmethod
    def found(slot):
        assert not slot.failed
        return {
            (hits.key, symbol): (
                float(hits.prices[at]),
                {name: values[at] for name, values in hits.values.items()},
            )
            for hits in slot.hits
            for at, symbol in enumerate(hits.symbols)
        }

    @invariant()
    def everybody_is_known(self):
        assert len(self.evaluator) == len(self.traders)


def test_what_is_carried_from_slot_to_slot_equals_what_is_computed_from_scratch():
    """
    Whoever comes, goes or changes between two slots, and whatever the market lists.
    """
    run_state_machine_as_test(Incremental, settings=PROFILE)


def one_symbol(closes):
    """A panel of one symbol with these 1m closes, and the slot at the last of them."""
    panel = Panel(["S0"])
    fill(panel, closes)
    return panel, BLOCK + len(closes) * MINUTE


def fill(panel, closes):
    times = BLOCK + MINUTE * np.arange(len(closes))
    panel.load("1m", np.zeros(len(closes)), times, *[np.array(closes, dtype=float)] * 4, np.ones(len(closes)))


ABOVE_100 = build_plan([bars("1m"), const(100), node("gt", 0, 1)], 2, {})


def test_on_enter_matches_though_the_bar_before_was_corrected_from_true_to_false():
    """
    The condition had held one bar ago; then its candle was corrected and all were read again. Nobody is told of it but the candles.
    """
    panel, slot_ms = one_symbol([110, 110])
    evaluator = Evaluator(panel)
    evaluator.put("trader", ABOVE_100, None, "on_enter")
    for at_ms in (slot_ms - MINUTE, slot_ms):
        evaluator.evaluate(at_ms)
    fill(panel, [110, 90, 110])

    assert [hits.symbols for hits in evaluator.evaluate(slot_ms + MINUTE).hits] == [["S0"]]


def test_on_enter_does_not_remember_what_another_trader_saw():
    """
    A trader that goes leaves its place to one that comes.
    """
    panel, slot_ms = one_symbol([110, 110])
    evaluator = Evaluator(panel)
    evaluator.put("gone", ABOVE_100, None, "on_enter")
    for at_ms in (slot_ms - MINUTE, slot_ms):
        evaluator.evaluate(at_ms)
    evaluator.drop("gone")
    below_120 = build_plan([bars("1m"), const(120), node("lt", 0, 1)], 2, {})
    evaluator.put("new", below_120, None, "on_enter")
    fill(panel, [110, 130, 110])

    assert [hits.symbols for hits in evaluator.evaluate(slot_ms + MINUTE).hits] == [["S0"]]


def test_a_closed_bar_counts_once_though_a_coarser_bar_closes_without_a_minute():
    """
    The minute after 5m closed is lost, 3m closes without it: no bar of 5m is forming, and the closed one was counted already.
    """
    minutes = np.arange(-60, 0)
    close = 100.0 + np.sin(minutes)
    lost = -54  # 3m closes, 5m closed a minute before
    panel = Panel(["S0"])
    evaluator = Evaluator(panel)
    average = build_plan(
        [forming("5m"), node("ta.sma", 0, timeperiod=3), node("gt", 1, 0)], 2, {"average": 1}
    )
    for at, plan in enumerate((average, build_plan([bars("3m"), const(1), node("gt", 0, 1)], 2, {}))):
        evaluator.put(at, plan, None, "every_bar")
    for minute, value in zip(minutes.tolist(), close, strict=True):
        for timeframe in ("1m", "3m", "5m"):
            step = TIMEFRAMES[timeframe] * 1000
            closes_ms = BLOCK + (minute + 1) * MINUTE
            if closes_ms % step == 0 and (timeframe != "1m" or minute + 1 != lost):
                panel.append(timeframe, [0], [closes_ms - step], *[[value]] * 4, [1.0])
        carried = Incremental.found(evaluator.evaluate(closes_ms))

        assert carried == Incremental.found(evaluator.evaluate(closes_ms, [0, 1])), minute


def test_a_new_trader_sees_a_coarse_bar_only_from_the_minute_that_closed_with_it():
    """
    It comes when 5m closes without a minute: its newest minute is older than that bar, and so is what it saw then.
    """
    panel = Panel(["S0"])
    evaluator = Evaluator(panel)
    mixed = [bars("1m"), bars("5m"), node("sub", 0, 1), node("shift", 2, n=1), const(-1e9), node("gt", 3, 4)]
    other = build_plan([bars("1m"), bars("5m"), node("gt", 0, 1)], 2, {})
    for minute in range(1, 17):
        closes_ms = BLOCK + minute * MINUTE
        if minute == 15:
            evaluator.put("new", build_plan(mixed, 5, {"before": 3}), None, "every_bar")
        else:
            panel.append("1m", [0], [closes_ms - MINUTE], *[[100.0 + minute]] * 4, [1.0])
        if minute % 5 == 0:
            panel.append("5m", [0], [closes_ms - 5 * MINUTE], *[[200.0 + minute]] * 4, [1.0])
        evaluator.put("other", other, None, "every_bar")
        found = Incremental.found(evaluator.evaluate(closes_ms))

    assert found["new", "S0"] == (116.0, {"before": 114.0 - 210.0})
