"""Functions that plans carry: their values, their limits, and that nobody else suffers from them."""

import math
import re
import time
from pathlib import Path

import numpy as np
import pytest

from sandbox.engine.explain import explain
from sandbox.engine.replay import evaluate_range, node_values
from sandbox.engine.screen import Evaluator
from sandbox.interpreter import functions as limits
from sandbox.interpreter.fair_time import OWN_SHARE
from sandbox.interpreter.functions import EachError, EachRunner
from sandbox.language.compiler import FilterCompiler
from sandbox.plan.document import EACH_MAX, PLAN_VERSION, PlanError, build_plan, load_plan
from sandbox.plan.operators.each import BARS_MAX
from sandbox.plan.text.function import FUNCTION_BYTES_MAX

MINUTE = 60_000
HEAD = "m1, m5 = bars('1m'), bars('5m')\n"
GOOD = "h = bars('1m')\nsignal(h.close > h.open)"
SECONDS_MAX = 5.0
"""What one hostile function may take of a slot on a busy machine; the host's own deadline strikes at 0.4 s, at most twice."""


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler() as compiler:
        yield compiler


@pytest.fixture(scope="module")
def runner():
    with EachRunner(slot_seconds=60.0) as runner:
        yield runner


class Counting(EachRunner):
    """Notes what was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def run(self, source, name, calls, node=None):
        given = list(calls)
        self.asked.append((name, [symbol for symbol, _ in given]))
        return super().run(source, name, given, node)


@pytest.fixture
def counting():
    with Counting() as counting:
        yield counting


def plan_of(compiler, text):
    compiled = compiler.compile(HEAD + text)
    assert compiled.plan is not None, compiled.diagnostics
    return compiled.plan


def as_rows(slot):
    return sorted(
        (hits.key, symbol, price, repr([column[at] for column in hits.values.values()]))
        for hits in slot.hits
        for at, (symbol, price) in enumerate(zip(hits.symbols, hits.prices.tolist(), strict=True))
    )


@pytest.fixture
def candles(market):
    """Six symbols; one listed late, candles missing here and there."""
    one = market("1m", 6, 400, 11, missing=0.05)
    one.present[5, :250] = False
    five = market("5m", 6, 80, 12)
    return one, five


def last_close(candles):
    return int(candles[0].open_time[-1]) + MINUTE


CLIMB = """
def climb(lows, closes):
    best = 0
    run = 0
    for at in range(1, len(lows)):
        run = run + 1 if lows[at] > lows[at - 1] and closes[at] > closes[at - 1] else 0
        best = max(best, run)
    return best + closes[-1] / 1000
