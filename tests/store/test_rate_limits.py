"""The exact log behind every rate limit: never more than so many calls in any window, over all replicas."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import world

WINDOW_MS = 60_000
CALLS = 10
ALLOW = (
    "select allowed, remaining, extract(epoch from retry_after)::float8, extract(epoch from reset_after)::float8"
    " from vyx.allow_call_v1(%(user)s, 'lifecycle', 10, interval '60 s', %(now)s)"
)


@pytest.fixture
def ask(connection):
    """A function (user, second) -> (allowed, remaining, retry_after_s, reset_after_s)."""

    def ask(user, second):
        return world.call(connection, ALLOW, user=user, now=world.T0 + timedelta(seconds=second))

    return ask


@given(
    st.lists(
        st.sampled_from([0, 1, 500, 1000, 3000, 5900, 6000, 6100, 29_999, 30_000, 59_999, 60_000]),
        max_size=60,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_window_of_a_minute_holds_more_than_ten_calls_and_no_call_is_refused_without_need(ask, gaps_ms):
    """
    For any instants of asking: allowed exactly when fewer than ten were allowed in the 60 s before.
    """
    user, now_ms = uuid4(), 0
    allowed: list[int] = []
    for gap_ms in gaps_ms:
        now_ms += gap_ms
        recent = [earlier for earlier in allowed if earlier > now_ms - WINDOW_MS]

        is_allowed, remaining, retry_after_s, _ = ask(user, now_ms / 1000)

        assert is_allowed == (len(recent) < CALLS)
        if is_allowed:
            allowed.append(now_ms)
            recent.append(now_ms)
        else:
            assert round(retry_after_s * 1000) == recent[-CALLS] + WINDOW_MS - now_ms
        assert remaining == CALLS - len(recent)


def test_a_call_at_the_instant_that_was_promised_is_allowed(ask):
    """
    Retry-After is exact: a microsecond earlier is refused, then it is not.
    """
    user = uuid4()
    for _ in range(CALLS):
        assert ask(user, 0)[0]
    _, _, retry_after_s, _ = ask(user, 12.5)

    assert not ask(user, 12.5 + retry_after_s - 1e-6)[0]
    assert ask(user, 12.5 + retry_after_s)[0]


def test_refused_calls_do_not_lengthen_the_wait(ask):
    """
    A client that hammers is let in as early as one that waits.
    """
    user = uuid4()
    for second in range(CALLS):
        ask(user, second)
    for second in range(CALLS, 60):
        assert not ask(user, second)[0]

    assert ask(user, 60)[0]


def test_users_and_kinds_do_not_share_a_limit(connection, ask):
    """
    Polling a status never locks a user out of stopping a trader.
    """
    user = uuid4()
    for _ in range(CALLS + 1):
        ask(user, 0)

    assert ask(uuid4(), 0)[0]
    reads = ALLOW.replace("lifecycle", "read")
    assert world.call(connection, reads, user=user, now=world.T0)[0]


def test_replicas_that_ask_at_once_let_ten_through(dsn):
    """
    The row lock makes simultaneous calls count one after the other.
    """
    user = uuid4()
    ask = f"select allowed from vyx.allow_call_v1('{user}', 'lifecycle', 10, interval '60 s')"

    answers = world.together(dsn, [ask] * 16)

    assert sorted(answers) == [False] * 6 + [True] * 10


def test_looking_at_what_is_left_counts_nothing(connection, ask):
    """
    calls_left_v1 tells what allow_call_v1 would leave, and asking it is free.
    """
    user = uuid4()
    ask(user, 0)
    left = (
        "select remaining, extract(epoch from reset_after)::float8"
        " from vyx.calls_left_v1(%(user)s, 'lifecycle', 10, interval '60 s', %(now)s)"
    )

    answers = [
        world.call(connection, left, user=user, now=world.T0 + timedelta(seconds=s)) for s in (1, 1, 61)
    ]

    assert answers == [(9, 59.0), (9, 59.0), (10, 0.0)]


def test_the_log_of_calls_belongs_to_the_service(connection):
    """
    A signed-in user cannot read or clear it.
    """
    with connection.transaction(force_rollback=True):
        connection.execute("set local role authenticated")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("delete from vyx.rate_limits")
