"""
Every advisory lock of the service, in one place; SQL spells the numbers out.

Session locks live on a direct connection (behind a transaction pooler they outlive their client); the others are transaction locks.
"""

from __future__ import annotations

import re

from app.store.queries import SQL_DIR

FEED = (7002, 1)  # shared, by every writer of signals and trader events: sql lock_feed
SIGNAL_PARTITION = (7003, 1)  # making a month's partition: sql keep_signal_partition
ACTIVE_TRADERS = (7004, 1)  # counting near the global limit: sql check_quota
TRADER_COUNTS = (7007, 1)  # adding up the kept numbers of traders: sql fold_trader_counts_v1
CHECK = (7006, 1)  # comparing the coordination tables: sql check_coordination_v1
TROUBLES = (7010, 1)  # telling of outages and lags, one at a time: sql queue_troubles_v1
EXPIRY = (7011, 1)  # ending late deliveries, one sender at a time: sql may_expire
INGEST = (7101, 1)  # session: the one machine that feeds the market data
MACHINE = 7100  # session, (7100, boot_id): this process lives: sql machine_is_locked
WORK = 7105  # session, shared, (7105, boot_id): which session is the work's: sql end_sessions
PROOF = 7106  # session, (7106, a random number): whether an address is a direct one: app/store/sessions.py
PREVIEW_CLAIM = (7005, 1)  # choosing whose preview is next: sql claim_preview_v1
LISTED = {
    FEED,
    SIGNAL_PARTITION,
    ACTIVE_TRADERS,
    TRADER_COUNTS,
    CHECK,
    PREVIEW_CLAIM,
    TROUBLES,
    EXPIRY,
    INGEST,
}


def written(pattern: str) -> set[tuple[int, int]]:
    """Every match of *pattern* in our SQL, as numbers; procrastinate's own migration is not ours."""
    files = [*SQL_DIR.glob("migrations/*.sql"), *SQL_DIR.glob("queries/*.sql")]
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in files if not path.name.endswith("_jobs.sql")
    )
    return {(int(a), int(b)) for a, b in re.findall(pattern, text)}


def test_every_lock_in_sql_is_listed_and_every_listed_one_is_used():
    """
    `advisory_lock(class, key)` in migrations and queries = the list above.
    """
    keyed = written(r"advisory(?:_xact)?_lock(?:_shared)?\((\d+), (\d+)\)")

    assert keyed == LISTED


def test_the_lock_of_a_machine_is_looked_for_where_it_is_taken():
    """
    machine_is_locked reads pg_locks by the class under which lock_machine and resume_machine take it.
    """
    text = (SQL_DIR / "queries" / "machines.sql").read_text(encoding="utf-8")
    taken = re.findall(r"advisory_lock\((\d+), %\(boot_id\)s", text)
    migrations = "\n".join(p.read_text(encoding="utf-8") for p in SQL_DIR.glob("migrations/*_machines.sql"))

    assert {int(number) for number in taken} == {MACHINE}
    assert set(re.findall(r"l\.classid = (\d+)", migrations)) == {str(MACHINE)}


def test_the_sessions_of_a_machine_are_ended_by_the_locks_they_take():
    """
    end_sessions looks for the lock of the beat and for the lock of the work.
    """
    text = (SQL_DIR / "queries" / "machines.sql").read_text(encoding="utf-8")
    migrations = "\n".join(p.read_text(encoding="utf-8") for p in SQL_DIR.glob("migrations/*_machines.sql"))

    assert f"pg_advisory_lock_shared({WORK}, " in text
    assert f"classes int[] default '{{{MACHINE},{WORK}}}'" in migrations
