"""
Breakout in progress: the hour is still open, but it trades above the highest of the 24 closed hours before it and has
already more volume than a whole usual hour. Told in the minute it happens, once in each hour, not when the hour has
closed: earlier, and sometimes wrong, since the hour may yet close below. Compare breakout_volume, which waits.
"""

now, closed = bars("1h", forming=True), bars("1h")

ceiling = highest(now.high, 24)[1]  # [1]: the closed hours, as seen from the one in progress
usual = ta.sma(closed.volume, 24)

show(above=100 * (now.close / ceiling - 1), volume_ratio=now.volume / usual)
signal(now.close > ceiling and now.volume > usual)
