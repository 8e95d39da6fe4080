"""
Pullback in an uptrend: on 4h the averages are stacked upwards; on 15m the RSI dipped below 35 within the last eight
bars and now turns up through 45 with the close back above its 20-bar EMA. Buys weakness, not strength.
"""

m15, h4 = bars("15m"), bars("4h")

uptrend = h4.close > ta.ema(h4.close, 9) > ta.ema(h4.close, 21)
rsi = ta.rsi(m15.close, 14)
dipped = barssince(rsi < 35) < 8
turning = crossover(rsi, 45) and m15.close > ta.ema(m15.close, 20)

show(rsi=rsi, bars_since_dip=barssince(rsi < 35))
signal(uptrend and dipped and turning)
