"""
Relative strength line: the price measured in Bitcoin reaches its highest of 50 bars before the price itself does, and
the coin is among the twenty that gained most on BTC. A line that leads its price is William O'Neil's sign.
"""

m15, btc = bars("15m"), symbol("BTCUSDT").bars("15m")

line = m15.close / btc.close
leads = line > highest(line, 50)[1] and m15.close < highest(m15.high, 50)[1]
ahead = ta.rocp(line, 24)

show(ahead=100 * ahead, place=rank(ahead))
signal(leads and not leads[1] and top(ahead, 20))
