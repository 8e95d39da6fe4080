"""
Ribbon: eight EMAs from 10 to 80 bars stand in order, each above the slower one, and did not one bar ago. Shows how a
loop over plain numbers builds a condition.
"""

h1 = bars("1h")

averages = [ta.ema(h1.close, n) for n in range(10, 81, 10)]
in_order = all(fast > slow for fast, slow in zip(averages, averages[1:]))

show(spread=100 * (averages[0] / averages[-1] - 1))
signal(in_order and not in_order[1])