"""


def test_a_value_is_what_python_gives_for_the_last_bars(compiler, runner, candles, panel_of):
    plan = plan_of(
        compiler,
        CLIMB
        + "x = each(climb, m1.low, m1.close, bars=9, when=m1.close > m1.open)\nshow(x=x)\nsignal(x > 1)",
    )
    panel = panel_of(*candles)
    own = {}
    exec(CLIMB, own)  # noqa: S102 - the same text, run by Python itself

    found = evaluate_range(panel, plan, last_close(candles) - 200 * MINUTE, last_close(candles), each=runner)

    frame, expected = panel.frame("1m"), []
    for at in range(len(frame) - 201, len(frame)):
        for row, name in enumerate(panel.symbols):
            if not (frame.present[row, at] and frame.field("close")[row, at] > frame.field("open")[row, at]):
                continue
            window = [frame.field(field)[row, at - 8 : at + 1].tolist() for field in ("low", "close")]
            if any(math.isnan(value) for values in window for value in values):
                continue
            value = own["climb"](*window)
            if value > 1:
                expected.append((int(frame.open_time[at]) + MINUTE, name, value))
    assert len(expected) > 50
    assert (
        list(zip(found.triggered_at_ms.tolist(), found.symbols, found.values["x"], strict=True)) == expected
    )


FILTERS = {
    "number": CLIMB
    + "x = each(climb, m1.low, m1.close, bars=5, when=m1.close > m1.open)\nshow(x=x)\nsignal(x > 1.1)",
    "condition": "signal(each(lambda c: c[-1] > sum(c) / len(c), m1.close, bars=7, when=m1.volume > 20))",
    "crossing": "x = each(lambda c: max(c[:-1]), m1.high, bars=6, when=m1.close > 0)\nsignal(crossover(m1.close, x))",
    "before": "x = each(lambda c: c[-1] - c[0], m1.close, bars=4, when=m1.close > m1.open)\nshow(y=x[2])\nsignal(x[1] > 0)",
    "window": "x = each(lambda c, b: c[-1] if b[-1] else -1, m1.close, m1.close > m1.open, when=m1.close > 0)\n"
    "show(x=x)\nsignal(m1.close >= highest(x, 5))",
    "coarse": "x = each(lambda c: c[-1] / c[0], m5.close, bars=3, when=m5.close > m5.open)\nshow(x=x)\nsignal(x > 1)",
    "mixed": "x = each(lambda a, b: a[-1] - b[-1], m1.close, m5.close, bars=3, when=m1.close > m1.open)\nsignal(x > 0)",
    "everywhere": "signal(each(lambda c: c[-1] > c[0], m1.close, bars=2))",
    "another symbol": "signal(each(lambda c, o: c[-1] > o[0], m1.close, symbol('S1').bars('1m').close, bars=2))",
}


@pytest.mark.parametrize("frequency", ["every_bar", "on_enter"])
@pytest.mark.parametrize("name", FILTERS)
def test_live_catch_up_and_preview_agree(name, frequency, compiler, runner, candles, panel_of):
    """Values carried on from slot to slot, computed anew for some traders, and over a range are bit for bit the same."""
    plan = plan_of(compiler, FILTERS[name])
    one, five = candles
    end, slots = last_close(candles), 40
    panel, whole = panel_of(one, five, until_ms=end - slots * MINUTE), panel_of(one, five)
    live, late = Evaluator(panel, runner), Evaluator(whole, runner)
    for evaluator in (live, late):
        evaluator.put("t", plan, None, frequency)

    carried, anew = [], []
    for slot in range(end - (slots - 1) * MINUTE, end + MINUTE, MINUTE):
        for timeframe, source in (("1m", one), ("5m", five)):
            closing = source.open_time + (MINUTE if timeframe == "1m" else 5 * MINUTE) == slot
            panel.append(timeframe, *source.columns(closing[None, :]))
        results = live.evaluate(slot), late.evaluate(slot, ["t"])
        assert not results[0].failed | results[1].failed
        carried += [(slot, *row) for row in as_rows(results[0])]
        anew += [(slot, *row) for row in as_rows(results[1])]
    ranged = evaluate_range(whole, plan, end - (slots - 1) * MINUTE, end, None, frequency, runner)

    assert carried
    assert carried == anew
    rows = zip(ranged.triggered_at_ms.tolist(), ranged.symbols, ranged.prices.tolist(), strict=True)
    columns = [repr([column[at] for column in ranged.values.values()]) for at in range(len(ranged.symbols))]
    told = [
        (slot, "t", symbol, price, shown) for (slot, symbol, price), shown in zip(rows, columns, strict=True)
    ]
    assert sorted(told) == carried


def test_one_symbol_alone_and_among_many_gets_the_same_value(compiler, runner, candles, panel_of):
    plan, end = plan_of(compiler, FILTERS["number"]), last_close(candles)
    panel = panel_of(*candles)

    whole = evaluate_range(panel, plan, end - 100 * MINUTE, end, each=runner)
    alone = evaluate_range(panel, plan, end - 100 * MINUTE, end, ["S2"], each=runner)

    own = [at for at, symbol in enumerate(whole.symbols) if symbol == "S2"]
    assert own
    assert alone.triggered_at_ms.tolist() == whole.triggered_at_ms[own].tolist()
    assert alone.values["x"] == [whole.values["x"][at] for at in own]


def test_a_symbol_too_young_for_the_function_is_not_asked(compiler, counting, candles, panel_of):
    plan = plan_of(
        compiler, "signal(each(lambda c: c[-1] > sum(c) / len(c), m1.close, bars=180, when=m1.close > 0))"
    )
    evaluator = Evaluator(panel_of(*candles), counting)
    evaluator.put("t", plan, None, "every_bar")

    slot = evaluator.evaluate(last_close(candles))

    assert not slot.failed
    assert counting.asked == [("fn", ["S0", "S1", "S2", "S3", "S4"])]  # S5 has 150 bars


def test_only_symbols_that_pass_when_are_asked(compiler, counting, candles, panel_of):
    plan = plan_of(compiler, "signal(each(lambda c: c[-1] > 0, m1.close, when=m1.close > m1.open))")
    panel = panel_of(*candles)
    evaluator = Evaluator(panel, counting)
    evaluator.put("t", plan, None, "every_bar")

    evaluator.evaluate(last_close(candles))

    frame = panel.frame("1m")
    rising = np.flatnonzero(frame.field("close")[:, -1] > frame.field("open")[:, -1])
    assert counting.asked == [("fn", [f"S{row}" for row in rising])]


def test_a_preview_of_one_symbol_asks_for_no_other(compiler, counting, candles, panel_of):
    plan, end = plan_of(compiler, FILTERS["everywhere"]), last_close(candles)

    evaluate_range(panel_of(*candles), plan, end - 5 * MINUTE, end, ["S3"], each=counting)

    assert {symbol for _, symbols in counting.asked for symbol in symbols} == {"S3"}


def test_equal_functions_of_several_traders_run_once(compiler, counting, candles, panel_of):
    plan = plan_of(compiler, FILTERS["condition"])
    other = plan_of(
        compiler, FILTERS["condition"].replace("signal(", "show(c=m1.close)\nsignal(m1.open > 0 and ")
    )
    evaluator = Evaluator(panel_of(*candles), counting)
    for key in range(5):
        evaluator.put(key, plan if key % 2 else other, None, "every_bar")

    evaluator.evaluate(last_close(candles))

    assert len(counting.asked) == 1


HOSTILE = {
    "endless loop": ("while c[-1] == 7: pass", "takes longer than 50 ms on S7"),
    "endless loop that catches": (
        "while c[-1] == 7:\n        try:\n            while True: pass\n        except BaseException: pass",
        "takes longer than 50 ms on S7",
    ),
    "huge numbers": ("x = 10\n    while c[-1] == 7: x *= x", "on S7"),
    "huge power": ("x = 9 ** 9 ** 9 if c[-1] == 7 else 0", "needs more than 32 MB on S7"),
    "memory": ("x = [0] * 10**9 if c[-1] == 7 else 0", "needs more than 32 MB on S7"),
    "memory doubling": ("x = 'a'\n    while c[-1] == 7: x += x", "needs more than 32 MB on S7"),
    "recursion": ("if c[-1] == 7: return f(c)", "makes calls more than 100 deep on S7"),
    "exception": (
        "1 / (c[-1] - 7)",
        "fails on S7: ZeroDivisionError: division by zero, in `1 / (c[-1] - 7)`",
    ),
    "long exception": ("raise ValueError('x\\n' * 10**6)", "f fails on S0: ValueError: x x x"),
    "list": ("if c[-1] == 7: return [1]", "gives a list on S7, not a number, True, False or None"),
    "long list": ("return [0] * 10**6", "gives a list on S0"),
    "text": ("return 'high'", "gives a str on S0"),
    "function": ("return f", "gives a function on S0"),
    "infinity": ("if c[-1] == 7: return float('inf')", "gives inf on S7, not a finite number"),
    "huge answer": ("return 10**400", "gives a number too large on S0"),
    "slow everywhere": ("for n in range(30_000): n + 1", "takes longer than 250 ms for all symbols"),
    "unknown name": ("return nope", "f fails on S0: NameError: name 'nope' is not defined"),
    "wrong arguments": ("return (lambda: 1)(2)", "f fails on S0: TypeError"),
    "prints of a gigabyte": (
        "for n in range(10): print('x' * 10**6)\n    1 / 0",
        "f fails on S0: ZeroDivisionError",
    ),
}
CALLS = [(f"S{at}", [[float(at)]]) for at in range(400)]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_function_is_stopped_and_blamed_by_symbol(name, runner, capfd):
    body, told = HOSTILE[name]
    started = time.monotonic()

    with pytest.raises(EachError) as caught:
        runner.run(f"def f(c):\n    {body}\n    return 1\n", "f", CALLS)

    assert told in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert time.monotonic() - started < SECONDS_MAX
    assert runner.run("f = lambda c: c[-1] * 2", "f", CALLS[:3]) == [0.0, 2.0, 4.0]
    assert capfd.readouterr() == ("", "")


def test_a_trader_whose_function_fails_fails_alone(compiler, candles, panel_of):
    hang = (
        "def f(c):\n    while c[-1] > 0: pass\n    return True\nsignal(each(f, m1.close, when=m1.close > 0))"
    )
    evaluator = Evaluator(panel_of(*candles), EachRunner())
    evaluator.put("hangs", plan_of(compiler, hang), None, "every_bar")
    evaluator.put("works", plan_of(compiler, FILTERS["everywhere"]), None, "every_bar")
    evaluator.put("plain", compiler.compile(GOOD).plan, None, "every_bar")
    alone = Evaluator(panel_of(*candles), EachRunner())
    alone.put("works", plan_of(compiler, FILTERS["everywhere"]), None, "every_bar")
    alone.put("plain", compiler.compile(GOOD).plan, None, "every_bar")

    for keys in (None, ["hangs", "works", "plain"]):
        slot = evaluator.evaluate(last_close(candles), keys)
        assert slot.failed == {"hangs": "each: f takes longer than 50 ms on S0"}
        assert as_rows(slot) == as_rows(alone.evaluate(last_close(candles), keys))


def test_after_a_failure_values_are_those_of_the_candles_again(compiler, runner, candles, panel_of):
    """What was carried past the slots that failed is computed anew."""
    one = candles[0]
    end = last_close(candles)
    poison = float(one.fields["close"][2, -5])
    text = (
        f"def f(c):\n    return 1 / (c[-1] - {poison!r})\n"
        "x = each(f, m1.close, when=m1.close > 0)\nshow(a=x[2], b=highest(x, 2))\nsignal(m1.close > 0)"
    )
    one.present[:] = True
    plan, panel = plan_of(compiler, text), panel_of(one, until_ms=end - 10 * MINUTE)
    evaluator = Evaluator(panel, runner)
    evaluator.put("t", plan, None, "every_bar")
    failed, rows = [], []
    for slot in range(end - 9 * MINUTE, end + MINUTE, MINUTE):
        panel.append("1m", *one.columns((one.open_time + MINUTE == slot)[None, :]))
        result = evaluator.evaluate(slot)
        failed.append(bool(result.failed))
        rows = as_rows(result)

    assert failed == [at in {5, 6, 7} for at in range(10)]  # while the bar is within reach
    fresh = Evaluator(panel_of(one), runner)
    fresh.put("t", plan, None, "every_bar")
    assert rows == as_rows(fresh.evaluate(end))
    assert len(rows) == 6


def test_nothing_is_left_behind_by_a_call(runner):
    source = (
        "import functools\nseen = []\ntable = {'n': 0}\n"
        "@functools.cache\ndef g(n):\n    seen.append(n)\n    return len(seen)\n"
        "def f(c, memo=[]):\n    memo.append(1)\n    table['n'] += 1\n    f_calls = g(c[-1])\n"
        "    return len(memo) * 100 + table['n'] * 10 + f_calls\n"
    )

    assert runner.run(source, "f", CALLS) == [111.0] * len(CALLS)


def test_the_same_inputs_give_the_same_answers(runner):
    source = "def f(c):\n    return sum(float(x) * at for at, x in enumerate({str(c[-1]), 'a', 'b', '7', '1e3'} - {'a', 'b'}))\n"
    first = runner.run(source, "f", CALLS)

    with EachRunner() as another:
        assert another.run(source, "f", CALLS) == first
    assert runner.run(source, "f", CALLS) == first


def test_a_function_may_answer_with_nothing(runner):
    answers = runner.run("f = lambda c: None if c[-1] > 1 else c[-1] > 0", "f", CALLS[:3])

    assert answers[:2] == [0.0, 1.0]
    assert math.isnan(answers[2])


def test_a_slot_has_time_for_so_many_functions_only():
    with EachRunner(slot_seconds=0.05) as runner:
        slow = "def f(c):\n    for n in range(20_000): n + 1\n    return 1\n"
        with pytest.raises(EachError, match=r"^your functions took [0-9.]+ s of this slot"):
            runner.run(slow, "f", CALLS)
        assert runner.spent_s > 0.05
        with pytest.raises(EachError, match=r"^your functions took [0-9.]+ s of this slot"):
            runner.run("f = lambda c: 1", "f", CALLS[:2])
        runner.begin()
        assert runner.run("f = lambda c: 1", "f", CALLS[:2]) == [1.0, 1.0]


def spinning(at):
    """A filter whose function never ends, each another one; striking its limit takes it 0.1 s."""
    return f"def f(c):\n    while c[-1] != {at}: pass\nsignal(each(f, m1.close) > 0)"


LIGHT = "signal(each(lambda c: c[-1] > 0, m1.close))"
USED_UP = "each: your functions took "


def put_all(evaluator, compiler, filters):
    for (owner, name), text in filters.items():
        evaluator.put((owner, name), plan_of(compiler, text), None, "every_bar", owner)


@pytest.mark.parametrize("light_is_first", [False, True])
@pytest.mark.parametrize(
    "keys", [None, [("A", at) for at in range(15)] + [("B", "light")]], ids=["all", "some"]
)
def test_a_greedy_user_takes_no_time_from_another(keys, light_is_first, compiler, candles, panel_of):
    """Whichever was added first, on both ways to evaluate; and all functions together stay within the slot's time."""
    greedy = {("A", at): spinning(at) for at in range(15)}
    light = {("B", "light"): LIGHT}
    with EachRunner(slot_seconds=0.8) as runner:
        evaluator = Evaluator(panel_of(*candles), runner)
        put_all(evaluator, compiler, light | greedy if light_is_first else greedy | light)

        for _ in range(2):
            slot = evaluator.evaluate(last_close(candles), keys)

            assert slot.failed.keys() == greedy.keys()
            assert [hits.key for hits in slot.hits] == [("B", "light")]
            assert slot.failed["A", 0] == "each: f takes longer than 50 ms on S0"
            assert slot.failed["A", 14].startswith(USED_UP)
            assert runner.spent_s < 0.8 + limits.REQUEST_SECONDS_MAX
            evaluator = Evaluator(evaluator.panel, runner)  # fresh, or what failed is not due again
            put_all(evaluator, compiler, light | greedy if light_is_first else greedy | light)


