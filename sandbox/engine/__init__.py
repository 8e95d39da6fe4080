"""From plans and candles to matches."""
