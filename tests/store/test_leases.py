"""Machines and leases: who owns a trader, who may still write, who is dead."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests import world

SECOND = timedelta(seconds=1)


@pytest.fixture
def other(dsn):
    """A second client, as another machine would be."""
    with psycopg.connect(
        dsn, autocommit=True, options="-c lock_timeout=1s -c statement_timeout=20s"
    ) as client:
        yield client


@pytest.fixture
def traders(connection):
    user = world.add_user(connection)
    return [world.add_trader(connection, user) for _ in range(6)]


def owners(connection):
    return dict(connection.execute("select trader_id, owner from public.trader_state").fetchall())


def test_a_claim_in_flight_is_skipped_and_not_waited_for(connection, other, traders):
    """
    Two machines claim side by side: each gets others' leavings at once, and nobody holds the same trader.
    """
    a, b = world.register(connection, "a"), world.register(other, "b")

    with connection.transaction():
        assert world.claim(connection, a, 4) == 4
        assert world.claim(other, b, 6) == 2

    assert sorted(owners(connection).values()) == [a] * 4 + [b] * 2


def test_a_claim_takes_only_what_should_run(connection, traders):
    """
    Stopped traders, and those in error, belong to nobody.
    """
    world.stop(connection, traders[0])
    boot = world.register(connection)
    world.claim(connection, boot, 1)
    world.fail(connection, boot, world.leases(connection, boot))

    world.claim(connection, boot)

    assert sorted(owners(connection).values(), key=str) == [boot] * 4 + [None] * 2


def test_a_machine_that_drains_claims_no_more(connection, traders):
    """
    `drain_machine` leaves what it has to be given back by itself.
    """
    boot = world.register(connection, "a")
    world.claim(connection, boot, 2)

    assert world.call(connection, "select public.drain_machine('a')") == (1,)

    assert world.claim(connection, boot) == 0
    assert len(world.leases(connection, boot)) == 2
    with pytest.raises(psycopg.Error, match="no live machine is called nobody"):
        connection.execute("select public.drain_machine('nobody')")


def test_a_claim_still_in_flight_when_its_machine_leaves_is_given_back_too(dsn, connection, other, traders):
    """
    SIGTERM may come in the middle of a claim on another connection: no trader stays with the dead boot.
    """
    boot = world.register(connection)
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'leave_v1'"
    with ThreadPoolExecutor(1) as leaving:
        with connection.transaction():
            world.claim(connection, boot)
            left = leaving.submit(world.together, dsn, [f"select vyx.leave_v1({boot})"])
            while world.call(other, waiting) == (0,):
                assert not left.done()
        assert left.result() == [6]

    assert world.call(other, "select state::text from vyx.machines") == ("dead",)
    assert world.claim(connection, world.register(connection, "b")) == 6


# -- a lease that was lost ------------------------------------------------------------------------------------------------


def test_a_lost_lease_cannot_be_written_with(connection, traders):
    """
    Once another machine has the trader, signals and progress of the old epoch are dropped without an error.
    """
    world.close_slots(connection, 1)
    a, b = world.register(connection, "a"), world.register(connection, "b")
    world.claim(connection, a)
    stale = world.leases(connection, a)
    world.release(connection, a)
    world.claim(connection, b)
    before = [world.status(connection, t) for t in traders]

    lease = {"boot_id": a, "trader_ids": list(stale), "epochs": list(stale.values()), "slot": world.at(1)}
    assert insert_signals(connection, a, stale, world.at(1)) == 0
    assert connection.execute(world.TRADER_STATE["put_in_step"], lease).rowcount == 0
    assert connection.execute(world.TRADER_STATE["advance_traders"], lease).rowcount == 0
    assert world.mark_running(connection, a, stale) == 0
    assert world.fail(connection, a, stale) == 0

    assert world.signals(connection) == []
    assert [world.status(connection, t) for t in traders] == before


def test_a_lease_that_came_back_has_another_epoch(connection, traders):
    """
    A machine that lost a trader and claimed it again cannot use what it knew before.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    stale = world.leases(connection, boot)
    world.release(connection, boot)
    world.claim(connection, boot)

    assert insert_signals(connection, boot, stale, world.at(1)) == 0
    assert {t: e + 2 for t, e in stale.items()} == world.leases(connection, boot)


