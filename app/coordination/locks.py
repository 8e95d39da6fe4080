"""
Every advisory lock of the service, in one place. SQL spells the numbers out; a test holds the two equal.

Session locks live on a direct connection (behind a transaction pooler they outlive their client); the others are transaction locks.
"""

FEED = (7002, 1)  # shared, by every writer of signals and trader events: sql lock_feed
SIGNAL_PARTITION = (7003, 1)  # making a month's partition: sql keep_signal_partition
ACTIVE_TRADERS = (7004, 1)  # counting near the global limit: sql check_quota
MACHINE = 7100  # session, (7100, boot_id): this process lives: sql machine_is_locked
INGEST = (7101, 1)  # session: the one machine that feeds the market data
