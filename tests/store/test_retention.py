"""What is older than it is kept goes, piece by piece, and nothing that is left becomes wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from app import retention
from app.domain.retention import KINDS, Clocks, KeepDays, kept_from
from app.metrics import WorkerMetrics
from app.store import feed, leases, signals
from app.store.pool import make_pool
from tests import world

KEEP = KeepDays()
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
DAY = timedelta(days=1)

# one row of every kind but signals, incidents and leases, older than any is kept
OLD_ROWS = """
  update vyx.machines set state = 'dead', started_at = now() - interval '1 year', ended_at = now() - interval '1 year';
  insert into public.signal_digests (trader_id, slot, user_id, matches, symbols, plan_hash, epoch)
  select id, now() - interval '1 year', user_id, 1, '{S}', 'h', 1
    from public.traders;
  insert into public.signal_revisions (trader_id, user_id, symbol, triggered_at, kind)
  select id, user_id, 'S', now() - interval '1 year', 'new'
    from public.traders;
  insert into public.signals_failed (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, forming, reason, failed_at)
  select id, user_id, 'S', '1m', now(), 1, '{}', 'h', 1, false, 'x', now() - interval '1 year'
    from public.traders;
  insert into vyx.symbols (symbol, base, quote) values ('S', 'S', 'USDT');
  insert into vyx.candle_refusals (symbol_id, timeframe, open_time, source, what, raw, refused_at)
  select symbol_id, '1m', now(), 'rest', 'x', 'x', now() - interval '1 year' from vyx.symbols;
  insert into vyx.candle_corrections (symbol_id, timeframe, open_time, became, reason, corrected_at)
  select symbol_id, '1m', now(), '{}', 'x', now() - interval '1 year' from vyx.symbols, generate_series(1, 2);
  insert into public.trader_versions (trader_id, number, user_id, filter, frequency, plan, plan_hash, saved_at)
  select id, n, user_id, 'f', '"every_bar"', '{}', 'h', now() - interval '1 year'
    from public.traders, generate_series(-1, 0) n;
  insert into public.trader_events (trader_id, user_id, from_state, to_state, version, at)
  select id, user_id, 'running', 'error', 1, now() - interval '1 year'
    from public.traders;
  insert into vyx.previews (user_id, plan, bars, until, created_at)
  select user_id, '{}', 1, now(), now() - interval '2 h'
    from public.traders;
  insert into vyx.idempotent_answers (user_id, key, fingerprint, claimed_at)
  select user_id, 'k', 'f', now() - interval '25 h'
    from public.traders;
  insert into vyx.rate_limits select user_id, 'save', array[now() - interval '25 h']
    from public.traders;
  insert into public.destinations (user_id, name, kind, hint)
  select user_id, 'd', 'webhook', 'h'
    from public.traders;
  insert into vyx.deliveries (source_id, destination_id, state, user_id, expires_at, queued_at)
  select 1, id, 'failed', user_id, now(), now() - interval '1 year' from public.destinations;
  insert into procrastinate.procrastinate_jobs (queue_name, task_name, status) values ('q', 't', 'failed');
  insert into procrastinate.procrastinate_events (job_id, type, at)
  select id, 'failed', now() - interval '1 year' from procrastinate.procrastinate_jobs;
"""


@pytest.fixture
async def pool(dsn):
    pool = make_pool(dsn, max_size=3, name="vyx-test")
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
def metrics():
    return WorkerMetrics(CollectorRegistry())


@pytest.fixture
def market(connection):
    """A market at the wall's own time, with a slot that closed now and one of each of the last hundred days."""
    connection.execute(
        "insert into vyx.markets (source, anchor_market_at, anchor_wall_at) values ('test', now(), now())"
    )
    connection.execute(
        "insert into vyx.slots (slot, state, closed_at, opened_at)"
        " select %(now)s::timestamptz - make_interval(days => d), 'complete', now(), now() from generate_series(0, 100) d",
        {"now": NOW},
    )


@pytest.fixture
def trader(connection):
    return world.add_trader(connection, world.add_user(connection))


def put_signals(connection, trader, *days_ago):
    for days in days_ago:
        at = NOW - days * DAY
        connection.execute("select vyx.keep_signal_partition(%s)", (at,))
        connection.execute(
            "insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)"
            " select %s, user_id, 'S', '1m', %s, 1, 'h', 1, now() from public.traders where id = %s",
            (trader, at, trader),
        )


def ages(connection, table, column):
    rows = connection.execute(f"select {column} from {table} order by 1").fetchall()
    return [round((NOW - row[0]) / DAY) for row in rows]


