"""
Market-breadth regime: more than 60 % of all coins stand above their 50-bar average and that share is rising, after it
was below 40 % within the last two days: the tide has turned. In that regime, coins that break their 24-bar high.
"""

h1 = bars("1h")

share = breadth(h1.close > ta.sma(h1.close, 50))
turned = share > 0.6 and share > share[3] and lowest(share, 48) < 0.4

show(breadth=100 * share, advancing=100 * breadth(h1.close > h1.close[1]))
signal(turned and crossover(h1.close, highest(h1.high, 24)[1]))
