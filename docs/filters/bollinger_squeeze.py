"""
Bollinger squeeze: the bands on 1h were narrower than on nine of ten of the last 125 bars, and now the close leaves
them. John Bollinger's reading: low volatility comes before high volatility; the break gives the side.
"""

h1 = bars("1h")

upper, middle, lower = ta.bbands(h1.close, 20, 2, 2)
width = (upper - lower) / middle
squeezed = percentrank(width, 125)[1] < 10

show(width=100 * width, side=where(h1.close > middle, 1, -1))
signal(squeezed and (h1.close > upper or h1.close < lower))
