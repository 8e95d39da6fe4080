"""
Stronger than Bitcoin: while BTC lost at least 2 % in twelve hours, the coin gained, on more volume than usual.
Relative strength in a falling market often leads the next upswing.
"""

h1, btc = bars("1h"), symbol("BTCUSDT").bars("1h")

btc_change = ta.rocp(btc.close, 12)
own_change = ta.rocp(h1.close, 12)
volume = ta.sma(h1.volume, 12) / ta.sma(h1.volume, 96)

show(own=100 * own_change, btc=100 * btc_change, volume=volume)
signal(btc_change < -0.02 and own_change > 0.01 and volume > 1.2)
