"""
Momentum rank: the coin enters the ten strongest of the whole market by its gain of 24 hours, in an uptrend of its own
and on a rising hour. Rotation systems buy what is strongest among all, not what is strong by itself.
"""

h1 = bars("1h")

gain = 100 * ta.rocp(h1.close, 24)
leader = top(gain, 10)

show(gain=gain, place=rank(gain), turnover_place=rank(h1.close * h1.volume))
signal(leader and not leader[1] and h1.close > ta.ema(h1.close, 50) and h1.close > h1.open)
