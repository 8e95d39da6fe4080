"""
NR7 and inside bar: the day before had the narrowest range of seven and lay inside its predecessor; today an hourly
close leaves it. Toby Crabel's set-up for opening range breakouts, here on UTC days.
"""

h1, day = bars("1h"), bars("1d")

height = day.high - day.low
narrowest = height <= lowest(height, 7)
inside = day.high < day.high[1] and day.low > day.low[1]

show(height_percent=100 * height / day.close)
signal(narrowest and inside and (crossover(h1.close, day.high) or crossunder(h1.close, day.low)))
