"""From text to plan: what a right filter becomes, and that the compiler itself never fails."""

import concurrent.futures
import os
from pathlib import Path

import pytest
import talib

from sandbox.language.compiler import FilterCompiler
from sandbox.language.prelude.assemble import MA_TYPES
from sandbox.plan.document import load_plan

BREAKDOWN = '''"""Bearish breakdown: 15m close under the prior 20-bar low, on volume, in a 4h downtrend."""
m15, h4 = bars("15m"), bars("4h")

support = lowest(m15.low, 20)[1]                      # [1]: as of the bar before
heavy = m15.volume > 2 * ta.sma(m15.volume, 20)
downtrend = h4.close < ta.ema(h4.close, 50)

show(rsi=ta.rsi(m15.close, 14), volume_ratio=m15.volume / ta.sma(m15.volume, 20))
signal(crossunder(m15.close, support) and heavy and downtrend)
'''


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler() as compiler:
        yield compiler


def plan_of(compiler, source):
    compiled = compiler.compile(source)
    assert {item.code for item in compiled.diagnostics} <= {"V230"}, source
    return compiled.plan


def test_the_designs_example_compiles(compiler):
    compiled = compiler.compile(BREAKDOWN)

    assert compiled.diagnostics == []
    assert compiled.plan.trigger == "15m"
    assert compiled.plan.timeframes == ("15m", "4h")
    assert list(compiled.plan.show) == ["rsi", "volume_ratio"]
    assert load_plan(compiled.plan.encode()) == compiled.plan


def test_terms_name_the_conjuncts_and_the_shown_values(compiler):
    compiled = compiler.compile(BREAKDOWN)

    assert [(term.line, term.text) for term in compiled.terms] == [
        (9, "crossunder(m15.close, support)"),
        (5, "heavy = m15.volume > 2 * ta.sma(m15.volume, 20)"),
        (6, "downtrend = h4.close < ta.ema(h4.close, 50)"),
        (8, "rsi=ta.rsi(m15.close, 14)"),
        (8, "volume_ratio=m15.volume / ta.sma(m15.volume, 20)"),
    ]
    operators = [compiled.plan.nodes[term.node].op for term in compiled.terms]
    assert operators == ["crossunder", "lt", "lt", "ta.rsi", "div"]


HEAD = "m15 = bars('15m')\nclose, rsi = m15.close, ta.rsi(m15.close)\n"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("signal(close > 3)", "signal(3 < close)"),
        ("signal(20 < rsi < 80)", "signal(20 < rsi and rsi < 80)"),
        ("signal(not (close > 3 or rsi > 4))", "x = close > 3 or rsi > 4\nsignal(not x)"),
        ("signal((1 if close > 3 else 2) > 1)", "signal(where(close > 3, 1, 2) > 1)"),
        ("signal(all([close > n for n in (1, 2)]))", "signal(close > 1 and close > 2)"),
        ("signal(any(close > n for n in (1, 2)))", "signal(close > 1 or close > 2)"),
        ("signal((close > 3) & ~(rsi > 4))", "signal(close > 3 and not rsi > 4)"),
        (
            "ok = True\nfor n in (5, 9):\n    ok = ok and close > n\nsignal(ok)",
            "signal(close > 5 and close > 9)",
        ),
        ("def up(s, n=2):\n    return s > s[n]\nsignal(up(close))", "signal(close > close[2])"),
        ("signal((lambda s: s > 3)(close))", "signal(close > 3)"),
        ("signal(max(close, rsi, 3) > 5)", "signal(max([close, rsi, 3]) > 5)"),
        ("signal(sum([close, rsi]) > 5)", "signal(close + rsi > 5)"),
        ("signal(close > 3 if 1 < 2 else None)", "signal(close > 3)"),
        ("signal((close > 3 if rsi > 4 else False))", "signal(rsi > 4 and close > 3)"),
        ("signal((close > 3) == True)", "signal(close > 3)"),
        ("if 1 < 2 < 3:\n    signal(close > 3)", "signal(close > 3)"),
        ("signal(m15.hl2 > 3)", "signal((m15.high + m15.low) / 2 > 3)"),
        ("s = {'a': close}\nsignal(s['a'] > 3)", "signal(close > 3)"),
        (
            "range = close - rsi\nlist = range > 3\nsignal(20 < rsi < 80 and list)",
            "signal(20 < rsi < 80 and close - rsi > 3)",
        ),
        ("match 2:\n    case n if n > 1:\n        signal(close > n)", "signal(close > 2)"),
        ("signal(close > 3)  # é\n", "# ü\n\n\nsignal(close > 3)"),
        ("\r\nsignal(close > 3)\r\n", "signal(close > 3)"),
        ("name = f'{1 < 2!r:>5}'\nsignal(close > len(name))", "signal(close > 5)"),
        ("signal(close[1][2] > 3)", "signal(close[3] > 3)"),
    ],
)
def test_two_ways_of_writing_give_one_plan(compiler, left, right):
    assert plan_of(compiler, HEAD + left).hash == plan_of(compiler, HEAD + right).hash


def test_later_operands_are_not_evaluated_when_python_would_not(compiler):
    source = HEAD + "x = None\nsignal(close > 3 and (x is None or x.y))"

    assert plan_of(compiler, source).hash == plan_of(compiler, HEAD + "signal(close > 3)").hash


def test_the_middle_of_a_chain_is_evaluated_once(compiler):
    source = HEAD + (
        "calls = []\n"
        "def middle():\n    calls.append(1)\n    return rsi\n"
        "ok = 20 < middle() < 80\n"
        "signal(ok and close > len(calls))"
    )

    assert (
        plan_of(compiler, source).hash == plan_of(compiler, HEAD + "signal(20 < rsi < 80 and close > 1)").hash
    )


def test_a_worker_inherits_no_environment(compiler, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    with FilterCompiler(processes=1) as own, own._pool.checkout() as session:
        environment = Path(f"/proc/{session.worker_pid}/environ").read_bytes()

    assert environment == b""


def test_a_killed_worker_is_replaced_unseen():
    with FilterCompiler(processes=1) as compiler:
        for _ in range(3):
            with compiler._pool.checkout() as session:
                pid = session.worker_pid
            os.kill(pid, 9)

            assert compiler.compile(BREAKDOWN).diagnostics == []


def test_threads_share_a_compiler(compiler):
    sources = [HEAD + f"signal(close > {n})" for n in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        together = [compiled.plan.hash for compiled in threads.map(compiler.compile, sources)]

    assert together == [compiler.compile(source).plan.hash for source in sources]
    assert len(set(together)) == len(sources)


def test_one_filter_leaves_nothing_for_the_next(compiler):
    compiler.compile("leak = 5\nall = None\nTA = 3\nsignal(bars('1m').close > leak)")

    compiled = compiler.compile("signal(bars('1m').close > leak)")

    assert [item.code for item in compiled.diagnostics] == ["V101"]


def test_moving_averages_are_numbered_as_in_ta_lib(compiler):
    names = {name: number for name, number in vars(type(talib.MA_Type)).items() if name.isupper()}

    assert dict(zip(MA_TYPES, range(len(MA_TYPES)), strict=True)) == names
    by_name = plan_of(compiler, HEAD + "signal(ta.ma(close, 9, ta.MA_Type.T3) > rsi)")
    assert by_name.hash == plan_of(compiler, HEAD + "signal(ta.ma(close, 9, matype=8) > rsi)").hash
