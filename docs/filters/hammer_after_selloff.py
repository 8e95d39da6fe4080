"""
Hammer after a sell-off: 4h closes fell at least 8 % within twelve bars, then a candle with a long lower wick closes
in its upper third, on more volume than any of the five before it. Written out instead of using ta.cdlhammer.
"""

h4 = bars("4h")

height = h4.high - h4.low
lower_wick = min(h4.open, h4.close) - h4.low
selloff = ta.rocp(h4.close, 12) < -0.08
hammer = lower_wick > 2 * abs(h4.close - h4.open) and h4.close > h4.high - height / 3

show(fall=100 * ta.rocp(h4.close, 12), wick=lower_wick / height)
signal(selloff and hammer and h4.volume > highest(h4.volume, 5)[1])