def test_a_machine_that_advanced_elsewhere_cannot_advance_again(connection):
    """
    Two transactions of one boot for one slot: the second finds no row.
    """
    world.close_slots(connection, 1)
    boot = world.register(connection)
    world.close_slots(connection, 2)
    advance = {"boot_id": boot, "slot": world.at(2), "previous": world.at(1)}
    world.speak_for(connection, boot)

    assert connection.execute(world.MACHINES["advance_machine"], advance).fetchone() == (boot,)
    assert connection.execute(world.MACHINES["advance_machine"], advance).fetchone() is None


def insert_signals(connection, boot, held, slot, *, symbol="BTCUSDT", cooldown_s=None):
    """Signals of one symbol for these leases; returns how many are new."""
    connection.execute("select vyx.keep_signal_partition(%s)", (slot,))
    world.speak_for(connection, boot)
    n = len(held)
    parameters = {
        "boot_id": boot,
        "slot": slot,
        "trader_ids": list(held),
        "epochs": list(held.values()),
        "symbols": [symbol] * n,
        "timeframes": ["1m"] * n,
        "prices": [1.0] * n,
        "shown": ["{}"] * n,
        "plan_hashes": ["x"] * n,
        "forming": [False] * n,
        "cooldowns_s": [cooldown_s] * n,
    }
    return world.call(connection, world.SIGNALS["insert_signals"], **parameters)[1]


# -- signals --------------------------------------------------------------------------------------------------------------


def test_signals_inserted_twice_are_there_once(connection, traders):
    """
    The key makes a repeated slot harmless, and counters count only what is new.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    held = world.leases(connection, boot)

    assert insert_signals(connection, boot, held, world.at(1)) == 6
    assert insert_signals(connection, boot, held, world.at(1)) == 0

    assert len(world.signals(connection)) == 6
    assert {world.status(connection, t).signal_count for t in traders} == {1}
    assert {world.status(connection, t).last_signal_at for t in traders} == {world.at(1)}


def test_a_cooldown_ends_exactly_when_it_says(connection, traders):
    """
    With 120 s, a signal 120 s after the last one is allowed and one after 60 s is not; other symbols do not count.
    """
    boot = world.register(connection)
    world.claim(connection, boot, 1)
    held = world.leases(connection, boot)

    inserted = [
        insert_signals(connection, boot, held, world.at(minute), cooldown_s=120) for minute in range(1, 7)
    ]
    others = insert_signals(connection, boot, held, world.at(6), symbol="ETHUSDT", cooldown_s=120)

    assert (inserted, others) == ([1, 0, 1, 0, 1, 0], 1)


def test_a_fraction_of_a_second_more_than_the_gap_holds_a_signal_back(connection, traders):
    """
    A cooldown need not be a whole number of seconds.
    """
    boot = world.register(connection)
    world.claim(connection, boot, 1)
    held = world.leases(connection, boot)

    assert insert_signals(connection, boot, held, world.at(1), cooldown_s=60.5) == 1
    assert insert_signals(connection, boot, held, world.at(2), cooldown_s=60.5) == 0
    assert insert_signals(connection, boot, held, world.at(3), cooldown_s=60.5) == 1


def test_racing_callers_make_a_partition_once(dsn):
    """
    Every replica may be the first to need a month: one makes it, the others find it.
    """
    made = world.together(dsn, ["select vyx.keep_signal_partition('2031-02-15')"] * 8)

    assert sorted(made) == [False] * 7 + [True]


def test_a_direct_insert_into_a_partition_takes_the_feed_lock(connection, other):
    """
    A writer that names the partition must not slip past the feed's horizon.
    """
    connection.execute("select vyx.keep_signal_partition(%s)", (world.at(0),))
    trader = world.add_trader(connection, world.add_user(connection))
    with connection.transaction():
        connection.execute(
            "insert into vyx.signals_2024_07 (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)"
            " select trader_id, user_id, 'X', '1m', %s, 1, 'x', 0, now() from public.trader_state where trader_id = %s",
            (world.at(1), trader),
        )

        assert world.call(other, "select pg_try_advisory_xact_lock(7002, 1)") == (False,)


# -- the end of a lease ---------------------------------------------------------------------------------------------------


def history(connection, trader):
    """(from, through, machine) of the trader's ended leases, in slot numbers."""
    rows = connection.execute(
        "select after, through, machine_id from vyx.leases where trader_id = %s order by epoch", (trader,)
    )
    return [(int((a - world.T0) / world.MINUTE), int((t - world.T0) / world.MINUTE), m) for a, t, m in rows]