def test_a_user_who_is_alone_has_all_the_time(compiler, candles, panel_of):
    with EachRunner(slot_seconds=0.8) as runner:
        evaluator = Evaluator(panel_of(*candles), runner)
        put_all(evaluator, compiler, {("A", at): spinning(at) for at in range(15)} | {("B", "edited"): LIGHT})
        evaluator.put(("B", "edited"), compiler.compile(GOOD).plan, None, "every_bar", "B")

        evaluator.evaluate(last_close(candles))

        assert runner.spent_s >= 0.8


def test_who_needed_little_in_the_slot_before_comes_before_who_is_unknown(
    compiler, counting, candles, panel_of
):
    panel, known = panel_of(*candles), {("B", "light"): LIGHT}
    unknown = {
        (owner, 0): f"def new{owner}(c): return c[-1] > {owner}\nsignal(each(new{owner}, m1.close))"
        for owner in range(3)
    }
    for filters in (known, unknown | known):
        evaluator = Evaluator(panel, counting)
        put_all(evaluator, compiler, filters)
        evaluator.evaluate(last_close(candles))

    assert [name for name, _ in counting.asked] == ["fn", "fn", "new0", "new1", "new2"]


def test_who_has_no_time_left_is_told_what_it_took():
    slow = "def f(c):\n    for n in range(20_000): n + 1\n    return 1\n"
    with EachRunner(slot_seconds=0.2) as runner:
        runner.begin({"own": ["A"], "shared": ["A", "B"]})
        with pytest.raises(EachError, match=r"^your functions took [\d.]+ s of this slot, all the time"):
            runner.run(slow, "f", CALLS, "own")  # the common half and A's own quarter
        with pytest.raises(EachError, match=r"^your functions took at least [\d.]+ s of this slot"):
            runner.run(slow, "f", CALLS, "shared")


