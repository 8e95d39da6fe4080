"""
A hundred thousand traders on one real machine: loading, slots, heartbeats and a drain while it works.

    python bench/machine.py [--traders 100000] [--symbols 400] [--seconds 240] [--json]

A real `vyx up` on generated candles of --symbols pairs at the market's own pace, with the traders of bench/screening.py (all different)
of 1000 users. Told: how long after the last trader was started until all are running and in step; the longest the machine went without
a beat, while loading and while screening (the others would call it dead after 10 s; it stops trusting itself after 2); from the commit
of each slot to the commit that accounts for it; the worker's peak memory; how long after SIGTERM the last trader was given back.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import finish, quantiles, show
from bench.screening import draw_different, plan_of
from bench.service import Service

BEGAN = datetime(2024, 5, 1, tzinfo=UTC)
HISTORY_H, LIVE_H = 40, 8
USERS = 1000
BATCH = 2000
LOAD_WITHIN_S = 600
POLL_S = 0.05
BEAT_TARGET_S, DRAIN_TARGET_S, SLOT_TARGET_S, MEMORY_TARGET_MB = 2.0, 1.0, 2.0, 2048


def write_candles(folder: Path, symbols: int) -> None:
    """Random walks as the exchange's dump files."""
    rng = np.random.default_rng(1)
    minutes = (HISTORY_H + LIVE_H) * 60
    times = int(BEGAN.timestamp() * 1000) + 60_000 * np.arange(minutes)
    for number in range(symbols):
        close = 100 * np.cumprod(1 + rng.normal(0, 1e-3, minutes))
        opened = np.concatenate([[100.0], close[:-1]])
        spread = rng.exponential(5e-4, (2, minutes))
        high, low = np.maximum(opened, close) * (1 + spread[0]), np.minimum(opened, close) * (1 - spread[1])
        volume = rng.lognormal(3, 1, minutes)
        columns = [times, opened, high, low, close, volume, times + 59_999, volume * close]
        rows = np.column_stack(
            [*columns, np.full(minutes, 9), volume / 2, volume * close / 2, np.zeros(minutes)]
        )
        form = ["%d", "%.6f", "%.6f", "%.6f", "%.6f", "%.4f", "%d", "%.4f", "%d", "%.4f", "%.4f", "%d"]
        np.savetxt(folder / f"P{number:03}USDT-1m-2024-05-01.csv", rows, fmt=form, delimiter=",")


def put_traders(connection: psycopg.Connection, count: int) -> None:
    """Users and stopped traders, as saving leaves them."""
    users = [uuid4() for _ in range(min(USERS, count))]
    for user in users:
        connection.execute("insert into auth.users (id) values (%s)", (user,))
        connection.execute("select public.set_tier(%s, 'elite')", (user,))
    rows = []
    for number, trader in enumerate(draw_different(count)):
        plan = plan_of(trader)
        rows.append((
            users[number % len(users)], f"bench {number}", "signal(...)", plan.encode().decode(), plan.hash,
            psycopg.types.json.Jsonb(plan.summary()), '"on_enter"' if trader.on_enter else '"every_bar"',
        ))  # fmt: skip
    with connection.cursor() as cursor:
        for first in range(0, count, BATCH):
            cursor.executemany(
                "insert into public.traders (user_id, name, filter, plan, plan_hash, plan_summary, frequency)"
                " values (%s, %s, %s, %s, %s, %s, %s)",
                rows[first : first + BATCH],
            )


def start_traders(connection: psycopg.Connection) -> None:
    """As by `start_trader` in Studio, some at a time."""
    ids = [
        row[0]
        for row in connection.execute("select trader_id from public.trader_state where state = 'stopped'")
    ]
    for first in range(0, len(ids), BATCH):
        connection.execute("select vyx.start_trader_v1(id) from unnest(%s) id", (ids[first : first + BATCH],))


class Watched:
    """What polling the database showed: the greatest age of the heartbeat, and when slots were accounted for."""

    def __init__(self) -> None:
        self.oldest_beat_s = 0.0
        self.delays_s: dict[datetime, float] = {}

    def look(self, connection: psycopg.Connection) -> None:
        age, through = connection.execute(
            "select extract(epoch from clock_timestamp() - heartbeat_at)::float8, screened_through"
            "  from vyx.machines join vyx.machine_heartbeats using (boot_id) where state <> 'dead'"
        ).fetchone()
        self.oldest_beat_s = max(self.oldest_beat_s, age)
        for slot, waited in connection.execute(
            "select slot, extract(epoch from clock_timestamp() - closed_at)::float8 from vyx.slots"
            " where state = 'complete' and slot <= %s and slot > %s",
            (through, through - timedelta(minutes=3)),
        ):
            self.delays_s.setdefault(slot, waited)


