"""
Volatility contraction: each of three consecutive 20-bar ranges on 1h is tighter than the one before, volume dries up,
and price stays within 15 % of its 120-bar high. After Mark Minervini's VCP; the break itself is another filter.
"""

h1 = bars("1h")


def spread(bars_ago):
    """Height of the 20-bar range that ended some bars ago, in percent of its low."""
    top, bottom = highest(h1.high, 20)[bars_ago], lowest(h1.low, 20)[bars_ago]
    return 100 * (top / bottom - 1)


tightening = spread(0) < 0.8 * spread(20) and spread(20) < 0.8 * spread(40)
dry = ta.sma(h1.volume, 10) < 0.7 * ta.sma(h1.volume, 60)
near_high = h1.close > 0.85 * highest(h1.high, 120)

show(now=spread(0), before=spread(20), first=spread(40))
signal(tightening and dry and near_high)