NESTED = "x = each(lambda c: c[-1] * 2, m1.close)\nsignal(each(lambda x: x[-1] > 0, x))"


def test_a_function_of_a_functions_values_still_finds_time_after_greedy_ones(compiler, candles, panel_of):
    """It is asked for when the others are done and have used up all that is common: its user's own part is left."""
    with EachRunner(slot_seconds=0.8) as runner:
        evaluator = Evaluator(panel_of(*candles), runner)
        greedy = {("A", at): spinning(at) for at in range(15)}
        put_all(evaluator, compiler, greedy | {("B", "nested"): NESTED})

        slot = evaluator.evaluate(last_close(candles))

        assert slot.failed.keys() == greedy.keys()
        assert [hits.key for hits in slot.hits] == [("B", "nested")]


def test_a_function_two_users_have_runs_while_one_of_them_has_time(compiler, candles, panel_of):
    with EachRunner(slot_seconds=0.8) as runner:
        evaluator = Evaluator(panel_of(*candles), runner)
        greedy = {("A", at): spinning(at) for at in range(15)}
        put_all(evaluator, compiler, greedy | {("A", "nested"): NESTED, ("B", "nested"): NESTED})

        slot = evaluator.evaluate(last_close(candles))

        assert slot.failed.keys() == greedy.keys()
        assert [hits.key for hits in slot.hits] == [("A", "nested"), ("B", "nested")]


