"""How the values of calls of one shape move on by one bar: one module for each kind of operator."""