async def test_signals_are_kept_as_long_as_said_and_whole_months_are_dropped(
    connection, pool, metrics, market, trader
):
    put_signals(connection, trader, 200, 180, 91, 89, 1)

    pruned = await retention.prune(pool, KEEP, metrics)

    assert pruned["signals"] == 3
    assert ages(connection, "public.signals", "triggered_at") == [89, 1]
    months = {(NOW - days * DAY).strftime("signals_%Y_%m") for days in (200, 180)}
    left = connection.execute(
        "select array_agg(relname::text) from pg_class where relname like 'signals_20%'"
    )
    assert not months & set(left.fetchone()[0])
    assert metrics.pruned_rows.labels("signals")._value.get() == 3


async def test_the_feed_begins_after_the_newest_row_that_went(connection, pool, metrics, market, trader):
    put_signals(connection, trader, 200, 91, 89)
    ids = [row[0] for row in connection.execute("select id from public.signals order by triggered_at")]

    await retention.prune(pool, KEEP, metrics)

    async with pool.connection() as other:
        assert await feed.feed_floor(other) == ids[1]


async def test_a_month_that_somebody_reads_goes_row_by_row(connection, pool, market, trader):
    put_signals(connection, trader, 200, 1)
    async with pool.connection() as reader, reader.transaction():
        await reader.execute("select from public.signals")
        async with pool.connection() as other:
            assert await signals.drop_partition(other, before=NOW - 90 * DAY) is None
            assert await signals.prune(other, before=NOW - 90 * DAY, limit=10) == 1

    assert ages(connection, "public.signals", "triggered_at") == [1]


async def test_pieces_are_bounded_and_repeated_until_nothing_is_left(
    connection, pool, metrics, market, trader, monkeypatch
):
    monkeypatch.setattr(retention, "PIECE_ROWS", 3)

    assert (await retention.prune(pool, KeepDays(slots=50), metrics))["slots"] == 50

    assert max(ages(connection, "vyx.slots", "slot")) == 50
    counted = connection.execute("select row_count from vyx.prunings where kind = 'slots'").fetchone()
    assert counted == (50,)


async def test_what_was_pruned_is_no_gap_and_a_stop_stays_a_stop(connection, pool, metrics, market, trader):
    """Events are kept 10 days and leases 60: the stop 40 days ago still says why nothing was screened then."""
    with world.without_triggers(connection):
        for epoch, (first, last) in enumerate([(95, 80), (70, 41), (30, 1)], 1):
            connection.execute(
                "insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through, ended_at)"
                " values (%s, %s, 1, 'm', %s, %s, %s)",
                (trader, epoch, NOW - first * DAY, NOW - last * DAY, NOW - last * DAY),
            )
        for days, state in (
            (79, "stopped"),
            (71, "starting"),
            (41, "stopped"),
            (30, "starting"),
            (20, "running"),
        ):
            connection.execute(
                "insert into public.trader_events (trader_id, user_id, from_state, to_state, version, at)"
                " select id, user_id, 'running', %s, 1, %s from public.traders where id = %s",
                (state, NOW - days * DAY, trader),
            )

    pruned = await retention.prune(pool, KeepDays(events=10, leases=60), metrics)

    assert (pruned["leases"], pruned["events"]) == (1, 3)
    async with pool.connection() as other:
        ranges, _, pauses = await leases.read_coverage(other, trader)
    assert [round((NOW - r.first) / DAY) for r in ranges] == [69, 29]
    assert [round((NOW - p.begin_at) / DAY) for p in pauses] == [41]


async def test_every_kind_can_be_pruned(connection, pool, metrics, market, trader):
    """Every statement runs, and one old row of each goes."""
    boot = world.register(connection, "old")
    with world.without_triggers(connection):
        connection.execute(OLD_ROWS)
        connection.execute(
            "insert into vyx.incidents (kind, boot_id, message, found_at) values ('position moved', %s, 'x', now() - interval '1 year')",
            (boot,),
        )
        connection.execute(
            "insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through, ended_at)"
            " select id, 1, 1, 'm', now() - interval '2 years', now() - interval '1 year', now() - interval '1 year' from public.traders"
        )
    put_signals(connection, trader, 365)

    pruned = await retention.prune(pool, KEEP, metrics)

    failed = [kind for kind in KINDS if metrics.prune_failures.labels(kind)._value.get()]
    assert failed == []
    assert {kind for kind in KINDS if not pruned[kind]} == {"candles"}
    assert pruned["candle_corrections"] == 1  # the newest stays, machines know it by its number


async def test_a_kind_that_cannot_be_pruned_does_not_hold_up_the_others(connection, pool, metrics, market):
    connection.execute("alter table vyx.leases rename to leases_elsewhere")

    pruned = await retention.prune(pool, KEEP, metrics)

    assert "leases" not in pruned
    assert pruned["slots"] == 10
    assert metrics.prune_failures.labels("leases")._value.get() == 1


def test_without_a_market_nothing_of_its_time_is_old():
    clocks = Clocks(wall=NOW, market=None)
    ageless = {kind for kind in KINDS if kind != "candles" and kept_from(kind, KEEP, clocks) is None}
    assert ageless == {"signals", "signal_digests", "signal_revisions", "slots"}
