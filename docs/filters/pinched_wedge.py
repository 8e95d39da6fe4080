"""
Falling wedge, drawn as a hand would: straight lines fitted through the last 30 hourly highs and lows both fall, the
upper one faster, so they close in on each other; then an hour closes above the upper line on volume. No operator fits
two lines and compares them, so `each` does, on the few symbols that are near their highs of the day before.
"""

h1 = bars("1h")
N = 30


def slope(values):
    mean = sum(values) / len(values)
    middle = (len(values) - 1) / 2
    rise = sum((x - middle) * (y - mean) for x, y in enumerate(values))
    return rise / sum((x - middle) ** 2 for x in range(len(values)))


def leaves_a_wedge(highs, lows, closes):
    upper, lower = slope(highs[:-1]), slope(lows[:-1])
    if not upper < lower < 0:
        return False
    mean = sum(highs[:-1]) / (len(highs) - 1)
    line = mean + upper * len(highs) / 2
    return closes[-1] > line >= closes[-2]


stirs = h1.volume > 1.5 * ta.sma(h1.volume, 20) and h1.close > highest(h1.high, 4)[1]

show(volume_ratio=h1.volume / ta.sma(h1.volume, 20))
signal(each(leaves_a_wedge, h1.high, h1.low, h1.close, bars=N, when=stirs))
