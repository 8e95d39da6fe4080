"""
What a slot costs: many different traders over one market, beside the loops people write instead.

    python bench/screening.py --traders 100000 --json

Market: random walks, --symbols x --bars candles of 1m 5m 15m 1h 4h 1d. Traders (seeded, all different): trigger
timeframe 15/20/25/25/10/5 %; four conditions each, one of each row:
  momentum   RSI, MFI, CCI, Stochastic or Williams %R below or above a level
  volume     volume above a multiple of its SMA
  trend      close above or below an SMA or EMA, half of them on a coarser timeframe
  entry      breakout of highest/lowest, EMA cross, Bollinger band, MACD cross, or SuperTrend
A period or multiple is one of the usual values (7 9 14 20 26 50 100 200 ...; 1.5 2 2.5 3) in 70 % of the draws, else uniform
over its range (multiples in steps of 0.1); levels are whole numbers. 30 % are "on enter"; all show a value. With --forming
that share of the traders reads all its bars in progress, and is due every minute.

The slot measured is the dearest ordinary one: a bar of every timeframe closes, so every trader is due. Slots with only
a new 1m bar, the first slot of a block of 128 1m bars (recursive functions begin new runs) and the first slot after a
start are told beside it; with --blocks the first slot of a block of each other timeframe, too. No two timeframes begin a
block in the same slot: their first bars close 1, 5, 15 ... minutes behind multiples of 128 minutes.

Times are processor seconds of this process (one thread), so a busy machine does not change them much.

The loop: the same trader as a user writes it, symbol by symbol, NumPy and TA-Lib over the same bars, `and` stopping at
the first false. The frame: the usual bot strategy, a pandas DataFrame per pair with an indicator column per term.
"""

import argparse
import gc
import json
import random
import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import talib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sandbox.engine.candles.panel import Panel
from sandbox.engine.replay import evaluate_range
from sandbox.engine.screen import Evaluator
from sandbox.plan.document import build_plan
from sandbox.plan.timeframes import TIMEFRAMES

USED = ("1m", "5m", "15m", "1h", "4h", "1d")
WEIGHTS = (15, 20, 25, 25, 10, 5)
DAY_MS = 86_400_000
USUAL = (2, 3, 5, 7, 8, 9, 10, 12, 13, 14, 20, 21, 25, 26, 30, 34, 50, 55, 89, 100, 144, 150, 200)
FIELDS = ("open", "high", "low", "close", "volume")


