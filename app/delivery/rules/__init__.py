"""What delivery decides, without I/O and without a clock: every function gets the instant it needs."""