def until_running(connection: psycopg.Connection, watched: Watched) -> float:
    began = time.monotonic()
    while time.monotonic() - began < LOAD_WITHIN_S:
        watched.look(connection)
        (waiting,) = connection.execute(
            "select count(*) from public.trader_state where not (state = 'running' and in_step)"
        ).fetchone()
        if not waiting:
            return time.monotonic() - began
        time.sleep(0.25)
    raise SystemExit(f"{waiting} traders were not running after {LOAD_WITHIN_S} s")


def worker_of(up: int) -> int:
    """The process id of the worker that `vyx up` runs."""
    for child in _children(up):
        if "worker" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").split("\0"):
            return child
    raise SystemExit("vyx up runs no worker")


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text(encoding="utf-8").split())


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def drain(connection: psycopg.Connection, worker: int) -> float:
    """Seconds from SIGTERM until its machine holds nothing and has left."""
    (boot,) = connection.execute("select boot_id from vyx.machines where state <> 'dead'").fetchone()
    os.kill(worker, signal.SIGTERM)
    began = time.monotonic()
    while time.monotonic() - began < 60:
        (held,) = connection.execute(
            "select count(*) from public.trader_state where owner = %s", (boot,)
        ).fetchone()
        if not held:
            return time.monotonic() - began
        time.sleep(POLL_S)
    raise SystemExit("the machine still held traders a minute after SIGTERM")


def measure(options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True) as folder:
        market = Path(folder) / "market"
        market.mkdir()
        write_candles(market, options.symbols)
        live_from = f"{BEGAN + timedelta(hours=HISTORY_H):%Y-%m-%dT%H:%M:%SZ}"
        with (
            Service("--market", str(market), "--speed", "1", "--from", live_from) as service,
            psycopg.connect(service.database_url, autocommit=True) as connection,
        ):
            put_traders(connection, options.traders)
            began = time.monotonic()
            start_traders(connection)
            starting_s = time.monotonic() - began
            loading, screening = Watched(), Watched()
            running_s = until_running(connection, loading)
            worker = worker_of(service.process.pid)
            loaded_mb = peak_mb(worker)
            seen = set(loading.delays_s)
            until = time.monotonic() + options.seconds
            while time.monotonic() < until:
                screening.look(connection)
                time.sleep(POLL_S)
            memory_mb = peak_mb(worker)
            (signals,) = connection.execute("select count(*) from public.signals").fetchone()
            drained_s = drain(connection, worker)
    return {
        "traders": options.traders,
        "symbols": options.symbols,
        "starting_s": round(starting_s, 1),
        "running_s": round(running_s, 1),
        "oldest_beat_loading_s": round(loading.oldest_beat_s, 2),
        "oldest_beat_screening_s": round(screening.oldest_beat_s, 2),
        "slot_s": quantiles([s for slot, s in screening.delays_s.items() if slot not in seen], digits=2),
        "loaded_mb": round(loaded_mb),
        "peak_mb": round(memory_mb),
        "signals": signals,
        "drained_s": round(drained_s, 2),
    }


def report(figures: dict) -> None:
    slot = figures["slot_s"]
    rows = [
        ["all started", figures["starting_s"], None],
        ["… until the last is running and in step", figures["running_s"], None],
        ["longest without a beat, while loading", figures["oldest_beat_loading_s"], BEAT_TARGET_S],
        ["longest without a beat, while screening", figures["oldest_beat_screening_s"], BEAT_TARGET_S],
        [f"slot complete → accounted for, median of {slot['n']}", slot["p50"], SLOT_TARGET_S],
        ["… longest", slot["max"], None],
        ["SIGTERM → every trader given back", figures["drained_s"], DRAIN_TARGET_S],
    ]
    show(
        f"{figures['traders']} traders, {figures['symbols']} pairs; seconds",
        ["what", "measured", "target"],
        rows,
    )
    print(
        f"worker's peak memory {figures['peak_mb']} MB (loaded: {figures['loaded_mb']} MB; target {MEMORY_TARGET_MB} MB), "
        f"{figures['signals']} signals"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traders", type=int, default=100_000)
    parser.add_argument("--symbols", type=int, default=400)
    parser.add_argument(
        "--seconds", type=float, default=240, help="of watching it screen (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    figures = measure(options)
    report(figures)
    finish(figures, as_json=options.json)


if __name__ == "__main__":
    main()
