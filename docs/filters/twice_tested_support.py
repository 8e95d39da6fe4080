"""
Double bottom: two separate 15m lows within a third of a percent of each other, at least eight bars apart, with a
bounce of two percent between them, and now the first close above the bounce. The search for the two lows is plain
Python and runs only where a close breaks the highest of twelve bars in a 4h market that is not overheated.
"""

m15, h4 = bars("15m"), bars("4h")

NEAR = 0.0033
BOUNCE = 0.02
APART = 8


def neckline(highs, lows):
    """The highest high between the two lowest lows, when they make a double bottom; else None."""
    second = min(range(len(lows) - APART, len(lows)), key=lambda at: lows[at])
    if second < 2 * APART:
        return None
    first = min(range(second - APART), key=lambda at: lows[at])
    between = max(highs[first + 1 : second])
    level = max(lows[first], lows[second])
    if abs(lows[first] - lows[second]) > NEAR * level or between < (1 + BOUNCE) * level:
        return None
    return between


breaks = crossover(m15.close, highest(m15.high, 12)[1]) and ta.rsi(h4.close, 14) < 65
neck = each(neckline, m15.high, m15.low, bars=60, when=breaks)

show(neckline=neck, above_percent=100 * (m15.close / neck - 1))
signal(breaks and m15.close > neck)
