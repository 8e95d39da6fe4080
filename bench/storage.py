#!/usr/bin/env python3
"""
What a day of busy traders leaves in the database, and how fast it is pruned.

A day's rows are written to an embedded Postgres, the table is measured with its indexes and TOAST, and divided by its rows. A busy trader
stores 1440 signals a day with 4 shown values (one a minute), each delivered to one destination, and has 10 leases, 20 events and 1 version.
A trader that floods stores a digest a slot beyond its tier's signals of the day; the peer beside it stored signals for all its matches.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from prometheus_client import CollectorRegistry

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import figures  # noqa: E402 beside this file

from app import retention  # noqa: E402 the repository's own, without an installation
from app.domain.retention import KeepDays  # noqa: E402
from app.metrics import WorkerMetrics  # noqa: E402
from app.store import embedded, migrations  # noqa: E402
from app.store.pool import make_pool  # noqa: E402

SLOTS_A_DAY = 1440
DAYS_AGO = 100  # every row lies beyond what is kept, so that the same rows are pruned afterwards
A_DAY = {"signals": 1440, "deliveries": 1440, "events": 20, "leases": 10, "versions": 1}  # of a busy trader
PAIRS, FLOOD_SHOWN = 400, 32

TABLES = {
    "signals": "public.signals",
    "signal_digests": "public.signal_digests",
    "deliveries": "vyx.deliveries",
    "events": "public.trader_events",
    "leases": "vyx.leases",
    "slots": "vyx.slots",
}
INSERTS = {
    "signals": """insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, shown, plan_hash, epoch, screened_at)
        select %(trader)s, %(user)s, 'SYM' || n %% 400 || 'USDT', '1m', %(day)s + n * interval '1 min', random() * 1000,
               (select jsonb_object_agg('value_' || v, random() * 1000) from generate_series(1, %(shown)s) v where n = n), %(hash)s, 1, now()
          from generate_series(1, %(rows)s) n""",
    "signal_digests": """insert into public.signal_digests (trader_id, slot, user_id, matches, symbols, plan_hash, epoch)
        select %(trader)s, %(day)s + n * interval '1 min', %(user)s, 400,
               array(select 'SYM' || v || 'USDT' from generate_series(1, 20) v), %(hash)s, 1 from generate_series(1, %(rows)s) n""",
    "deliveries": """insert into vyx.deliveries (source_id, destination_id, state, user_id, trader_id, symbol, triggered_at, attempts, expires_at,
               queued_at, sent_at, answered_at, changed_at, status, answer)
        select n, %(destination)s, 'sent', %(user)s, %(trader)s, 'SYM' || n %% 400 || 'USDT', %(day)s, 1, %(day)s,
               %(day)s, %(day)s, %(day)s, %(day)s, 200, 'ok' from generate_series(1, %(rows)s) n""",
    "events": """insert into public.trader_events (trader_id, user_id, from_state, to_state, reason, version, at)
        select %(trader)s, %(user)s, 'running', 'error', 'evaluation failed', n, %(day)s from generate_series(1, %(rows)s) n""",
    "leases": """insert into vyx.leases (trader_id, epoch, boot_id, machine_id, after, through, ended_at)
        select %(trader)s, n, 1, 'machine-1234567890', %(day)s, %(day)s + interval '1 h', %(day)s from generate_series(1, %(rows)s) n""",
    "slots": """insert into vyx.slots (slot, state, symbols_expected, symbols_missing, missing, missing_reasons, opened_at, closed_at)
        select %(day)s + n * interval '1 min', 'complete', 400, 2, '{SYM1USDT,SYM2USDT}',
               '{"SYM1USDT": "no trade", "SYM2USDT": "no trade"}', %(day)s, %(day)s from generate_series(1, %(rows)s) n""",
}


def make_world(connection: psycopg.Connection) -> dict[str, object]:
    """One trader, one destination and a market at the wall's time; returns what every insert needs."""
    user = uuid4()
    connection.execute("insert into auth.users (id) values (%s)", (user,))
    connection.execute("select public.set_tier(%s, 'pro')", (user,))
    trader: UUID = connection.execute(
        "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, 'busy', 'f', '{}', 'h') returning id",
        (user,),
    ).fetchone()[0]
    destination: UUID = connection.execute(
        "insert into public.destinations (user_id, name, kind, hint) values (%s, 'd', 'webhook', 'h') returning id",
        (user,),
    ).fetchone()[0]
    connection.execute(
        "insert into vyx.markets (source, anchor_market_at, anchor_wall_at) values ('bench', now(), now())"
    )
    connection.execute("insert into vyx.slots (slot) values (date_trunc('minute', now()))")
    day = connection.execute(
        "select date_trunc('day', now() - make_interval(days => %s))", (DAYS_AGO,)
    ).fetchone()[0]
    for month in range(5):
        connection.execute(
            "select vyx.keep_signal_partition(%s::timestamptz + make_interval(months => %s))", (day, month)
        )
    return {"user": user, "trader": trader, "destination": destination, "day": day, "hash": "0" * 64}


