"""
Squeeze release: Bollinger Bands were inside the Keltner Channel for at least six bars and have just come out, with
momentum (the close against the middle of its own range) already rising. After John Carter's TTM Squeeze.
"""

m30 = bars("30m")
length = 20

upper, middle, lower = ta.bbands(m30.close, length, 2, 2)
atr = ta.atr(m30.high, m30.low, m30.close, length)
basis = ta.ema(m30.close, length)
inside = upper < basis + 1.5 * atr and lower > basis - 1.5 * atr

six_bars = all(inside[n] for n in range(1, 7))
middle_of_range = (highest(m30.high, length) + lowest(m30.low, length)) / 2
momentum = m30.close - (middle_of_range + basis) / 2

show(momentum=momentum)
signal(six_bars and not inside and momentum > 0 and rising(momentum, 2))
