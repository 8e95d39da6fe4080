"""
Breakout on volume: the hourly close leaves a 48-bar range upwards with a full-bodied candle and 1.5 times the usual
volume. The close has to be in the upper quarter of its candle, so that a wick alone does not count.
"""

h1 = bars("1h")

ceiling = highest(h1.high, 48)[1]
body = abs(h1.close - h1.open) / (h1.high - h1.low)
near_high = h1.close > h1.high - 0.25 * (h1.high - h1.low)
volume_ratio = h1.volume / ta.sma(h1.volume, 48)

show(volume_ratio=volume_ratio, above=100 * (h1.close / ceiling - 1))
signal(h1.close > ceiling and body > 0.6 and near_high and volume_ratio > 1.5)
