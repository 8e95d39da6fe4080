"""
Oversold on three timeframes at once: RSI below 30 on 15m, 1h and 4h, and the 15m candle closes green. Scores are
added up, so that two of three can be asked for by changing one number.
"""

frames = {name: bars(name) for name in ("15m", "1h", "4h")}
rsi = {name: ta.rsi(frame.close, 14) for name, frame in frames.items()}
score = sum(where(value < 30, 1, 0) for value in rsi.values())

m15 = frames["15m"]
show(rsi_15m=rsi["15m"], rsi_1h=rsi["1h"], rsi_4h=rsi["4h"])
signal(score >= 3 and m15.close > m15.open)
