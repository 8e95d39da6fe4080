"""
Bearish breakdown: the 15-minute close falls through the low of the 20 bars before it, on twice the usual volume,
while the 4-hour trend points down. Breaks against the higher trend fail more often; volume tells a break from noise.
"""

m15, h4 = bars("15m"), bars("4h")

support = lowest(m15.low, 20)[1]  # [1]: as of the bar before
heavy = m15.volume > 2 * ta.sma(m15.volume, 20)
downtrend = h4.close < ta.ema(h4.close, 20)

show(rsi=ta.rsi(m15.close, 14), volume_ratio=m15.volume / ta.sma(m15.volume, 20))
signal(crossunder(m15.close, support) and heavy and downtrend)