def test_a_trader_that_fails_where_the_bar_before_is_asked_for_says_so(compiler, runner, candles, panel_of):
    """The condition one bar ago of a new trader is computed only where it matches; a failure there was silent."""
    one = candles[0]
    one.present[:] = True
    poison = float(one.fields["close"][2, -2])
    text = f"def f(c): return 1 / (c[-1] - {poison!r})\nsignal(each(f, m1.close) < 10 ** 9)"
    evaluator = Evaluator(panel_of(one), runner)
    evaluator.put("t", plan_of(compiler, text), None, "on_enter")

    slot = evaluator.evaluate(last_close(candles))

    assert slot.failed["t"].startswith("each: f fails on S2: ZeroDivisionError")


def test_a_process_that_dies_is_replaced_unseen(monkeypatch):
    with EachRunner() as runner:
        assert runner.run("f = lambda c: 1", "f", CALLS[:2]) == [1.0, 1.0]
        feeds = []
        unharmed = EachRunner._fed

        def dies_once(self, *given):
            if not feeds:
                feeds.append(1)
                with self._opened().checkout() as session:
                    import os
                    import signal

                    os.kill(session.worker_pid, signal.SIGKILL)
            return unharmed(self, *given)

        monkeypatch.setattr(EachRunner, "_fed", dies_once)
        assert runner.run("f = lambda c: c[-1]", "f", CALLS) == [float(at) for at in range(400)]