def midnight():
    """A midnight at which no timeframe begins a block of 128 bars."""
    day = 20_000
    while any(((day * DAY_MS) // (TIMEFRAMES[t] * 1000) - 1) % 128 in (0, 127) for t in USED):
        day += 1
    return day * DAY_MS


def block_begins(timeframe):
    """A slot at which the first bar of a block of this timeframe closes."""
    step = TIMEFRAMES[timeframe] * 1000
    return (20_000 * DAY_MS // (128 * step) + 1) * 128 * step + step


class Market:
    """Random-walk candles of every timeframe, some of them after the first slot."""

    def __init__(self, symbols, bars, slot=None, later=130):
        self.symbols, self.bars, self.slot = symbols, bars, slot or midnight()
        rng = np.random.default_rng(1)
        self.later = later
        self.candles = {}
        for timeframe in USED:
            count = bars + (later if timeframe == "1m" else 2)
            close = 100 * np.cumprod(1 + rng.normal(0, 2e-3, (symbols, count)), axis=1)
            opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
            spread = rng.exponential(1e-3, (2, symbols, count))
            high, low = (
                np.maximum(opened, close) * (1 + spread[0]),
                np.minimum(opened, close) * (1 - spread[1]),
            )
            step = TIMEFRAMES[timeframe] * 1000
            first = self.slot // step * step - bars * step  # the last of `bars` closes at or before the slot
            times = first + step * np.arange(count)
            self.candles[timeframe] = times, (opened, high, low, close, rng.lognormal(3, 1, (symbols, count)))

    def columns(self, timeframe, start, end):
        times, fields = self.candles[timeframe]
        rows = np.repeat(np.arange(self.symbols), end - start)
        return rows, np.tile(times[start:end], self.symbols), *(f[:, start:end].ravel() for f in fields)

    def closed(self, timeframe, instant):
        return int(
            np.searchsorted(self.candles[timeframe][0], instant - TIMEFRAMES[timeframe] * 1000, side="right")
        )

    def panel(self, instant):
        panel = Panel([f"S{row}USDT" for row in range(self.symbols)])
        for timeframe in USED:
            panel.load(timeframe, *self.columns(timeframe, 0, self.closed(timeframe, instant)))
        return panel

    def append(self, panel, instant):
        for timeframe in USED:
            have, closed = (
                len(panel.frame(timeframe)) + panel.frame(timeframe).first,
                self.closed(timeframe, instant),
            )
            if closed > have:
                panel.append(timeframe, *self.columns(timeframe, have, closed))


@dataclass
class Trader:
    """Four terms, each (kind, timeframe, parameters...)."""

    terms: tuple
    on_enter: bool
    forming: bool = False


def period(rng, low, high):
    usual = [value for value in USUAL if low <= value <= high]
    return rng.choice(usual) if rng.random() < 0.7 else rng.randint(low, high)


def multiple(rng, usual, low, high):
    return rng.choice(usual) if rng.random() < 0.7 else rng.randint(round(10 * low), round(10 * high)) / 10


def draw(rng):
    """One trader, as the module's docstring says."""
    own = rng.choices(USED, WEIGHTS)[0]
    coarser = rng.choice(USED[USED.index(own) :]) if rng.random() < 0.5 else own
    low = rng.random() < 0.5
    momentum = rng.choices(
        [
            ("rsi", own, period(rng, 2, 50), rng.randint(15, 40) if low else rng.randint(60, 85), low),
            ("mfi", own, period(rng, 5, 50), rng.randint(10, 30) if low else rng.randint(70, 90), low),
            (
                "cci",
                own,
                period(rng, 5, 60),
                rng.choice([-200, -150, -100]) if low else rng.choice([100, 150, 200]),
                low,
            ),
            (
                "stoch",
                own,
                rng.choice([5, 9, 14, 21]),
                rng.randint(10, 30) if low else rng.randint(70, 90),
                low,
            ),
            ("willr", own, period(rng, 5, 60), rng.randint(-95, -75) if low else rng.randint(-25, -5), low),
        ],
        (60, 10, 10, 12, 8),
    )[0]
    volume = ("volume", own, period(rng, 5, 100), multiple(rng, (1.2, 1.5, 2.0, 2.5, 3.0), 1.1, 5.0))
    trend = (rng.choice(["sma", "ema"]), coarser, period(rng, 10, 200), rng.random() < 0.6)
    fast = period(rng, 3, 30)
    entry = rng.choices(
        [
            ("breakout", own, period(rng, 5, 100), rng.random() < 0.6),
            ("cross", own, fast, fast + period(rng, 5, 100)),
            ("bands", own, period(rng, 10, 50), multiple(rng, (1.5, 2.0, 2.5, 3.0), 1.0, 3.0)),
            ("macd", own, rng.choice([(12, 26, 9), (8, 21, 5), (5, 35, 5), (8, 17, 9), (19, 39, 9)])),
            ("supertrend", own, rng.choice([7, 10, 14, 20]), multiple(rng, (2.0, 3.0, 4.0), 1.0, 5.0)),
        ],
        (35, 25, 20, 12, 8),
    )[0]
    return Trader((momentum, volume, trend, entry), rng.random() < 0.3)


def draw_different(count, seed=1, forming=0.0):
    rng, seen = random.Random(seed), {}
    while len(seen) < count:
        trader = draw(rng)
        seen.setdefault((trader.terms, trader.on_enter), trader)
    rng = random.Random(seed)
    return [replace(trader, forming=rng.random() < forming) for trader in seen.values()]


class Nodes(list):
    """Plan nodes under construction; *leaf* is the operator of candle fields."""

    def __init__(self, leaf="bars"):
        super().__init__()
        self.leaf = leaf

    def put(self, op, *args, out=0, **params):
        self.append({"op": op, "args": list(args), "params": params, "out": out})
        return len(self) - 1

    def field(self, timeframe, name):
        return self.put(self.leaf, timeframe=timeframe, field=name)

    def fields(self, timeframe, *names):
        return [self.field(timeframe, name) for name in names]


def term_nodes(n, term):  # noqa: PLR0911 - one kind after the other
    """The condition's node, and the value worth showing."""
    kind, timeframe, *rest = term
    close = n.field(timeframe, "close")
    hlc = n.fields(timeframe, "high", "low", "close")
    if kind in {"rsi", "mfi", "cci", "stoch", "willr"}:
        length, level, low = rest
        if kind == "rsi":
            value = n.put("ta.rsi", close, timeperiod=length)
        elif kind == "mfi":
            value = n.put("ta.mfi", *hlc, n.field(timeframe, "volume"), timeperiod=length)
        elif kind == "stoch":
            value = n.put("ta.stoch", *hlc, fastk_period=length)
        else:
            value = n.put(f"ta.{kind}", *hlc, timeperiod=length)
        return n.put("lt" if low else "gt", value, n.put("const", value=level)), value
    if kind == "volume":
        average = n.put("ta.sma", n.field(timeframe, "volume"), timeperiod=rest[0])
        bar = n.put("mul", n.put("const", value=rest[1]), average)
        return n.put("gt", n.field(timeframe, "volume"), bar), average
    if kind in {"sma", "ema"}:
        average = n.put(f"ta.{kind}", close, timeperiod=rest[0])
        return n.put("gt" if rest[1] else "lt", close, average), average
    if kind == "breakout":
        extreme = n.put("highest" if rest[1] else "lowest", hlc[0] if rest[1] else hlc[1], period=rest[0])
        before = n.put("shift", extreme, n=1)
        return n.put("gt" if rest[1] else "lt", close, before), before
    if kind == "cross":
        averages = [n.put("ta.ema", close, timeperiod=length) for length in rest]
        return n.put("crossover", *averages), averages[0]
    if kind == "bands":
        lower = n.put("ta.bbands", close, timeperiod=rest[0], nbdevup=rest[1], nbdevdn=rest[1], out=2)
        return n.put("lt", close, lower), lower
    if kind == "macd":
        fast, slow, signal = rest[0]
        lines = [
            n.put("ta.macd", close, fastperiod=fast, slowperiod=slow, signalperiod=signal, out=out)
            for out in (0, 1)
        ]
        return n.put("crossover", *lines), lines[0]
    line = n.put("ta.supertrend", *hlc, timeperiod=rest[0], multiplier=rest[1])
    return n.put("gt", close, line), line


def plan_of(trader):
    nodes = Nodes("forming" if trader.forming else "bars")
    terms = [term_nodes(nodes, term) for term in trader.terms]
    condition = nodes.put("and", *(condition for condition, _ in terms))
    return build_plan(nodes, condition, {"value": terms[0][1]})


def term_by_hand(term, c, bar):  # noqa: PLR0911 - one kind after the other
    """The term at one bar of one symbol, from its candle arrays up to that bar."""
    kind, _, *rest = term
    _, h, low_, x, v = (row[: bar + 1] for row in c)
    if kind in {"rsi", "mfi", "cci", "stoch", "willr"}:
        length, level, low = rest
        value = {
            "rsi": lambda: talib.RSI(x, length),
            "mfi": lambda: talib.MFI(h, low_, x, v, length),
            "cci": lambda: talib.CCI(h, low_, x, length),
            "stoch": lambda: talib.STOCH(h, low_, x, length)[0],
            "willr": lambda: talib.WILLR(h, low_, x, length),
        }[kind]()[-1]
        return value < level if low else value > level
    if kind == "volume":
        return v[-1] > rest[1] * v[-rest[0] :].mean()
    if kind == "sma":
        return x[-1] > x[-rest[0] :].mean() if rest[1] else x[-1] < x[-rest[0] :].mean()
    if kind == "ema":
        value = talib.EMA(x, rest[0])[-1]
        return x[-1] > value if rest[1] else x[-1] < value
    if kind == "breakout":
        return x[-1] > h[-rest[0] - 1 : -1].max() if rest[1] else x[-1] < low_[-rest[0] - 1 : -1].min()
    if kind == "cross":
        a, b = talib.EMA(x, rest[0]), talib.EMA(x, rest[1])
        return a[-1] > b[-1] and a[-2] <= b[-2]
    if kind == "bands":
        return x[-1] < talib.BBANDS(x, rest[0], rest[1], rest[1])[2][-1]
    if kind == "macd":
        a, b, _ = talib.MACD(x, *rest[0])
        return a[-1] > b[-1] and a[-2] <= b[-2]
    return x[-1] > talib.SUPERTREND(h, low_, x, rest[0], rest[1])[0][-1]


def by_hand(trader, market, candles):
    """Symbols that match now: four conditions, symbol by symbol, stopping at the first that is false."""
    return [
        row
        for row in range(market.symbols)
        if all(term_by_hand(term, candles[term[1]][row], market.bars - 1) for term in trader.terms)
    ]


def by_frame(trader, frames):
    """The same by DataFrames: indicator columns for each pair, then the last row."""
    found = []
    for pair in frames["1m"]:
        truth = True
        for term in trader.terms:
            df = frames[term[1]][pair].copy()
            term_columns(df, term)
            truth &= bool(df["signal"].iloc[-1])
        if truth:
            found.append(pair)
    return found


def term_columns(df, term):
    kind, _, *rest = term
    h, low_, x, v = df["high"], df["low"], df["close"], df["volume"]
    if kind in {"rsi", "mfi", "cci", "stoch", "willr"}:
        length, level, low = rest
        df["value"] = {
            "rsi": lambda: talib.RSI(x, length),
            "mfi": lambda: talib.MFI(h, low_, x, v, length),
            "cci": lambda: talib.CCI(h, low_, x, length),
            "stoch": lambda: talib.STOCH(h, low_, x, length)[0],
            "willr": lambda: talib.WILLR(h, low_, x, length),
        }[kind]()
        df["signal"] = df["value"] < level if low else df["value"] > level
    elif kind == "volume":
        df["average"] = talib.SMA(v, rest[0])
        df["signal"] = v > rest[1] * df["average"]
    elif kind in {"sma", "ema"}:
        df["average"] = getattr(talib, kind.upper())(x, rest[0])
        df["signal"] = x > df["average"] if rest[1] else x < df["average"]
    elif kind == "breakout":
        df["level"] = h.rolling(rest[0]).max().shift(1) if rest[1] else low_.rolling(rest[0]).min().shift(1)
        df["signal"] = x > df["level"] if rest[1] else x < df["level"]
    elif kind in {"cross", "macd"}:
        if kind == "cross":
            df["a"], df["b"] = talib.EMA(x, rest[0]), talib.EMA(x, rest[1])
        else:
            df["a"], df["b"], _ = talib.MACD(x, *rest[0])
        df["signal"] = (df["a"] > df["b"]) & (df["a"].shift(1) <= df["b"].shift(1))
    elif kind == "bands":
        df["lower"] = talib.BBANDS(x, rest[0], rest[1], rest[1])[2]
        df["signal"] = x < df["lower"]
    else:
        df["line"] = talib.SUPERTREND(h, low_, x, rest[0], rest[1])[0]
        df["signal"] = x > df["line"]


def seconds_of(action):
    began = time.process_time()
    action()
    return time.process_time() - began


def median_of(count, action):
    return statistics.median(seconds_of(action) for _ in range(count))


def measure_loops(market, traders, sample):
    """Seconds per trader of the hand loop and of the frame loop, and whether loop and engine agree."""
    candles = candles_by_symbol(market)
    frames = {
        t: {
            row: pd.DataFrame(dict(zip(FIELDS, candles[t][row], strict=True)))
            for row in range(market.symbols)
        }
        for t in USED
    }
    chosen = traders[:sample]
    loop = seconds_of(lambda: [by_hand(trader, market, candles) for trader in chosen]) / len(chosen)
    few = traders[: max(1, sample // 20)]
    frame = seconds_of(lambda: [by_frame(trader, frames) for trader in few]) / len(few)
    panel = market.panel(market.slot)
    evaluator = Evaluator(panel)
    for key, trader in enumerate(chosen):
        evaluator.put(key, plan_of(trader), None, "every_bar")
    hits = {h.key: [int(s[1:-4]) for s in h.symbols] for h in evaluator.evaluate(market.slot).hits}
    unequal = [
        key for key, trader in enumerate(chosen) if by_hand(trader, market, candles) != hits.get(key, [])
    ]
    return loop, frame, unequal


PROTOTYPE = Trader(
    (
        ("rsi", "5m", 14, 30, True),
        ("volume", "5m", 20, 1.5),
        ("sma", "5m", 200, True),
        ("breakout", "5m", 20, True),
    ),
    on_enter=False,
)


def candles_by_symbol(market):
    """What the loops read: for each timeframe and symbol five arrays, up to the slot."""
    rows = {
        t: ([np.ascontiguousarray(r[: market.bars]) for r in f] for f in market.candles[t][1]) for t in USED
    }
    return {t: list(zip(*fields, strict=True)) for t, fields in rows.items()}


def measure_first(market):
    """One trader on a fresh machine against its hand loop: seconds of both, and of a warm slot."""
    candles = candles_by_symbol(market)
    panel, plan = market.panel(market.slot - 300_000), plan_of(PROTOTYPE)
    market.append(panel, market.slot)

    def first():
        evaluator = Evaluator(panel)
        evaluator.put(0, plan, None, "every_bar")
        evaluator.evaluate(market.slot)

    def warm():
        evaluator = Evaluator(panel)
        evaluator.put(0, plan, None, "every_bar")
        evaluator.evaluate(market.slot - 300_000)
        return seconds_of(lambda: evaluator.evaluate(market.slot))

    hand = median_of(15, lambda: by_hand(PROTOTYPE, market, candles))
    return median_of(15, first), statistics.median(warm() for _ in range(15)), hand


def measure_slots(market, traders):
    """Seconds of the slots of a machine with these traders, and what was computed."""
    before = market.slot - 60_000
    panel = market.panel(before)
    evaluator = Evaluator(panel)
    put = seconds_of(
        lambda: [
            evaluator.put(key, plan_of(trader), None, "on_enter" if trader.on_enter else "every_bar")
            for key, trader in enumerate(traders)
        ]
    )
    cold = seconds_of(lambda: evaluator.evaluate(before))
    gc.collect()
    market.append(panel, market.slot)
    began = time.process_time()
    slot = evaluator.evaluate(market.slot)
    every = time.process_time() - began
    by_operator = dict(sorted(evaluator.seconds.items(), key=lambda item: -item[1]))
    minutes, blocks = [], []
    for minute in range(1, market.later):
        instant = market.slot + minute * 60_000
        if instant % 300_000 == 0:
            continue
        market.append(panel, instant)
        opens_block = (instant // 60_000 - 1) % 128 == 0
        if len(minutes) >= 5 and not opens_block:
            continue
        evaluator.evaluate(instant - 60_000)
        (blocks if opens_block else minutes).append(seconds_of(lambda at=instant: evaluator.evaluate(at)))
    return {
        "put_s": put, "cold_s": cold, "slot_s": every, "minute_s": statistics.median(minutes) if minutes else float("nan"),
        "block_s": max(blocks, default=float("nan")), "hits": len(slot.hits), "failed": len(slot.failed),
        "nodes_asked": slot.nodes_asked, "nodes_computed": slot.nodes_computed, "by_operator": by_operator,
        "evaluated": slot.evaluated,
    }  # fmt: skip


def measure_preview(market, repeat=5):
    panel, plan = market.panel(market.slot), plan_of(PROTOTYPE)
    step = TIMEFRAMES["5m"] * 1000
    return median_of(
        repeat, lambda: evaluate_range(panel, plan, market.slot - (market.bars - 1) * step, market.slot)
    )


def print_blocks(args, traders):
    """The slot with which a block of each timeframe begins; one market for each, since they lie far apart."""
    print("\nfirst slot of a block          slot s   of which anew   traders due")
    for timeframe in USED[1:]:
        slots = measure_slots(Market(args.symbols, args.bars, block_begins(timeframe), later=2), traders)
        anew = slots["by_operator"].get("anew", 0.0)
        print(
            f"  {timeframe:4}                       {slots['slot_s']:9.3f}   {anew:13.3f}   {slots['evaluated']:11}"
        )


def print_doubling(args):
    """Slot seconds while one thing doubles; a factor above 2 would be worse than linear."""
    print("\ndoubling                  slot s   factor")
    base = {"traders": min(args.traders, 12_500), "symbols": 100, "bars": 1000}
    for what, values in (("traders", [1, 2, 4, 8]), ("symbols", [1, 2, 4, 8]), ("bars", [1, 2, 4])):
        last = None
        for factor in values:
            shape = base | {what: base[what] * factor}
            market = Market(shape["symbols"], shape["bars"])
            took = measure_slots(market, draw_different(shape["traders"]))["slot_s"]
            told = "" if last is None else f"{took / last:6.2f}"
            print(f"{what:8} {shape[what]:8d}      {took:9.4f}   {told}")
            last = took


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traders", type=int, default=1000)
    parser.add_argument("--symbols", type=int, default=400)
    parser.add_argument("--bars", type=int, default=1000, help="history of each timeframe")
    parser.add_argument("--sample", type=int, default=60, help="traders that the loops are timed with")
    parser.add_argument(
        "--forming", type=float, default=0.0, help="share of the traders that read bars in progress"
    )
    parser.add_argument("--blocks", action="store_true", help="also: the slots with which blocks begin")
    parser.add_argument(
        "--doubling", action="store_true", help="also: the slot while traders, symbols, bars double"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()

    market, traders = Market(args.symbols, args.bars), draw_different(args.traders, forming=args.forming)
    first, warm, hand = measure_first(market)
    slots = measure_slots(market, traders)
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    loop, frame, unequal = measure_loops(market, traders, args.sample)
    preview = measure_preview(market)
    each = slots["slot_s"] / args.traders

    print(
        f"{args.traders} different traders, {args.symbols} symbols x {args.bars} bars x {len(USED)} timeframes, one core"
    )
    print(f"  slot with a bar of every timeframe   {slots['slot_s']:9.3f} s   {each * 1e6:9.1f} us a trader")
    print(f"  slot with a 1m bar only              {slots['minute_s']:9.3f} s")
    print(f"  first slot of a 128-bar 1m block     {slots['block_s']:9.3f} s")
    print(
        f"  first slot after a start             {slots['cold_s']:9.3f} s   (saving the traders {slots['put_s']:.1f} s)"
    )
    print(f"  peak memory                          {rss_mb:9.0f} MB")
    print(
        f"  nodes asked {slots['nodes_asked']}, computed {slots['nodes_computed']}; traders with hits {slots['hits']}"
    )
    print(
        f"loop by hand   {loop * 1e3:8.2f} ms a trader   {loop / each:10.0f} x   (disagreements: {len(unequal)})"
    )
    print(f"frame per pair {frame * 1e3:8.0f} ms a trader   {frame / each:10.0f} x")
    print(
        f"one trader, four conditions: first {first * 1e3:.2f} ms, then {warm * 1e3:.2f} ms; by hand {hand * 1e3:.2f} ms"
    )
    print(f"preview of {args.bars} bars, four conditions: {preview * 1e3:.0f} ms")
    print("seconds by operator (every timeframe's slot):")
    for name, took in list(slots["by_operator"].items())[:12]:
        print(f"  {name:16} {took:8.4f}")
    if args.blocks:
        print_blocks(args, traders)
    if args.doubling:
        print_doubling(args)
    if args.json:
        told = {
            "traders": args.traders, "symbols": args.symbols, "slot_s": round(slots["slot_s"], 4), "rss_mb": round(rss_mb),
            "us_per_trader": round(each * 1e6, 2), "ratio_loop": round(loop / each, 1), "ratio_frame": round(frame / each),
            "cold_ratio_loop": round(hand / first, 2), "warm_ratio_loop": round(hand / warm, 2),
            "minute_s": round(slots["minute_s"], 4), "block_s": round(slots["block_s"], 4),
            "cold_s": round(slots["cold_s"], 3), "preview_ms": round(preview * 1e3, 1),
            "nodes_asked": slots["nodes_asked"], "nodes_computed": slots["nodes_computed"],
            "disagreements": len(unequal),
        }  # fmt: skip
        print(json.dumps(told))


if __name__ == "__main__":
    main()
