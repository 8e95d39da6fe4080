"""Filters in every style people write Python in; each makes a plan without a word."""

import textwrap

import pytest

from sandbox.language.compiler import FilterCompiler

RIGHT = {
    "straight": """
        m5 = bars("5m")
        signal(m5.close > m5.open)
        """,
    "one line": """signal((m := bars("5m")).close > m.open)""",
    "function with default and annotation": """
        def above(series: Series, length: int = 20) -> Series:
            \"\"\"Over its average.\"\"\"
            return series > ta.sma(series, length)

        signal(above(bars("1h").close) and above(bars("4h").close, length=50))
        """,
    "early returns": """
        def grade(n):
            if n < 10:
                return 1
            elif n < 20:
                return 2
            return 3

        close = bars("1h").close
        signal(close > grade(5) and close < 1e6 * grade(25))
        """,
    "closure": """
        def over(level):
            def test(series):
                return series > level
            return test

        signal(over(3)(bars("1h").close))
        """,
    "nonlocal counter": """
        def counter():
            n = 0
            def step():
                nonlocal n
                n += 1
                return n
            return step

        step = counter()
        step()
        signal(bars("1h").close > step())
        """,
    "recursion": """
        def smooth(series, times):
            return series if times == 0 else smooth(ta.ema(series, 5), times - 1)

        close = bars("1h").close
        signal(crossover(close, smooth(close, 3)))
        """,
    "lambda table": """
        close = bars("1h").close
        averages = {"sma": lambda n: ta.sma(close, n), "ema": lambda n: ta.ema(close, n)}
        signal(averages["ema"](10) > averages["sma"](50))
        """,
    "reduce": """
        from functools import reduce
        close = bars("1h").close
        signal(reduce(lambda a, b: a and b, [close > ta.sma(close, n) for n in (10, 20, 50)]))
        """,
    "partial": """
        import functools
        fast = functools.partial(ta.ema, timeperiod=9)
        close = bars("1h").close
        signal(close > fast(close))
        """,
    "product": """
        import itertools
        close = bars("1h").close
        tests = [close > k * ta.sma(close, n) for n, k in itertools.product((10, 20), (0.9, 1.0))]
        signal(all(tests))
        """,
    "while loop": """
        close = bars("1h").close
        n, ok = 5, True
        while n < 100:
            ok = ok and close > ta.sma(close, n)
            n *= 2
        signal(ok)
        """,
    "for else and break": """
        close = bars("1h").close
        for n in (3, 7, 30):
            if n > 5:
                break
        else:
            n = 1
        signal(close > close[n])
        """,
    "plain class": """
        class Band:
            width = 2.0

            def __init__(self, series, length):
                self.middle = ta.sma(series, length)
                self.spread = self.width * ta.stddev(series, length)

            def upper(self):
                return self.middle + self.spread

        close = bars("1h").close
        signal(close > Band(close, 20).upper())
        """,
    "dataclass": """
        from dataclasses import dataclass

        @dataclass
        class Settings:
            fast: int = 12
            slow: int = 26

        s = Settings(slow=30)
        close = bars("1h").close
        signal(ta.ema(close, s.fast) > ta.ema(close, s.slow))
        """,
    "dict comprehension": """
        frames = {name: bars(name) for name in ["15m", "1h", "4h"]}
        signal(all(frame.close > frame.open for frame in frames.values()))
        """,
    "nested comprehension": """
        close = bars("1h").close
        grid = [[ta.sma(close, a * b) for a in (2, 3)] for b in (5, 7) if b > 5]
        signal(any(close > average for row in grid for average in row))
        """,
    "sum of scores": """
        m15 = bars("15m")
        tests = [m15.close > m15.open, m15.volume > ta.sma(m15.volume, 20), ta.rsi(m15.close) > 50]
        signal(sum(where(test, 1, 0) for test in tests) >= 2)
        """,
    "bools added": """
        m15 = bars("15m")
        signal((m15.close > m15.open) + (m15.close > m15.close[1]) >= 2)
        """,
    "bitwise": """
        m15 = bars("15m")
        signal((m15.close > m15.open) & ~(m15.volume < 10) | (m15.close < 1))
        """,
    "match": """
        mode = "trend"
        close = bars("1h").close
        match mode:
            case "trend":
                test = close > ta.sma(close, 50)
            case _:
                test = ta.rsi(close) < 30
        signal(test)
        """,
    "try": """
        levels = {"a": 3}
        try:
            level = levels["b"]
        except KeyError as missing:
            level = len(str(missing))
        finally:
            factor = 2
        signal(bars("1h").close > level * factor)
        """,
    "star arguments": """
        def every(*tests, **options):
            return all(tests) if options.get("all", True) else any(tests)

        h = bars("1h")
        prices = [h.high, h.low, h.close]
        signal(every(ta.atr(*prices) > 0.1, ta.adx(*prices, **{"timeperiod": 20}) > 25, all=False))
        """,
    "decorator": """
        def inverted(test):
            def other(*args):
                return not test(*args)
            return other

        @inverted
        def falling_knife(close):
            return close < ta.sma(close, 20)

        signal(falling_knife(bars("1h").close))
        """,
    "names of builtins": """
        h = bars("1h")
        open, high, low, close = h.open, h.high, h.low, h.close
        range = high - low
        sum = range + abs(close - open)
        min = lowest(sum, 10)
        list, str, len, any, isinstance = close > open, 1, 2, 3, 4
        signal(sum > min and list and 1 < ta.rsi(close) < 99)
        """,
    "chained and mixed": """
        d, h = bars("1d"), bars("1h")
        signal(d.low[1] < h.close < d.high[1] and not (h.volume == 0) and 20 <= ta.rsi(h.close) <= 80)
        """,
    "conditional expression in a call": """
        h = bars("1h")
        strong = ta.adx(h.high, h.low, h.close) > 25
        signal(h.close > (ta.ema(h.close, 20) if strong else ta.ema(h.close, 100)))
        """,
    "tuple outputs": """
        close = bars("1h").close
        macd, *_ = ta.macd(close)
        upper = ta.bbands(close)[0]
        signal(macd > 0 and close > upper)
        """,
    "text and numbers": """
        import math
        import re
        spec = "fast=12 slow=26"
        length = {key: int(value) for key, value in re.findall(r"(\\w+)=(\\d+)", spec)}
        close = bars(f"{int(math.sqrt(16))}h").close
        signal(ta.ema(close, length["fast"]) > ta.ema(close, length["slow"]))
        """,
    "sorted plain numbers": """
        close = bars("1h").close
        lengths = sorted({50, 10, 20}, reverse=True)
        print("lengths", lengths)
        assert lengths[0] == max(lengths) == 50
        signal(all(ta.sma(close, a) < ta.sma(close, b) for a, b in zip(lengths, lengths[1:])))
        """,
    "many lines": """
        h = bars("1h")
        signal(
            # trend
            h.close > ta.ema(h.close, 50)
            and (
                h.close > highest(h.high, 20)[1]  # break
                or h.low < lowest(h.low, 20)[1]
            )
            and not (
                h.volume
                < ta.sma(h.volume, 20)
            )
        )
        """,
    "main function": """
        def main():
            h = bars("1h")
            rsi = ta.rsi(h.close)
            show(rsi=rsi)
            signal(rsi < 30)

        main()
        """,
    "semicolons": """h = bars("1h"); c = h.close; show(c=c); signal(c > c[1]); pass""",
    "global": """
        level = 1
        def raise_level():
            global level
            level += 1
        raise_level()
        signal(bars("1h").close > level)
        """,
    "set and membership of plain values": """
        close = bars("1h").close
        chosen = [n for n in range(5, 60) if n in {7, 14, 28} and n not in (7,)]
        signal(any(ta.rsi(close, n) < 30 for n in chosen))
        """,
    "truth of plain values": """
        close = bars("1h").close
        names = [] or ["x"]
        extra = None
        level = extra if extra is not None else (3 if names and not extra else 4)
        signal(close > level and bool(names) or close < 0.1)
        """,
    "no space after keywords": """
        h = bars("1h")
        assert(1, 2)
        def f(a):
            return(a)>(1)
        signal(f(h.close)and(h.close>2)if(1)else(h.open>3)or not(h.low)<(1))
        """,
    "starred signal": """
        condition = [bars("1h").close > 1]
        signal(*condition)
        """,
    "aliases": """
        screen, averages = signal, ta
        close = bars("1h").close
        screen(condition=getattr(averages, "rsi")(timeperiod=3, real=close) > 1)
        """,
    "augmented": """
        x = bars("1h").close
        x += 1
        x **= 2
        x //= 3
        ok = True
        ok &= x > 1
        ok |= x < 0.5
        signal(ok)
        """,
    "mapped and filtered": """
        close = bars("1h").close
        averages = list(map(lambda n: ta.sma(close, n), filter(lambda n: n % 2, range(5, 12))))
        signal(all(close > average for average in averages))
        """,
    "mirror image by a loop": """
        h = bars("1h")
        sides = []
        for sign, outer in ((1, highest(h.high, 20)[1]), (-1, lowest(h.low, 20)[1])):
            sides.append(sign * h.close > sign * outer)
        signal(sides[0] or sides[1])
        """,
}


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize("style", RIGHT)
def test_a_right_filter_makes_a_plan_without_a_word(compiler, style):
    compiled = compiler.compile(textwrap.dedent(RIGHT[style]).strip())

    assert compiled.diagnostics == []
    assert compiled.plan is not None


def test_there_are_styles_enough():
    assert len(RIGHT) >= 25