def bytes_of(connection: psycopg.Connection, table: str) -> int:
    """With indexes, TOAST and, for signals, all partitions."""
    return int(
        connection.execute(
            "select sum(pg_total_relation_size(relid)) from pg_partition_tree(%s::regclass)"
            if table == "public.signals"
            else "select pg_total_relation_size(%s::regclass)",
            (table,),
        ).fetchone()[0]
    )


def row_bytes(
    connection: psycopg.Connection, world: dict[str, object], kind: str, rows: int, shown: int = 4
) -> float:
    """Bytes that a row of *kind* takes, measured over *rows* of them."""
    before = bytes_of(connection, TABLES[kind])
    connection.execute(INSERTS[kind], world | {"rows": rows, "shown": shown})
    return (bytes_of(connection, TABLES[kind]) - before) / rows


def measure_bytes(connection: psycopg.Connection, rows: int) -> dict[str, float]:
    world = make_world(connection)
    # a ledger, an ended lease and an old row are guarded against hands; this is a bench, so without triggers
    connection.execute("set session_replication_role = replica")
    found = {kind: row_bytes(connection, world, kind, rows) for kind in TABLES if kind != "slots"}
    found["slots"] = row_bytes(connection, world, "slots", min(rows, 10 * SLOTS_A_DAY))
    other = make_trader(connection, world)
    found["signals_32"] = row_bytes(connection, world | {"trader": other}, "signals", rows, FLOOD_SHOWN)
    connection.execute("set session_replication_role = default")
    return found


def make_trader(connection: psycopg.Connection, world: dict[str, object]) -> UUID:
    return connection.execute(
        "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, 'other', 'f', '{}', 'h') returning id",
        (world["user"],),
    ).fetchone()[0]


async def measure_pruning(url: str) -> dict[str, object]:
    """Everything that was written is older than kept: one run of what the job does."""
    pool = make_pool(url, max_size=2, name="vyx-bench")
    await pool.open(wait=True)
    began = time.perf_counter()
    pruned = await retention.prune(pool, KeepDays(), WorkerMetrics(CollectorRegistry()))
    seconds = time.perf_counter() - began
    await pool.close()
    rows = sum(pruned.values())
    return {"rows": rows, "seconds": round(seconds, 2), "rows_per_s": round(rows / seconds)}


def a_day(found: dict[str, float], traders: int) -> dict[str, float]:
    """Megabytes a day of each kind, of so many busy traders."""
    kinds = ("signals", "deliveries", "events", "leases")
    day = {kind: found[kind] * A_DAY[kind] * traders / 1e6 for kind in kinds}
    day["slots"] = found["slots"] * SLOTS_A_DAY / 1e6
    return day


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="vyx-storage-", ignore_cleanup_errors=True) as folder:
        server = embedded.start(Path(folder))
        try:
            url = server.get_uri()
            migrations.migrate(url)
            with psycopg.connect(url, autocommit=True) as connection:
                found = measure_bytes(connection, options.rows)
            pruning = asyncio.run(measure_pruning(url))
        finally:
            server.cleanup()
    show(found, pruning)
    days = {traders: a_day(found, traders) for traders in (100, 1000)}
    figures.finish({"row_bytes": found, "mb_a_day": days, "pruning": pruning}, as_json=options.json)


def show(found: dict[str, float], pruning: dict[str, object]) -> None:
    keep = KeepDays()
    kept = {
        "signals": keep.signals,
        "deliveries": keep.deliveries,
        "events": keep.events,
        "leases": keep.leases,
        "slots": keep.slots,
    }
    days = {traders: a_day(found, traders) for traders in (100, 1000)}
    rows = [
        [
            kind,
            round(found[kind]),
            round(days[100][kind], 1),
            round(days[1000][kind], 1),
            kept[kind],
            round(days[100][kind] * kept[kind] / 1000, 2),
            round(days[1000][kind] * kept[kind] / 1000, 2),
        ]
        for kind in kept
    ]
    totals = [sum(float(row[column]) for row in rows) for column in (2, 3, 5, 6)]  # type: ignore[arg-type] numbers
    rows.append(
        [
            "in all",
            None,
            round(totals[0], 1),
            round(totals[1], 1),
            None,
            round(totals[2], 2),
            round(totals[3], 2),
        ]
    )
    figures.show(
        "Busy traders",
        ["", "bytes a row", "MB a day, 100", "MB a day, 1000", "days kept", "GB, 100", "GB, 1000"],
        rows,
    )
    everything = found["signals_32"] * PAIRS * SLOTS_A_DAY
    limited = found["signals_32"] * 50_000 + found["signal_digests"] * (SLOTS_A_DAY - 50_000 / PAIRS)
    figures.show(
        f"A pro trader that matches {PAIRS} pairs every minute with {FLOOD_SHOWN} values, MB a day",
        ["every match a signal", "as it is: 50,000 signals, then digests"],
        [[round(everything / 1e6, 1), round(limited / 1e6, 1)]],
    )
    figures.show("Pruning all of it", list(pruning), [list(pruning.values())])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="of each kind")
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
