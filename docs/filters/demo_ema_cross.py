"""
Demo, 1m: a fast average crosses a slow one, in either direction. Fires often: something to watch on any market.
"""

m1 = bars("1m")

fast, slow = ta.ema(m1.close, 3), ta.ema(m1.close, 8)

show(side=where(fast > slow, 1, -1), rsi=ta.rsi(m1.close, 14))
signal(crossover(fast, slow) or crossunder(fast, slow))
