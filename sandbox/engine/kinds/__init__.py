"""How calls are computed, over a range of bars and by one bar: one module for each kind of operator, both ways in it."""
