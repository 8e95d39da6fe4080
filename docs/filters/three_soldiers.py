"""
Three white soldiers after a bottom: three long rising 1h candles in a row, the first within ten bars of the lowest
low of 60. One filter for both sides: the mirror image (three black crows at a top) matches too, `side` tells which.
"""

h1 = bars("1h")

candle = h1.open, h1.high, h1.low, h1.close
soldiers = ta.cdl3whitesoldiers(*candle) > 0
crows = ta.cdl3blackcrows(*candle) < 0
after_bottom = barssince(h1.low <= lowest(h1.low, 60)) <= 10
after_top = barssince(h1.high >= highest(h1.high, 60)) <= 10

show(side=1 if soldiers else -1)
signal((soldiers and after_bottom) or (crows and after_top))
