"""
Volume climax: the hour's volume is the largest of 120 hours and more than five times the average, with a range of
more than three ATR. Often an end, sometimes a beginning: the side of the close is shown.
"""

h1 = bars("1h")

ratio = h1.volume / ta.sma(h1.volume, 120)[1]
atr = ta.atr(h1.high, h1.low, h1.close, 50)[1]
place = (h1.close - h1.low) / (h1.high - h1.low)

show(ratio=ratio, ranges=(h1.high - h1.low) / atr, place=place)
signal(h1.volume >= highest(h1.volume, 120) and ratio > 5 and h1.high - h1.low > 3 * atr)
