"""
Bullish divergence: price makes a lower low than at the previous dip of the RSI below 30, but the RSI does not. A dip
is a bar on which the RSI turns up from below 30; `valuewhen` looks up price and RSI at this dip and the one before.
"""

h1 = bars("1h")

rsi = ta.rsi(h1.close, 14)
dip = rsi[1] < 30 and rsi > rsi[1] and rsi[1] < rsi[2]

low_now, low_before = valuewhen(dip, h1.low[1], 0), valuewhen(dip, h1.low[1], 1)
rsi_now, rsi_before = valuewhen(dip, rsi[1], 0), valuewhen(dip, rsi[1], 1)

show(low_now=low_now, low_before=low_before, rsi_now=rsi_now, rsi_before=rsi_before)
signal(dip and low_now < low_before and rsi_now > rsi_before + 3)