@pytest.fixture
def screened(connection):
    """A running trader of machine "a", in step and screened through slot 3, having started at 1."""
    world.close_slots(connection, 1)
    trader = world.add_trader(connection, world.add_user(connection))
    boot = world.register(connection, "a")
    world.claim(connection, boot)
    world.mark_running(connection, boot, world.leases(connection, boot))
    for number in (2, 3):
        world.close_slots(connection, number)
        advance(connection, boot, number)
    return trader, boot


def advance(connection, boot, number):
    held = world.leases(connection, boot)
    slot = {"boot_id": boot, "slot": world.at(number), "previous": world.at(number - 1)}
    world.speak_for(connection, boot)
    assert connection.execute(world.MACHINES["advance_machine"], slot).fetchone() is not None
    connection.execute(
        world.TRADER_STATE["put_in_step"],
        {
            "boot_id": boot,
            "slot": world.at(number),
            "trader_ids": list(held),
            "epochs": list(held.values()),
        },
    )


@pytest.mark.parametrize("end", ["release", "reap", "stop", "error", "leave", "reap while stopping"])
def test_every_end_of_a_lease_leaves_a_row_of_what_it_screened(connection, screened, end):
    """
    Whichever way a machine loses a trader, (after, through] of its lease is kept, and the next owner goes on after it.
    """
    trader, boot = screened
    match end:
        case "release":
            world.release(connection, boot, [trader])
        case "reap":
            world.bury(connection, boot)
            world.claim(connection, world.register(connection, "b"))
        case "reap while stopping":
            world.stop(connection, trader)
            world.bury(connection, boot)
            world.settle(connection)
        case "stop":
            world.stop(connection, trader)
            world.release(connection, boot, [trader])
        case "error":
            world.fail(connection, boot, world.leases(connection, boot))
        case "leave":
            world.call(connection, world.MACHINES["leave"], boot_id=boot)
            world.claim(connection, world.register(connection, "b"))

    assert history(connection, trader) == [(1, 3, "a")]
    assert world.status(connection, trader).resume_after == world.at(3)


def test_a_lease_that_screened_nothing_leaves_no_row(connection, screened):
    """
    Coverage is what was screened, not what was held.
    """
    trader, boot = screened
    world.release(connection, boot)
    b = world.register(connection, "b")
    world.claim(connection, b)
    world.release(connection, b)

    assert history(connection, trader) == [(1, 3, "a")]
    assert world.status(connection, trader).resume_after == world.at(3)


def test_a_machine_that_died_leaves_its_traders_free_and_those_being_stopped_stopped(connection, traders):
    """
    One row changes when it is reaped; the others claim from it, and finish what it had not.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    world.stop(connection, traders[0])

    world.bury(connection, boot)
    b = world.register(connection, "b")

    assert world.settle(connection) == 1
    assert world.claim(connection, b) == 5
    assert [world.states(connection)[t] for t in traders] == ["stopped", *["starting"] * 5]
    assert set(owners(connection).values()) == {None, b}


def test_a_trader_of_a_dead_machine_stops_at_once(connection, traders):
    """
    Nobody finishes a slot for it: there is nothing to wait for.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    world.bury(connection, boot)

    world.stop(connection, traders[0])

    assert world.states(connection)[traders[0]] == "stopped"


def test_a_trader_stops_when_its_owner_gives_it_back(connection, traders):
    """
    stopping is a wish until the owner has finished the slot in hand.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    world.stop(connection, traders[0])
    assert world.states(connection)[traders[0]] == "stopping"

    world.release(connection, boot, [traders[0]])

    assert world.states(connection)[traders[0]] == "stopped"
    assert len(world.leases(connection, boot)) == 5


# -- who is dead ----------------------------------------------------------------------------------------------------------


def server_start(connection):
    return world.call(connection, "select pg_postmaster_start_time()")[0]


def set_heartbeat(connection, boot, instant):
    connection.execute(
        "update vyx.machine_heartbeats set heartbeat_at = %s where boot_id = %s", (instant, boot)
    )


def test_a_heartbeat_counts_from_the_servers_start(connection, traders):
    """
    After an outage of Postgres every heartbeat is old and every lock gone: nobody is buried for that before ttl has passed since the start.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    connection.execute("update vyx.server_lives set readable_since = %s", (world.LONG_AGO,))
    started = server_start(connection)
    world.fall_silent(connection, boot)

    assert world.reap(connection, now=started + 9.9 * SECOND) == []
    assert world.reap(connection, now=started + 10.1 * SECOND) == [(boot, "a", 6)]


