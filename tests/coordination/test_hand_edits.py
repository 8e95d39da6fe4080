"""Every line of docs/hand-edits.md: what an edit by hand does to each column of the coordination tables."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from tests import world

TABLE = Path(__file__).parents[2] / "docs" / "hand-edits.md"
TABLES = (
    "vyx.machines",
    "vyx.machine_heartbeats",
    "public.trader_state",
    "vyx.leases",
    "vyx.slots",
    "vyx.trader_counts",
    "vyx.server_lives",
)
FOLLOWS = "follow from other columns"
SCREENED = "only the machine that holds the trader"
LEASE = "proof of what was screened"
CLOSED = "is closed as complete"

REFUSED = {
    ("vyx.machines", "boot_id"): ("boot_id = 99", "can only be updated to DEFAULT"),
    ("vyx.machines", "machine_id"): ("machine_id = 'b'", "say what was"),
    ("vyx.machines", "screened_through"): (
        "screened_through = screened_through + interval '1 min'",
        "only the machine itself moves it",
    ),
    ("vyx.machines", "started_at"): ("started_at = now()", "say what was"),
    ("vyx.machines", "ended_at"): ("ended_at = now()", "say what was|dead_machine_has_an_end"),
    ("vyx.machine_heartbeats", "boot_id"): ("boot_id = 99", "machine_heartbeats_(pkey|boot_id_fkey)"),
    ("public.trader_state", "trader_id"): ("trader_id = gen_random_uuid()", FOLLOWS),
    ("public.trader_state", "user_id"): ("user_id = gen_random_uuid()", FOLLOWS),
    ("public.trader_state", "version"): ("version = version + 1", "changes only with its state"),
    ("public.trader_state", "error_count"): ("error_count = 3", FOLLOWS),
    ("public.trader_state", "epoch"): ("epoch = epoch + 5", FOLLOWS),
    ("public.trader_state", "lease_after"): ("lease_after = lease_after - interval '1 day'", FOLLOWS),
    ("public.trader_state", "resume_after"): ("resume_after = now()", SCREENED),
    ("public.trader_state", "in_step"): ("in_step = not in_step", SCREENED),
    ("public.trader_state", "signal_count"): ("signal_count = 9", SCREENED),
    ("public.trader_state", "last_signal_at"): ("last_signal_at = now()", SCREENED),
    ("public.trader_state", "signal_day"): ("signal_day = '2001-01-01'", SCREENED),
    ("public.trader_state", "signals_that_day"): ("signals_that_day = 9", SCREENED),
    ("public.trader_state", "flooding_since"): ("flooding_since = now()", SCREENED),
    ("public.trader_state", "started_at"): ("started_at = '2001-01-01'", FOLLOWS),
    ("public.trader_state", "stopped_at"): ("stopped_at = now()", FOLLOWS),
    ("public.trader_state", "changed_at"): ("changed_at = '2001-01-01'", FOLLOWS),
    ("vyx.leases", "trader_id"): ("trader_id = gen_random_uuid()", LEASE),
    ("vyx.leases", "epoch"): ("epoch = epoch + 1", LEASE),
    ("vyx.leases", "boot_id"): ("boot_id = 99", LEASE),
    ("vyx.leases", "machine_id"): ("machine_id = 'b'", LEASE),
    ("vyx.leases", "after"): ("after = after - interval '1 min'", LEASE),
    ("vyx.leases", "through"): ("through = through + interval '1 min'", LEASE),
    ("vyx.leases", "ended_at"): ("ended_at = now()", LEASE),
    ("vyx.slots", "slot"): ("slot = slot + interval '1 year'", "cannot become another one"),
    ("vyx.slots", "state"): ("state = 'open', closed_at = null", CLOSED),
    ("vyx.slots", "symbols_expected"): ("symbols_expected = 7", CLOSED),
    ("vyx.slots", "symbols_missing"): ("symbols_missing = 7", CLOSED),
    ("vyx.slots", "missing"): ("missing = '{X}'", CLOSED),
    ("vyx.slots", "missing_reasons"): ("""missing_reasons = '{"X": "y"}'""", CLOSED),
    ("vyx.slots", "reason"): ("reason = 'x'", CLOSED),
    ("vyx.slots", "opened_at"): ("opened_at = '2001-01-01'", CLOSED),
    ("vyx.slots", "closed_at"): ("closed_at = '2001-01-01'", CLOSED),
    ("vyx.server_lives", "only_one"): ("only_one = false", "one_row_per_life"),
}


def documented():
    """(table, column) of every line, in order."""
    lines = re.findall(
        r"^\| ((?:vyx|public)\.\w+) \| ([a-z_ ]+) \|", TABLE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [(table, column) for table, column in lines]


@pytest.fixture
def boot(connection):
    """A machine that has screened its one trader through slot 2, whose lease before ended at slot 1."""
    world.close_slots(connection, 0)
    user = world.add_user(connection)
    world.add_trader(connection, user)
    for number, name in ((1, "gone"), (2, "a")):
        boot = world.register(connection, name)
        world.claim(connection, boot)
        world.mark_running(connection, boot, world.leases(connection, boot))
        world.close_slots(connection, number)
        held = world.leases(connection, boot)
        with connection.transaction():
            connection.execute(world.MACHINES["fence"], {"boot_id": boot})
            position = {"boot_id": boot, "slot": world.at(number), "previous": world.at(number - 1)}
            connection.execute(world.MACHINES["advance_machine"], position)
            moved = {
                "boot_id": boot,
                "slot": world.at(number),
                "trader_ids": list(held),
                "epochs": list(held.values()),
            }
            connection.execute(world.TRADER_STATE["put_in_step"], moved)
        if name == "gone":
            world.call(connection, world.MACHINES["leave"], boot_id=boot)
    return boot


def whole(connection):
    """Every row of these tables."""
    return {table: connection.execute(f"select * from {table} order by 1").fetchall() for table in TABLES}


def check(connection):
    """What a keeper does once a minute; the sentences of its repairs."""
    world.call(connection, world.MACHINES["check"])
    return [row[0] for row in connection.execute("select message from vyx.incidents order by incident_id")]


def beat(connection, boot):
    return world.call(connection, world.MACHINES["beat"], boot_id=boot, owned=1, progress="{}")


def test_every_column_has_its_line(connection):
    """
    A new column is documented, and thought about.
    """
    columns = connection.execute(
        "select table_schema || '.' || table_name, column_name from information_schema.columns"
        " where table_schema || '.' || table_name = any (%s)",
        (list(TABLES),),
    ).fetchall()

    lines = documented()
    assert len(lines) == len(set(lines))
    assert set(columns) == {(table, column) for table, column in lines if " " not in column}


@pytest.mark.parametrize(("table", "column"), REFUSED)
def test_an_edit_of_the_machinery_is_refused_with_a_sentence(connection, boot, table, column):
    """
    And nothing changes.
    """
    edit, sentence = REFUSED[table, column]
    before = whole(connection)

    with pytest.raises(psycopg.Error, match=sentence):
        connection.execute(f"update {table} set {edit}")

    assert whole(connection) == before


def test_every_refused_line_is_tried():
    """
    What the table calls refused without a condition stands in the list above.
    """
    text = TABLE.read_text(encoding="utf-8")
    refused = re.findall(r"^\| (\S+) \| (\w+) \| refused(?: once closed)? \|", text, re.MULTILINE)

    assert set(refused) == set(REFUSED)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("delete from vyx.machines where machine_id = 'a'", "trader_state_owner_fkey"),
        ("update vyx.machines set state = 'alive', ended_at = null where machine_id = 'gone'", "stays dead"),
        ("delete from public.trader_state", "is part of it"),
        ("delete from vyx.leases", LEASE),
        (
            """insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through)
               select trader_id, 77, boot_id, machine_id, through, through + interval '1 min' from vyx.leases""",
            LEASE,
        ),
        (
            "delete from vyx.slots where slot = (select max(slot) from vyx.slots)",
            "part of the ledger of the last day",
        ),
        ("update public.trader_state set state = 'stopped'", "cannot become stopped"),
        ("update public.trader_state set retry_at = now()", "only_an_error_is_retried"),
        ("update public.trader_state set owner = 99", "trader_state_owner_fkey"),
    ],
)
def test_rows_of_the_machinery_do_not_come_or_go_by_hand(connection, boot, statement, sentence):
    """
    And nothing changes.
    """
    before = whole(connection)

    with pytest.raises(psycopg.Error, match=sentence):
        connection.execute(statement)

    assert whole(connection) == before


def test_a_slot_of_the_far_future_is_refused(connection, boot):
    """
    The ledger would stand there until then.
    """
    connection.execute(
        "insert into vyx.markets (source, anchor_market_at) values ('simulated', %s)", (world.at(2),)
    )

    with pytest.raises(psycopg.Error, match="more than a day after the market's own time"):
        connection.execute("insert into vyx.slots (slot) values (%s)", (world.at(60 * 24 * 3),))


def test_a_heartbeat_row_that_was_deleted_comes_back(connection, boot):
    """
    With the next beat, and an incident says so.
    """
    connection.execute("delete from vyx.machine_heartbeats where boot_id = %s", (boot,))

    assert beat(connection, boot)[0] is True

    assert world.call(
        connection, "select count(*) from vyx.machine_heartbeats where boot_id = %(b)s", b=boot
    ) == (1,)
    assert "came back with the next beat" in check(connection)[0]


def test_a_machine_whose_heartbeat_row_was_deleted_is_reaped_when_it_dies(connection, boot):
    """
    It counts as silent since its start.
    """
    connection.execute("delete from vyx.machine_heartbeats where boot_id = %s", (boot,))
    late = world.call(connection, "select now() + interval '1 hour'")[0]

    assert boot in [row[0] for row in world.reap(connection, now=late)]


def test_a_heartbeat_from_the_future_is_set_to_now(connection, boot):
    """
    It would hide a dead machine until then.
    """
    connection.execute(
        "update vyx.machine_heartbeats set heartbeat_at = now() + interval '1 year' where boot_id = %s",
        (boot,),
    )

    assert check(connection) == ["its heartbeat was from the future and was set to now"]
    in_the_past = "select max(heartbeat_at) <= clock_timestamp() from vyx.machine_heartbeats"
    assert world.call(connection, in_the_past) == (True,)


def test_what_a_heartbeat_says_is_rewritten_by_the_next(connection, boot):
    """
    A second later.
    """
    connection.execute(
        """update vyx.machine_heartbeats
              set owned = 99, progress = '{"x": {}}', beating_since = now() + interval '1 year', heartbeat_at = '2001-01-01'"""
    )

    beat(connection, boot)

    written = "select owned, progress, beating_since <= clock_timestamp(), heartbeat_at > now() - interval '1 min' from vyx.machine_heartbeats where boot_id = %(b)s"
    assert world.call(connection, written, b=boot) == (1, {}, True, True)


@pytest.mark.parametrize(
    "edit",
    [
        "update vyx.trader_counts set traders = traders + 5",
        "update vyx.trader_counts set owner = 99",
        "delete from vyx.trader_counts",
    ],
)
def test_kept_numbers_are_counted_again(connection, boot, edit):
    """
    Shares would be unfair, and the limit over all users wrong.
    """
    connection.execute(edit)

    assert any("counted again" in message for message in check(connection))

    assert world.call(connection, world.LEASES["shares"], boot_id=boot)[2:] == (1, 0, 1)
    again = len(check(connection))
    assert len(check(connection)) == again


def test_a_minute_without_a_slot_becomes_an_outage(connection, boot):
    """
    Deleted with triggers off, or left out by an insert ahead of it: a gap is data, never silent.
    """
    with world.without_triggers(connection):
        connection.execute("delete from vyx.slots where slot = %s", (world.at(1),))
    connection.execute("insert into vyx.slots (slot) values (%s)", (world.at(4),))

    assert len(check(connection)) == 2

    states = connection.execute("select slot, state::text from vyx.slots order by slot").fetchall()
    assert states == [
        (world.at(0), "complete"),
        (world.at(1), "outage"),
        (world.at(2), "complete"),
        (world.at(3), "outage"),
        (world.at(4), "open"),
    ]


def test_nothing_is_put_right_where_nothing_is_wrong(connection, boot):
    """
    The check finds only what differs.
    """
    assert check(connection) == []


def test_freeing_a_trader_by_hand_ends_its_lease(connection, boot):
    """
    It means what it says: somebody claims it, and what was screened is kept.
    """
    connection.execute("update public.trader_state set owner = null")

    assert world.claim(connection, boot) == 1
    assert world.call(connection, "select count(*) from vyx.leases") == (2,)


def test_a_retry_by_hand_comes_with_the_next_round(connection, boot):
    """
    retry_at of a trader in error is a wish.
    """
    world.fail(connection, boot, world.leases(connection, boot))
    connection.execute(
        "update public.trader_state set retry_at = now(), reason = 'again, please', last_error = 'seen'"
    )

    assert world.call(connection, world.TRADER_STATE["retry_due"], n=10) == (1,)


def test_ending_a_machine_by_hand_frees_its_traders(connection, boot):
    """
    Its process is fenced from that moment on.
    """
    connection.execute("update vyx.machines set state = 'dead', ended_at = now() where boot_id = %s", (boot,))

    assert beat(connection, boot)[0] is False
    assert world.claim(connection, world.register(connection, "b")) == 1


def test_the_transaction_of_a_change_cannot_be_forged(connection, boot):
    """
    Machines read changes by it; an edit counts as a change of its own transaction.
    """
    connection.execute("update public.trader_state set changed_in = '5'")

    assert world.call(connection, "select changed_in > '5'::xid8 from public.trader_state") == (True,)


def test_a_later_life_of_the_server_only_delays_judgement(connection, boot):
    """
    readable_since says since when silence counts.
    """
    world.fall_silent(connection, boot)
    connection.execute("update vyx.server_lives set readable_since = now()")

    assert world.reap(connection) == []
