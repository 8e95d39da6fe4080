"""
A trend begins: ADX on 4h rises through 25 after at least ten bars below it, with +DI on top. Wilder's own threshold.
"""

h4 = bars("4h")

prices = h4.high, h4.low, h4.close
adx = ta.adx(*prices, timeperiod=14)
plus, minus = ta.plus_di(*prices), ta.minus_di(*prices)
quiet = highest(adx, 10)[1] < 25

show(adx=adx, plus_di=plus, minus_di=minus)
signal(quiet and adx >= 25 and plus > minus)
