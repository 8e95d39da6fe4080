"""
Swing break: on 15m the close crosses the last confirmed swing high while price is above the Ichimoku cloud and
StochRSI is not overbought yet. A swing high is confirmed five bars later, so the level never moves afterwards.
"""

m15 = bars("15m")

pivot = pivot_high(m15.high, 5, 5)
level = valuewhen(pivot > 0, pivot)
_, _, span_a, span_b = ichimoku(m15.high, m15.low)
above_cloud = m15.close > max(span_a[26], span_b[26])
k, d = stochrsi(m15.close)

show(level=level, k=k, d=d)
signal(crossover(m15.close, level) and above_cloud and k < 90)
