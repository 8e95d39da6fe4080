"""Machines, leases and wake-ups: who does what, decided by Postgres."""
