from __future__ import annotations

from datetime import timedelta

import pytest

from app.domain.lifecycle import TraderState

TRANSITIONS = {
    ("stopped", "starting"): "user start",
    ("starting", "running"): "a machine claimed it and loaded its plan",
    ("starting", "error"): "cannot load or evaluate",
    ("running", "error"): "cannot load or evaluate",
    ("starting", "stopping"): "user stop",
    ("running", "stopping"): "user stop",
    ("stopping", "stopped"): "owner finished the slot in hand, or there is none",
    ("error", "starting"): "retry_at reached, or user start",
    ("error", "stopped"): "user stop",
}


def test_a_trader_changes_state_along_this_table(connection):
    rows = connection.execute(
        "select from_state::text, to_state::text, caused_by from vyx.transitions"
    ).fetchall()

    assert {(a, b): cause for a, b, cause in rows} == TRANSITIONS


def test_the_states_here_are_the_states_of_the_database(connection):
    rows = connection.execute("select unnest(enum_range(null::public.trader_lifecycle))::text").fetchall()

    assert [row[0] for row in rows] == [state.value for state in TraderState]


@pytest.mark.parametrize("current", TraderState)
@pytest.mark.parametrize("wanted", TraderState)
def test_the_database_accepts_exactly_the_allowed_changes(connection, current, wanted):
    """Whoever makes them: the trigger speaks for people in Studio too."""
    trader = _trader_in(connection, current)

    def change():
        connection.execute("update public.trader_state set state = %s where trader_id = %s", (wanted, trader))

    if wanted == current or (current, wanted) in TRANSITIONS:
        change()
    else:
        import psycopg

        with pytest.raises(psycopg.Error) as refusal:
            change()
        assert refusal.value.sqlstate == "VX409"
        assert refusal.value.diag.message_detail == current


def test_no_way_leads_out_of_a_state_without_leading_somewhere():
    for state in TraderState:
        assert any(current == state for current, _ in TRANSITIONS)
        assert any(wanted == state for _, wanted in TRANSITIONS)


def test_rests_after_failures_double_up_to_a_quarter_of_an_hour_and_end_after_five(connection):
    trader = _trader_in(connection, TraderState.STARTING)

    for seconds in (60, 120, 240, 480, 900, None, None):
        rest = connection.execute(
            "update public.trader_state set state = 'error' where trader_id = %s returning retry_at - changed_at",
            (trader,),
        ).fetchone()[0]
        assert rest == (None if seconds is None else timedelta(seconds=seconds))
        connection.execute(
            "update public.trader_state set state = 'starting' where trader_id = %s", (trader,)
        )


def _trader_in(connection, state):
    trader = connection.execute(
        """with someone as (insert into auth.users (id) values (gen_random_uuid()) returning id)
           insert into public.traders (user_id, name, filter, plan, plan_hash) select id, 't', 'f', '{}', 'h' from someone returning id"""
    ).fetchone()[0]
    steps = {
        TraderState.STOPPED: [],
        TraderState.STARTING: ["starting"],
        TraderState.RUNNING: ["starting", "running"],
        TraderState.STOPPING: ["starting", "stopping"],
        TraderState.ERROR: ["starting", "error"],
    }[state]
    for step in steps:
        connection.execute("update public.trader_state set state = %s where trader_id = %s", (step, trader))
    return trader
