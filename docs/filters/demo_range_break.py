"""
Demo, 1m: the close leaves the range of the eight closes before it. Fires often.
"""

m1 = bars("1m")

top, bottom = highest(m1.close, 8)[1], lowest(m1.close, 8)[1]

show(side=1 if m1.close > top else -1, range_percent=100 * (top / bottom - 1))
signal(m1.close > top or m1.close < bottom)
