"""The advisory locks: Python and SQL mean the same numbers, and nobody uses one that is not listed."""

from __future__ import annotations

import re

from app.coordination import locks
from app.store.queries import SQL_DIR

LISTED = {value for name, value in vars(locks).items() if name.isupper()}


def written(pattern: str) -> set[tuple[int, int]]:
    """Every match of *pattern* in our SQL, as numbers; procrastinate's own migration is not ours."""
    files = [*SQL_DIR.glob("migrations/*.sql"), *SQL_DIR.glob("queries/*.sql")]
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in files if not path.name.endswith("_jobs.sql")
    )
    return {(int(a), int(b)) for a, b in re.findall(pattern, text)}


def test_every_lock_in_sql_is_listed_and_every_listed_one_is_used():
    """
    `advisory_lock(class, key)` in migrations and queries = app/coordination/locks.py.
    """
    keyed = written(r"advisory(?:_xact)?_lock(?:_shared)?\((\d+), (\d+)\)")

    assert keyed == {lock for lock in LISTED if isinstance(lock, tuple)}


def test_the_lock_of_a_machine_is_looked_for_where_it_is_taken():
    """
    machine_is_locked reads pg_locks by the class under which lock_machine and resume_machine take it.
    """
    text = (SQL_DIR / "queries" / "machines.sql").read_text(encoding="utf-8")
    taken = re.findall(r"advisory_lock\((\d+), %\(boot_id\)s", text)
    migrations = "\n".join(p.read_text(encoding="utf-8") for p in SQL_DIR.glob("migrations/*_machines.sql"))

    assert {int(number) for number in taken} == {locks.MACHINE}
    assert set(re.findall(r"l\.classid = (\d+)", migrations)) == {str(locks.MACHINE)}