def test_a_worker_has_no_secret_and_a_bound(monkeypatch):
    monkeypatch.setenv("VYX_JWT_SECRET", "hush")
    with EachRunner() as runner:
        runner.run("f = lambda c: 1", "f", CALLS)
        with runner._opened().checkout() as session:
            assert (Path("/proc") / str(session.worker_pid) / "environ").read_bytes() == b""


def test_without_an_interpreter_the_trader_fails_and_says_so(compiler, candles, panel_of):
    evaluator = Evaluator(panel_of(*candles))
    evaluator.put("t", plan_of(compiler, FILTERS["everywhere"]), None, "every_bar")

    slot = evaluator.evaluate(last_close(candles))

    assert slot.failed == {
        "t": "each() cannot be evaluated here: there is no interpreter to run its function"
    }


def node(**params):
    given = {"name": "f", "source": "f = lambda c: 1", **params}
    close = {"op": "bars", "params": {"timeframe": "1m", "field": "close"}}
    return [
        close,
        {"op": "eq", "args": [0, 0]},
        {"op": "each", "args": [1, 0], "params": given},
        {"op": "ne", "args": [2, 0]},
    ]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"source": "f = lambda c: 1 #" + "x" * FUNCTION_BYTES_MAX}, "has 4113 bytes, at most 4096"),
        ({"source": "f = lambda c: ("}, "cannot be read"),
        ({"source": "f = lambda c: " + "(" * 500 + ")" * 500}, "cannot be read"),
        ({"source": "f = 1"}, "defines no function 'f'"),
        ({"source": ""}, "defines no function 'f'"),
        ({"name": "g"}, "defines no function 'g'"),
        ({"name": "f()"}, "defines no function"),
        ({"source": "import os\nf = lambda c: 1"}, "no module 'os'"),
        ({"source": "import time\nf = lambda c: time.time()"}, "no module 'time'"),
        ({"source": "import random\nf = lambda c: random.random()"}, "no module 'random'"),
        ({"source": "f = lambda c: open('x')"}, "no open()"),
        ({"source": "f = lambda c: ().__class__"}, "no __class__"),
        ({"source": "f = lambda c: id(c)"}, "does not give the same answer"),
        ({"source": "def f(c):\n    global n\n    n = 1\n"}, "nothing is kept"),
        ({"source": "f = lambda c: 1\nwhile True: pass"}, "only functions, plain values and imports"),
        ({"source": "f = lambda c: 1\nclass A: pass"}, "only functions, plain values and imports"),
        ({"source": "f = lambda c: vyx_at"}, "reserved"),
        ({"source": "f = lambda c: 1\0"}, "cannot be read"),
        ({"source": 3}, "source must be str"),
        ({"bars": BARS_MAX + 1}, "bars must be 1 to 500"),
        ({"bars": 0}, "bars must be 1 to 500"),
        ({"seconds": 60}, "no parameter 'seconds'"),
    ],
)
def test_a_plan_edited_by_hand_is_refused_with_the_reason(params, reason):
    with pytest.raises(PlanError) as caught:
        load_plan({"version": PLAN_VERSION, "nodes": node(**params), "signal": 3, "show": {}})

    assert reason in caught.value.message
    assert caught.value.node == 2


