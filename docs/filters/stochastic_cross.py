"""
Stochastic cross in the oversold zone, in the direction of the trend: %K crosses above %D below 20 on 30m while the
4h close is above its 20-bar average.
"""

m30, h4 = bars("30m"), bars("4h")

k, d = ta.stoch(m30.high, m30.low, m30.close, fastk_period=14, slowk_period=3, slowd_period=3)

show(k=k, d=d)
signal(crossover(k, d) and max(k, d) < 20 and h4.close > ta.sma(h4.close, 20))
