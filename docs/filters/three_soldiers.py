"""
Three white soldiers after a bottom: three long rising 4h candles in a row, the first within ten bars of the lowest
low of 60. One filter for both sides: the mirror image (three black crows at a top) matches too, `side` tells which.
"""

h4 = bars("4h")

candle = h4.open, h4.high, h4.low, h4.close
soldiers = ta.cdl3whitesoldiers(*candle) > 0
crows = ta.cdl3blackcrows(*candle) < 0
after_bottom = barssince(h4.low <= lowest(h4.low, 60)) <= 10
after_top = barssince(h4.high >= highest(h4.high, 60)) <= 10

show(side=1 if soldiers else -1)
signal((soldiers and after_bottom) or (crows and after_top))