def test_a_machine_without_its_lock_has_only_the_short_grace(connection):
    """
    Lock gone and no heartbeat for 2.5 s is dead; lock gone with a younger heartbeat is a reconnect.
    """
    boot = world.register(connection)
    late = server_start(connection) + timedelta(hours=1)
    set_heartbeat(connection, boot, late)
    connection.execute("select pg_advisory_unlock(7100, %s)", (boot,))

    assert world.reap(connection, now=late + 2.4 * SECOND) == []
    assert world.reap(connection, now=late + 2.6 * SECOND) == [(boot, "a", 0)]


def test_a_machine_that_holds_its_lock_has_the_whole_ttl(connection):
    """
    A hung process keeps its connection: it is dead only after ttl.
    """
    boot = world.register(connection)
    late = server_start(connection) + timedelta(hours=1)
    set_heartbeat(connection, boot, late)

    assert world.reap(connection, now=late + 9.9 * SECOND) == []
    assert world.reap(connection, now=late + 10.1 * SECOND) == [(boot, "a", 0)]


def test_a_reaped_machine_is_refused_everywhere(connection, traders):
    """
    Its fence raises VXFEN, its beat says so, it claims nothing and cannot resume.
    """
    boot = world.register(connection)
    world.claim(connection, boot)
    world.bury(connection, boot)

    for query in (world.MACHINES["fence"], world.LEASES["release"], world.MACHINES["leave"]):
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(query, {"boot_id": boot, "trader_ids": None})
        assert refused.value.sqlstate == "VXFEN"
    assert world.call(connection, world.MACHINES["beat"], boot_id=boot, owned=0, progress="{}")[0] is False
    assert world.claim(connection, boot) == 0
    assert world.call(connection, world.MACHINES["resume_machine"], boot_id=boot) == (False,)


def test_an_open_fenced_transaction_hides_its_machine_from_the_reaper(connection, other, traders):
    """
    The reaper skips it without waiting: what the transaction writes is written by a machine that lives. Afterwards it is buried.
    """
    boot = world.register(other)
    world.claim(other, boot)
    world.fall_silent(other, boot)
    hour = datetime.now(UTC) + timedelta(hours=1)

    with other.transaction():
        other.execute(world.MACHINES["fence"], {"boot_id": boot})
        assert world.reap(connection, now=hour) == []

    assert world.reap(connection, now=hour) == [(boot, "a", 6)]


def test_the_fence_does_not_wait_for_another_transaction_of_its_machine(connection, other):
    """
    Ingest and screening of one machine write side by side: advancing the machine does not queue behind an open ingest transaction.
    """
    world.close_slots(connection, 1)
    boot = world.register(connection)
    world.close_slots(connection, 2)
    with connection.transaction():
        connection.execute(world.MACHINES["fence"], {"boot_id": boot})

        with other.transaction():
            other.execute("set local lock_timeout = '100ms'")
            other.execute(world.MACHINES["fence"], {"boot_id": boot})
            advance = {"boot_id": boot, "slot": world.at(2), "previous": world.at(1)}
            assert other.execute(world.MACHINES["advance_machine"], advance).fetchone() == (boot,)


def test_shares_are_made_of_kept_numbers(connection, traders):
    """
    Alive machines, traders that should run, those no living machine holds, and ours; nothing is counted for it.
    """
    a = world.register(connection, "a")
    world.register(connection, "b")
    world.close_slots(connection, 1)
    world.claim(connection, a, 2)
    world.stop(connection, next(t for t, owner in owners(connection).items() if owner is None))

    assert world.call(connection, world.LEASES["shares"], boot_id=a) == ("alive", 2, 5, 3, 2)
    world.call(connection, world.MACHINES["leave"], boot_id=a)
    assert world.call(connection, world.LEASES["shares"], boot_id=a) == ("dead", 1, 5, 5, 2)


def test_a_beat_says_where_the_ledger_stands_and_reports_the_work(connection):
    """
    One row is written, whatever the number of traders.
    """
    a = world.register(connection, "a")
    world.close_slots(connection, 1)
    report = '{"screen": {"count": 3, "idle_s": 0.5, "bound_s": 30}}'

    beat = world.call(connection, world.MACHINES["beat"], boot_id=a, owned=2, progress=report)

    assert beat == (True, "alive", world.at(1))
    written = "select owned, progress #>> '{screen,count}' from vyx.machine_heartbeats"
    assert world.call(connection, written) == (2, "3")


