"""
Mean reversion: the 15m close is more than 2.5 standard deviations under its 100-bar mean in a market without trend
(ADX below 20 on 1h). The distance is shown; a filter for exits would watch it come back to zero.
"""

m15, h1 = bars("15m"), bars("1h")

mean = ta.sma(m15.close, 100)
z = (m15.close - mean) / ta.stddev(m15.close, 100)
no_trend = ta.adx(h1.high, h1.low, h1.close, 14) < 20

show(z=z, mean=mean)
signal(crossunder(z, -2.5) and no_trend)
