"""
Keltner squeeze: for eight 5-minute bars the Bollinger Bands lay inside the Keltner Channel; now the close leaves the
channel upwards, with the channel's middle rising. Where ttm_squeeze spells both channels out, this uses `keltner`.
"""

m5 = bars("5m")

top_band, _, low_band = ta.bbands(m5.close, 20, 2, 2)
upper, middle, lower = keltner(m5.high, m5.low, m5.close, period=20, multiplier=1.5, atr_period=20)
inside = top_band < upper and low_band > lower
quiet = all(inside[n] for n in range(1, 9))

show(width=100 * (upper - lower) / middle)
signal(barssince(quiet) <= 3 and crossover(m5.close, upper) and rising(middle, 2))