def test_a_function_is_called_where_a_condition_says_so():
    nodes = node()
    nodes[2]["args"] = [0, 0]

    with pytest.raises(PlanError, match="takes conditions, not numbers"):
        build_plan(nodes, 3, {})


def test_a_plan_tells_that_it_calls_each(compiler):
    plan = plan_of(compiler, FILTERS["condition"])

    assert plan.calls_each
    assert plan.summary()["operators"] == ["each"]
    assert load_plan(plan.encode()).hash == plan.hash
    assert not compiler.compile(GOOD).plan.calls_each


def test_explain_names_the_function_and_tells_its_values(compiler, runner, candles, panel_of):
    compiled = compiler.compile(
        HEAD + "def none(c): return None\nsignal(each(none, m1.close, when=m1.close > 0) > 1)"
    )
    panel, end = panel_of(*candles), last_close(candles)

    told = explain(compiled.plan, compiled.terms, panel, end, "S0", runner)

    assert told.blame.startswith("condition false: line 3: each(none,")
    assert "each(none) has no value at this bar" in told.blame
    values = node_values(panel, compiled.plan, end, "S0", runner)
    assert values[compiled.plan.signal] is False


def test_what_a_function_uses_goes_with_it(compiler, runner, candles, panel_of):
    text = (
        "import math\nfrom itertools import accumulate as running\n"
        "LEVELS = {'a': (1, 2.5), 'b': [None, True, 'x\\u00e9', {3}, float('inf')]}\nperiod = 4\n"
        "def half(x): return x / 2 if x > 1 else twice(x)\n"
        "def twice(x): return half(x * 4)\n"
        "square = lambda x: x * x\n"
        "def f(c, *rest: list[float], scale: int = period) -> float:\n"
        "    'Everything at once.'\n"
        "    assert LEVELS['b'][4] > 10 and 3 in LEVELS['b'][3] and LEVELS['b'][2] == 'x\\u00e9'\n"
        "    return math.sqrt(square(half(c[-1]))) + LEVELS['a'][1] + scale + list(running(c))[0] * 0\n"
        "x = [each(lambda c, o: f(c) + n + o[-1] * 0, m1.close, m1.open, bars=2, when=m1.close > 0) for n in (1, 2)]\n"
        "show(one=x[0], two=x[1], close=m1.close)\nsignal(x[0] < x[1])"
    )
    end = last_close(candles)

    found = evaluate_range(panel_of(*candles), plan_of(compiler, text), end, end, each=runner)

    assert len(found.symbols) > 3
    for one, two, close in zip(found.values["one"], found.values["two"], found.values["close"], strict=True):
        assert one == pytest.approx(close / 2 + 2.5 + 4 + 1)
        assert two == pytest.approx(one + 1)


