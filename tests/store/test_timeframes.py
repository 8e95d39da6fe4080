"""Timeframes stand in three places that may not import each other: the domain, the sandbox and SQL."""

from __future__ import annotations

from app.domain import timeframes
from sandbox.plan.timeframes import TIMEFRAMES


def test_domain_sandbox_and_sql_know_the_same_timeframes(connection):
    """
    The same names, lengths and order.
    """
    stored = connection.execute("select unnest(enum_range(null::vyx.timeframe))::text").fetchall()
    assert [name for (name,) in stored] == list(timeframes.TIMEFRAMES)
    assert list(timeframes.TIMEFRAMES.items()) == list(TIMEFRAMES.items())
