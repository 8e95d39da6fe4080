"""
What a signed-in user sees through Supabase's own API, where only row security stands between them and the tables.
"""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest

TABLES = ("traders", "trader_state", "trader_events", "signals", "signal_digests", "accounts")


@pytest.fixture
def two_users(connection):
    connection.execute("select vyx.keep_signal_partition(timestamptz '2024-05-01Z')")
    ids = []
    for _ in range(2):
        user_id = uuid.uuid4()
        connection.execute("insert into auth.users (id) values (%s)", (user_id,))
        connection.execute("select public.set_tier(%s, 'pro')", (user_id,))
        trader = connection.execute(
            "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, 't', 'f', '{}', 'h') returning id",
            (user_id,),
        ).fetchone()[0]
        connection.execute("select public.start_trader(%s)", (trader,))
        connection.execute(
            """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)
               values (%s, %s, 'S', '1m', '2024-05-01Z', 1, 'h', 1, now())""",
            (trader, user_id),
        )
        connection.execute(
            """insert into public.signal_digests (trader_id, user_id, slot, matches, symbols, plan_hash, epoch)
               values (%s, %s, '2024-05-01Z', 1, '{S}', 'h', 1)""",
            (trader, user_id),
        )
        ids.append(user_id)
    return ids


def as_user(connection, user_id):
    connection.execute("set local role authenticated")
    connection.execute(
        "select set_config('request.jwt.claims', %s, true)", (json.dumps({"sub": str(user_id)}),)
    )


@pytest.mark.parametrize("table", TABLES)
def test_a_user_sees_their_own_rows_and_no_others(connection, two_users, table):
    with connection.transaction():
        as_user(connection, two_users[0])
        seen = connection.execute(f"select distinct user_id from public.{table}").fetchall()

    assert seen == [(two_users[0],)]


@pytest.mark.parametrize("table", TABLES)
def test_nobody_signed_in_sees_nothing(connection, two_users, table):
    with connection.transaction(force_rollback=True):
        connection.execute("set local role anon")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"select from public.{table}")


@pytest.mark.parametrize(
    "statement",
    [
        "update public.accounts set tier = 'elite'",
        "update public.trader_state set signal_count = 9",
        "delete from public.traders",
        """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)
           select trader_id, user_id, 'X', '1m', '2024-05-01Z', 1, 'h', 1, now() from public.trader_state""",
        "select public.set_tier((select user_id from public.accounts limit 1), 'elite')",
        "select public.start_trader((select id from public.traders limit 1))",
        "select from vyx.machines",
        "select from vyx.signals_2024_05",
        "select nextval('vyx.feed_id')",
    ],
)
def test_a_user_changes_nothing_past_the_api(connection, two_users, statement):
    with connection.transaction(force_rollback=True):
        as_user(connection, two_users[0])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