def test_kept_numbers_are_added_up_without_changing_them(connection, traders):
    """
    Every statement adds a row; folding leaves one per owner.
    """
    a = world.register(connection, "a")
    for trader in traders[:3]:
        world.claim(connection, a, 1)
        world.stop(connection, trader)
    before = world.call(connection, world.LEASES["shares"], boot_id=a)

    assert world.call(connection, "select vyx.fold_trader_counts_v1(1000)") == (False,)
    assert world.call(connection, "select vyx.fold_trader_counts_v1()") == (True,)

    assert world.call(connection, world.LEASES["shares"], boot_id=a) == before
    assert world.call(connection, "select count(*) from vyx.trader_counts")[0] <= 2


def test_the_ingest_lock_belongs_to_one_session(connection, other):
    """
    One feeder in the cluster, and another as soon as its connection is gone.
    """
    assert world.call(connection, world.MACHINES["try_ingest_lock"]) == (True,)
    assert world.call(other, world.MACHINES["try_ingest_lock"]) == (False,)


def test_reaping_ends_the_session_of_a_machine_that_hangs(dsn, connection):
    """
    A stopped process keeps its connection and would keep the ingest lock: burying it frees both.
    """
    with psycopg.connect(dsn, autocommit=True) as hung:
        boot = world.register(hung)
        assert world.call(hung, world.MACHINES["try_ingest_lock"]) == (True,)
        late = datetime.now(UTC) + timedelta(hours=1)

        assert world.reap(connection, now=late) == [(boot, "a", 0)]

        assert world.call(connection, "select pg_advisory_lock(7101, 1)") == ("",)
        with pytest.raises(psycopg.OperationalError):
            hung.execute("select 1")


def test_traders_of_a_dead_machine_are_claimed_in_pieces_by_everybody(connection, traders):
    """
    Reaping is one row; whoever claims takes as many at a time as it likes, and nothing of the dead machine is accepted any more.
    """
    a, b, c = (world.register(connection, name) for name in "abc")
    world.claim(connection, a)
    world.bury(connection, a)

    claimed = [world.claim(connection, boot, 2) for boot in (b, c, b, c)]

    assert claimed == [2, 2, 2, 0]
    with pytest.raises(psycopg.Error) as refused:
        connection.execute("select vyx.fence_v1(%s)", (a,))
    assert refused.value.sqlstate == "VXFEN"


def test_a_crash_of_the_server_buries_nobody(connection, traders):
    """
    A backend that dies restarts all of them without changing the start time; only what is unlogged tells, because recovery empties it.
    """
    boot = world.register(connection)
    set_heartbeat(connection, boot, datetime.now(UTC) - timedelta(hours=1))
    connection.execute("select pg_advisory_unlock(7100, %s)", (boot,))
    connection.execute("select vyx.readable_since()")
    connection.execute("update vyx.server_lives set readable_since = %s", (world.LONG_AGO,))
    after_ttl = server_start(connection) + timedelta(hours=1)
    connection.execute("delete from vyx.server_lives")

    assert world.reap(connection) == []

    assert world.reap(connection, now=after_ttl) == [(boot, "a", 0)]


def test_a_machine_judges_others_only_by_the_time_in_which_it_could_beat(connection):
    """
    Read-only, or with a full disk, the server takes no beat of anybody: the first that beats again must not reap the rest.
    """
    a, b = world.register(connection, "a"), world.register(connection, "b")
    connection.execute("update vyx.server_lives set readable_since = %s", (world.LONG_AGO,))
    now = server_start(connection) + timedelta(hours=1)
    judging = "select dead from vyx.reap_v1('10 s', '2.5 s', %(now)s, %(judge)s)"
    connection.execute(
        "update vyx.machine_heartbeats set heartbeat_at = %s - interval '30 s', beating_since = %s - interval '5 s'",
        (now, now),
    )

    assert connection.execute(judging, {"now": now, "judge": a}).fetchall() == []
    assert connection.execute(judging, {"now": now + 6 * SECOND, "judge": a}).fetchall() == [(b,)]


def test_changing_very_many_traders_at_once_costs_each_the_same(connection):
    """
    The rows before and after a change are compared by hashing, never each with each: 30,000 took 50 s.
    """
    (setting,) = connection.execute(
        "select proconfig from pg_proc where oid = 'vyx.record_trader_events'::regproc"
    ).fetchone()

    assert "enable_nestloop=off" in setting
