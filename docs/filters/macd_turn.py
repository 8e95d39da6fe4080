"""
MACD turn below zero: the histogram on 1h was negative for ten bars and has risen three bars in a row up to a cross
of the signal line, while the 4h histogram already points up. Catches early turns of a downswing.
"""

h1, h4 = bars("1h"), bars("4h")

line, signal_line, histogram = ta.macd(h1.close, 12, 26, 9)
_, _, slow_histogram = ta.macd(h4.close, 12, 26, 9)
long_negative = highest(histogram, 10)[1] < 0

show(macd=line, histogram=histogram)
signal(crossover(line, signal_line) and line < 0 and long_negative and slow_histogram > slow_histogram[1])
