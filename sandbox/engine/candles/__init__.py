"""Candles as arrays: one timeframe, its forming bar, and all timeframes of a market."""
