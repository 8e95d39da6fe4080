"""Starts interpreter processes for users' code, limits them and shares their time."""
