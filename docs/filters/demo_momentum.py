"""
Demo, 1m: RSI of seven bars rises through 60 with the close above the one of three bars ago. Fires often.
"""

m1 = bars("1m")

rsi = ta.rsi(m1.close, 7)

show(rsi=rsi, change_percent=100 * (m1.close / m1.close[3] - 1))
signal(crossover(rsi, 60) and m1.close > m1.close[3])
