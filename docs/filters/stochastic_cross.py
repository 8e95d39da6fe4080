"""
Stochastic cross in the oversold zone, in the direction of the trend: %K crosses above %D below 20 on 30m while the
daily close is above its 50-day average.
"""

m30, day = bars("30m"), bars("1d")

k, d = ta.stoch(m30.high, m30.low, m30.close, fastk_period=14, slowk_period=3, slowd_period=3)

show(k=k, d=d)
signal(crossover(k, d) and max(k, d) < 20 and day.close > ta.sma(day.close, 50))
