"""What a tier allows: what may be kept and run, and what happens when it becomes less."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests import world


def beat(connection):
    return connection.execute("select vyx.stop_beyond_tiers_v1()").fetchone()[0]


def running(connection, count, tier="pro"):
    user = world.add_user(connection, tier)
    return user, [world.add_trader(connection, user) for _ in range(count)]


def test_a_downgrade_stops_what_runs_beyond_it_with_an_event_that_says_so(connection):
    user, traders = running(connection, 3)
    connection.execute("select public.set_tier(%s, 'free')", (user,))

    assert beat(connection) == 3

    assert set(world.states(connection).values()) == {"stopped"}
    reasons = connection.execute(
        "select distinct reason from public.trader_events where to_state = 'stopped' and trader_id = any (%s)",
        (traders,),
    ).fetchall()
    assert reasons == [("the free tier runs at most 0 traders",)]


def test_the_newest_stop_first(connection):
    _, traders = running(connection, 3)
    connection.execute("update public.tiers set max_running = 1 where tier = 'pro'")

    assert beat(connection) == 2

    assert [world.states(connection)[trader] for trader in traders] == ["starting", "stopped", "stopped"]


def test_without_a_change_nothing_is_looked_at_and_nothing_stops(connection):
    user, _ = running(connection, 2)
    assert beat(connection) == 0
    connection.execute("select public.set_tier(%s, 'elite')", (user,))
    assert beat(connection) == 0
    assert not connection.execute("select exists (select from public.accounts where is_over)").fetchone()[0]


def test_a_trader_that_somebody_holds_is_stopped_at_a_later_beat(connection, dsn):
    user, traders = running(connection, 2)
    connection.execute("select public.set_tier(%s, 'free')", (user,))
    with psycopg.connect(dsn) as other:
        other.execute("select from public.trader_state where trader_id = %s for update", (traders[0],))
        assert beat(connection) == 1

    assert beat(connection) == 1
    assert beat(connection) == 0


def test_the_lowest_tier_with_room_is_named(connection):
    def named(quota, used):
        return connection.execute("select vyx.next_tier(%s, %s)", (quota, used)).fetchone()[0]

    assert [named("running_traders", used) for used in (0, 9, 10, 10**6)] == ["pro", "pro", "elite", "elite"]
    assert [named("stored_traders", used) for used in (99, 100, 1000, 10_000)] == [
        "free",
        "pro",
        "elite",
        None,
    ]


def test_a_full_shelf_refuses_with_what_would_help(connection):
    user = world.add_user(connection, "pro")
    connection.execute("update public.tiers set max_stored = 1 where tier in ('free', 'pro')")
    world.add_trader(connection, user, started=False)

    with pytest.raises(psycopg.Error) as refused:
        connection.execute("select vyx.check_stored(%s)", (user,))

    assert json.loads(refused.value.diag.message_detail) == {
        "quota": "stored_traders",
        "limit": 1,
        "used": 1,
        "tier": "pro",
        "next_tier": "elite",
    }
