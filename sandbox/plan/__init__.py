"""
What a filter compiles to: timeframes, axes, operators, the plan document and the text a plan may hold.

The lowest room: it imports nothing of the other three.
"""
