"""
Golden cross with a filter: the 50-day average crosses above the 200-day one while the slow average is not falling
any more. The plain cross is late and whipsaws in ranges; the slope condition drops most of those.
"""

day = bars("1d")

fast, slow = ta.sma(day.close, 50), ta.sma(day.close, 200)

show(fast=fast, slow=slow)
signal(crossover(fast, slow) and slow >= slow[5])
