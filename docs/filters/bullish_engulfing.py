"""
Bullish engulfing at support: on 1h a candle swallows the body of the falling one before it, within one ATR of the
lowest low of 50 bars. TA-Lib's pattern functions give 100 for a bullish, -100 for a bearish and 0 for no pattern.
"""

h1 = bars("1h")

engulfing = ta.cdlengulfing(h1.open, h1.high, h1.low, h1.close) == 100
atr = ta.atr(h1.high, h1.low, h1.close, 14)
at_support = h1.low < lowest(h1.low, 50) + atr

show(atr_percent=100 * atr / h1.close)
signal(engulfing and at_support and h1.volume > h1.volume[1])