@pytest.mark.parametrize(
    ("function", "is_condition"),
    [
        ("lambda c: c[-1] > 1", True),
        ("lambda c: not c[-1]", True),
        ("lambda c: 1 < c[-1] < 2 and c[0] > 1", True),
        ("lambda c: any(x > 1 for x in c)", True),
        ("lambda c: True if c[-1] > 1 else None", True),
        ("lambda c: c[-1]", False),
        ("lambda c: c[-1] and c[-1] > 1", False),
        ("lambda c: 1 if c[-1] > 1 else 0", False),
    ],
)
def test_a_function_of_comparisons_is_a_condition(function, is_condition, compiler):
    compiled = compiler.compile(HEAD + f"signal(each({function}, m1.close, when=m1.close > 1))")

    assert (compiled.plan is not None) == is_condition
    if not is_condition:
        assert [item.code for item in compiled.diagnostics] == ["V202"]


def test_a_name_that_means_something_else_at_the_call_is_refused(compiler):
    text = "n = 1\ndef f(c): return c[-1] > n\ndef scan(n): return each(f, m1.close, when=m1.close > n)\nsignal(scan(2))"

    codes = [(item.code, item.line) for item in compiler.compile(HEAD + text).diagnostics]

    assert codes == [("V240", 3)]


def test_the_limits_told_are_the_limits():
    folder = Path(__file__).parents[3] / "docs" / "language"
    pages = [(folder / name).read_text(encoding="utf-8") for name in ("LIMITATIONS.md", "reference.md")]
    text = re.sub(r"\s+", " ", pages[0])
    for page in pages:
        assert f"{limits.CALL_SECONDS_MAX * 1000:g} ms" in page
        assert f"{limits.NODE_SECONDS_MAX * 1000:g} ms" in page
        assert f"{limits.MEMORY_BYTES_MAX // 10**6} MB" in page
        assert f"{FUNCTION_BYTES_MAX} bytes" in page
        assert re.search(rf"[Aa]t most {EACH_MAX}\b", page)
    assert f"{limits.RECURSION_MAX} calls deep" in text
    assert f"have {limits.SLOT_SECONDS_MAX:g} s of CPU a slot. Half of it" in text
    assert OWN_SHARE == 1 / 2
    assert f"at most {BARS_MAX} bars" in text


def test_a_call_that_was_given_no_cpu_time_is_made_again(monkeypatch):
    """The interpreter's limit is in wall-clock time: on a busy machine it strikes before a call has had its time."""
    impatient = {**limits._LIMITS[0], "max_feed_duration_secs": 0.0005}
    monkeypatch.setattr(limits, "_LIMITS", (impatient, limits._LIMITS[-1]))
    slow = "def f(c):\n    x = 0\n    for i in range(20000):\n        x = x + i\n    return x\n"

    with EachRunner() as runner:
        assert runner.run(slow, "f", [("S", [[1.0]])]) == [199990000.0]
        assert runner.spent_s > 0
