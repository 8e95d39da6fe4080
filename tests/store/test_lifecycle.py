"""The lifecycle as Postgres holds it, for the service and for a person in Studio alike."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests import world

MINUTE = timedelta(minutes=1)


@pytest.fixture
def trader(connection):
    return world.add_trader(connection, world.add_user(connection), started=False)


@pytest.mark.parametrize(
    ("edit", "sqlstate"),
    [
        ("state = 'running'", "VX409"),
        ("state = 'stopping'", "VX409"),
        ("state = 'error'", "VX409"),
        ("version = 7", "VX409"),
        ("version = 7, state = 'starting'", None),
        ("owner = 1", "23514"),
        ("in_step = true", "23514"),
        ("retry_at = now()", "23514"),
    ],
)
def test_a_plain_update_of_a_stopped_trader_obeys_the_rules(connection, trader, edit, sqlstate):
    """
    The state, version, owner and retry of a stopped trader cannot be set by hand, except to start it; then its version is counted, not taken.
    """
    world.register(connection)
    if sqlstate is None:
        connection.execute(f"update public.trader_state set {edit} where trader_id = %s", (trader,))
        assert (world.status(connection, trader).state, world.status(connection, trader).version) == (
            "starting",
            1,
        )
        return

    with pytest.raises(psycopg.Error) as refused:
        connection.execute(f"update public.trader_state set {edit} where trader_id = %s", (trader,))

    assert refused.value.sqlstate == sqlstate
    assert (world.status(connection, trader).state, world.status(connection, trader).version) == (
        "stopped",
        0,
    )


def test_a_trader_cannot_be_inserted_running(connection, trader):
    """
    Whoever inserts a state row, it says stopped.
    """
    with world.without_triggers(connection):
        connection.execute("delete from public.trader_state")

    with pytest.raises(psycopg.Error, match="created stopped"):
        connection.execute(
            "insert into public.trader_state (trader_id, user_id, state) select id, user_id, 'running' from public.traders"
        )


def test_an_update_in_studio_to_a_legal_state_writes_the_event(connection, trader):
    """
    A row edited by hand goes the same way as one changed by the service: version, event, instant.
    """
    connection.execute("update public.trader_state set state = 'starting', reason = 'by hand'")

    row = connection.execute(
        "select from_state::text, to_state::text, reason, version from public.trader_events"
    ).fetchall()
    assert row == [("stopped", "starting", "by hand", 1)]
    assert world.status(connection, trader).version == 1


def test_one_statement_over_many_traders_writes_an_event_for_each(connection):
    """
    An update of all rows at once leaves as many events as rows that changed.
    """
    user = world.add_user(connection)
    traders = [world.add_trader(connection, user, started=False) for _ in range(5)]

    connection.execute(
        "update public.trader_state set state = 'starting' where trader_id = any (%s)", (traders[:3],)
    )

    assert [len(world.events(connection, t)) for t in traders] == [1, 1, 1, 0, 0]


def test_starting_and_stopping_twice_is_harmless(connection, trader):
    """
    A repeated start or stop changes nothing and writes no event.
    """
    for _ in range(2):
        world.start(connection, trader)
    for _ in range(2):
        world.stop(connection, trader)

    assert world.events(connection, trader) == [
        ("stopped", "starting"),
        ("starting", "stopping"),
        ("stopping", "stopped"),
    ]


def test_a_stopping_trader_cannot_be_started(connection, trader):
    """
    While its owner finishes the slot in hand a start is refused, and says in which state the trader is.
    """
    world.start(connection, trader)
    world.claim(connection, world.register(connection))
    world.stop(connection, trader)

    with pytest.raises(psycopg.Error) as refused:
        world.start(connection, trader)

    assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("VX409", "stopping")


def test_a_change_that_expects_another_version_is_refused(connection, trader):
    """
    The optimistic lock: who read version 0 cannot change version 1.
    """
    world.start(connection, trader)

    with pytest.raises(psycopg.Error) as refused:
        connection.execute("select vyx.change_state_v1(%s, 'stopping', 'stop', 0)", (trader,))

    assert refused.value.sqlstate == "VX409"
    assert world.status(connection, trader).state == "starting"


def test_an_unknown_trader_is_not_found(connection, trader):
    """
    Start and stop of an id that does not exist say so by code.
    """
    for function in ("start_trader_v1", "stop_trader_v1"):
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(f"select vyx.{function}(gen_random_uuid())")
        assert refused.value.sqlstate == "VX404"


def test_a_started_trader_is_screened_from_the_next_slot_on(connection, trader):
    """
    What closed before the start is not screened: resume_after is the newest slot of the ledger.
    """
    world.close_slots(connection, 1, 2, 3)

    world.start(connection, trader)

    assert world.status(connection, trader).resume_after == world.at(3)


def test_a_changed_filter_raises_the_revision_and_a_changed_name_does_not(connection, trader):
    """
    Machines reload what they screen by, and only then.
    """
    connection.execute("update public.traders set name = 'another'")
    assert connection.execute("select revision from public.traders").fetchone() == (1,)

    world.change_plan(connection, trader, world.above(7))
    connection.execute("update public.traders set frequency = %s", (Jsonb("on_enter"),))
    assert connection.execute("select revision from public.traders").fetchone() == (3,)


# -- errors ---------------------------------------------------------------------------------------------------------------


def fail_once(connection, boot, trader):
    """Claim the trader and report that it cannot be evaluated."""
    world.claim(connection, boot)
    world.fail(connection, boot, {trader: world.leases(connection, boot)[trader]})


def retry(connection, trader):
    """Let the time of its retry come."""
    due = world.status(connection, trader).retry_at
    assert world.call(
        connection, "select vyx.retry_due_v1(%(now)s)", now=due - timedelta(milliseconds=1)
    ) == (0,)
    assert world.call(connection, "select vyx.retry_due_v1(%(now)s)", now=due) == (1,)


def test_errors_are_retried_after_a_minute_doubling_to_a_quarter_of_an_hour_and_the_sixth_stays(
    connection, trader
):
    """
    60 s, 120, 240, 480, 900 (not 960); after five retries in a row a trader waits for a person.
    """
    world.start(connection, trader)
    boot = world.register(connection)

    waits = []
    for _ in range(5):
        fail_once(connection, boot, trader)
        row = world.status(connection, trader)
        waits.append((row.retry_at - row.changed_at).total_seconds())
        retry(connection, trader)
    fail_once(connection, boot, trader)

    assert waits == [60, 120, 240, 480, 900]
    row = world.status(connection, trader)
    assert (row.state, row.retry_at, row.error_count, row.last_error) == ("error", None, 6, "broken")
    far = row.changed_at + timedelta(days=1)
    assert world.call(connection, "select vyx.retry_due_v1(%(now)s)", now=far) == (0,)


def test_an_error_after_a_quarter_of_an_hour_of_running_counts_as_the_first(connection, trader):
    """
    "In a row" means without recovery: a trader that ran for 15 minutes in between starts counting anew.
    """
    world.start(connection, trader)
    boot = world.register(connection)
    fail_once(connection, boot, trader)
    retry(connection, trader)
    world.claim(connection, boot)
    world.mark_running(connection, boot, world.leases(connection, boot))
    with world.without_triggers(connection):
        connection.execute("update public.trader_state set started_at = started_at - interval '16 min'")

    world.fail(connection, boot, world.leases(connection, boot))

    assert world.status(connection, trader).error_count == 1


def test_a_user_start_from_error_counts_anew_and_goes_on_from_now(connection, trader):
    """
    A person has looked at it: no catching up of what was missed in error, and five new retries.
    """
    world.start(connection, trader)
    boot = world.register(connection)
    fail_once(connection, boot, trader)
    world.close_slots(connection, 1, 2)

    world.start(connection, trader)

    row = world.status(connection, trader)
    assert (row.state, row.error_count, row.retry_at, row.resume_after) == ("starting", 0, None, world.at(2))


def test_a_retry_goes_on_where_screening_stopped(connection, trader):
    """
    A retry by itself is no new start: the slots missed in error are still owed.
    """
    world.close_slots(connection, 1)
    world.start(connection, trader)
    boot = world.register(connection)
    world.close_slots(connection, 2)
    fail_once(connection, boot, trader)

    retry(connection, trader)

    assert world.status(connection, trader).resume_after == world.at(1)


def test_a_trader_in_error_can_be_stopped(connection, trader):
    """
    Stopping forgets the error and its retry.
    """
    world.start(connection, trader)
    fail_once(connection, world.register(connection), trader)

    world.stop(connection, trader)

    row = world.status(connection, trader)
    assert (row.state, row.retry_at, row.error_count, row.last_error) == ("stopped", None, 0, None)


# -- quota ----------------------------------------------------------------------------------------------------------------


def test_simultaneous_starts_never_pass_the_quota(dsn, connection):
    """
    Twelve traders of a user on the pro tier, started from twelve connections at once: ten run, two are refused with limit and use.
    """
    user = world.add_user(connection, "pro")
    traders = [world.add_trader(connection, user, started=False) for _ in range(12)]

    outcomes = world.together(dsn, [f"select (vyx.start_trader_v1('{t}')).state::text" for t in traders])

    assert sorted(outcomes) == ["VX403"] * 2 + ["starting"] * 10
    assert list(world.states(connection).values()).count("starting") == 10


def test_a_free_user_may_start_nothing(connection):
    """
    The refusal carries limit, use and tier for the problem document.
    """
    trader = world.add_trader(connection, world.add_user(connection, "free"), started=False)

    with pytest.raises(psycopg.Error) as refused:
        world.start(connection, trader)

    assert refused.value.sqlstate == "VX403"
    assert json.loads(refused.value.diag.message_detail) == {
        "quota": "running_traders",
        "limit": 0,
        "used": 0,
        "tier": "free",
        "next_tier": "pro",
    }


def test_a_trader_that_will_retry_by_itself_counts_against_the_quota(connection):
    """
    Otherwise a user could start another one and have eleven running a minute later.
    """
    user = world.add_user(connection, "pro")
    traders = [world.add_trader(connection, user) for _ in range(10)]
    fail_once(connection, world.register(connection), traders[0])
    one_more = world.add_trader(connection, user, started=False)

    with pytest.raises(psycopg.Error) as refused:
        world.start(connection, one_more)
    world.start(connection, traders[0])

    assert refused.value.sqlstate == "VX403"


def test_the_global_limit_refuses_whoever_comes_last(connection):
    """
    max_active counts all users' traders.
    """
    users = [world.add_user(connection) for _ in range(3)]
    traders = [world.add_trader(connection, user, started=False) for user in users]
    for trader in traders[:2]:
        connection.execute("select vyx.start_trader_v1(%s, 2)", (trader,))

    with pytest.raises(psycopg.Error, match="at most 2 traders"):
        connection.execute("select vyx.start_trader_v1(%s, 2)", (traders[2],))


def test_the_number_of_all_traders_is_kept_through_every_change(connection):
    """
    Starting, stopping, failing and deleting add to it and take from it; nobody counts the traders.
    """
    user = world.add_user(connection)
    traders = [world.add_trader(connection, user) for _ in range(4)]
    world.stop(connection, traders[0])
    boot = world.register(connection)
    world.claim(connection, boot, 1)
    world.fail(connection, boot, world.leases(connection, boot))
    connection.execute(
        "delete from public.traders where id = (select trader_id from public.trader_state where state = 'starting' limit 1)"
    )

    kept = "select sum(traders) from vyx.trader_counts"
    counted = "select count(*) from public.trader_state where state in ('starting', 'running')"
    assert world.call(connection, kept) == world.call(connection, counted) == (1,)
