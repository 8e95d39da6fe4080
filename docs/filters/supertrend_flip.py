"""
SuperTrend flip: on 15m the SuperTrend turns up while the hour's points up already and the price is above the day's
VWAP. Alone the flip whipsaws in ranges; the slower trend and the day's buyers sort most of that out.
"""

m15, h1 = bars("15m"), bars("1h")

line, direction = supertrend(m15.high, m15.low, m15.close, 10, 3)
_, slower = supertrend(h1.high, h1.low, h1.close, 10, 3)
flip = direction == 1 and direction[1] == -1

show(stop=line, risk=100 * (m15.close / line - 1))
signal(flip and slower == 1 and m15.close > vwap(m15.high, m15.low, m15.close, m15.volume))
