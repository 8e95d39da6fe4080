"""
Turtle entry: a 4h close above the high of the 20 bars before, skipped when the last such breakout is less than 20
bars ago. The unit (2 ATR) is shown for sizing. After the Turtles' System 1.
"""

h4 = bars("4h")

channel = highest(h4.high, 20)[1]
breakout = crossover(h4.close, channel)
unit = 2 * ta.atr(h4.high, h4.low, h4.close, 20)

show(channel=channel, stop=h4.close - unit)
signal(breakout and nz(barssince(breakout)[1], 500) >= 20)
