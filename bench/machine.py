"""
A hundred thousand traders on one real machine: loading, slots, heartbeats and a drain while it works; or on several, one of which is
killed.

    python bench/machine.py [--traders 100000] [--symbols 400] [--seconds 240] [--machines 1] [--json]

A real `vyx up` on generated candles of --symbols pairs at the market's own pace, with the traders of bench/screening.py (all different)
of 1000 users. Told: how long after the last trader was started until all are running and in step; the longest the machine went without
a beat, while loading and while screening (the others would call it dead after 10 s; it stops trusting itself after 2); from the commit
of each slot to the commit that accounts for it; the worker's peak memory; how long after SIGTERM every trader was free for others.
With --machines N > 1, N - 1 more workers join; one of them is killed (SIGKILL) when the shares are even: how long until no trader is
without a living owner, and until all are in step again; the longest any other machine went without a beat meanwhile.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
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
from bench.service import ROOT, Service, environment

BEGAN = datetime(2024, 5, 1, tzinfo=UTC)
HISTORY_H, LIVE_H = 40, 8
USERS = 1000
BATCH = 2000
LOAD_WITHIN_S = 600
POLL_S = 0.05
BEAT_TARGET_S, DRAIN_TARGET_S, SLOT_TARGET_S, MEMORY_TARGET_MB, TAKEOVER_TARGET_S = 1.5, 1.0, 2.0, 2048, 8.0


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

    def __init__(self, besides: int = 0) -> None:
        self.besides = besides  # a boot that was killed
        self.oldest_beat_s = 0.0
        self.delays_s: dict[datetime, float] = {}

    def look(self, connection: psycopg.Connection) -> None:
        age, through = connection.execute(
            "select extract(epoch from clock_timestamp() - heartbeat_at)::float8, screened_through"
            "  from vyx.machines join vyx.machine_heartbeats using (boot_id) where state <> 'dead' and boot_id <> %s order by 1 desc limit 1",
            (self.besides,),
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
    """Seconds from SIGTERM until its machine has left: what a dead machine owned is free for others."""
    (boots,) = connection.execute(
        "select array_agg(boot_id) from vyx.machines where state <> 'dead'"
    ).fetchone()
    os.kill(worker, signal.SIGTERM)
    return seconds_until(
        connection,
        "select exists (select from vyx.machines where boot_id = any (%s) and state = 'dead')",
        (boots,),
        within_s=60,
    )


def seconds_until(
    connection: psycopg.Connection, question: str, values: tuple, within_s: float, look: Watched | None = None
) -> float:
    """Ask until it is so; the time that took."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        if connection.execute(question, values).fetchone()[0]:
            return time.monotonic() - began
        if look is not None:
            look.look(connection)
        time.sleep(POLL_S)
    raise SystemExit(f"not within {within_s:g} s: {question}")


EVEN = (
    "select count(*) = %s and min(n) >= 0.8 * avg(n) and bool_and(ready) from ("
    "  select count(*) as n, bool_and(in_step and s.state = 'running') as ready from public.trader_state s"
    "  join vyx.machines m on m.boot_id = s.owner and m.state <> 'dead' group by s.owner) shares"
)
KILLED = "select boot_id from vyx.machines where machine_id = 'joined-1'"
OWNED = "select not exists (select from public.trader_state s where s.owner is null or s.owner = %s)"
IN_STEP = "select not exists (select from public.trader_state s where s.owner is null or s.owner = %s or not s.in_step)"


def kill_one(
    connection: psycopg.Connection, service: Service, market: tuple[str, ...], machines: int
) -> dict:
    """Let more machines join, and kill one of them."""
    joined = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "app.cli",
                "worker",
                "--data-dir",
                str(service.data_dir),
                "--metrics-port",
                "off",
                *market,
            ],
            env=environment(DATABASE_URL=service.database_url, VYX_MACHINE_ID=f"joined-{n}"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(1, machines)
    ]
    try:
        even_s = seconds_until(connection, EVEN, (machines,), LOAD_WITHIN_S)
        killed = connection.execute(KILLED).fetchone()
        watched = Watched(besides=killed[0])
        joined[0].kill()
        began = time.monotonic()
        seconds_until(connection, OWNED, killed, LOAD_WITHIN_S, watched)
        owned_s = time.monotonic() - began
        seconds_until(connection, IN_STEP, killed, LOAD_WITHIN_S, watched)
        return {
            "even_s": round(even_s, 1),
            "killed_owned_s": round(owned_s, 2),
            "killed_in_step_s": round(time.monotonic() - began, 2),
            "oldest_beat_takeover_s": round(watched.oldest_beat_s, 2),
        }
    finally:
        for process in joined:
            process.kill()
            process.wait()


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
            takeover = (
                kill_one(
                    connection,
                    service,
                    ("--market", str(market), "--speed", "1", "--from", live_from),
                    options.machines,
                )
                if options.machines > 1
                else {}
            )
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
        **takeover,
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
    if "killed_owned_s" in figures:
        rows += [
            ["SIGKILL of one of several → all owned by others", figures["killed_owned_s"], None],
            ["… and in step", figures["killed_in_step_s"], TAKEOVER_TARGET_S],
            ["… longest of the others without a beat", figures["oldest_beat_takeover_s"], BEAT_TARGET_S],
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
    parser.add_argument("--machines", type=int, default=1, help="with more than one, one is killed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    figures = measure(options)
    report(figures)
    finish(figures, as_json=options.json)


if __name__ == "__main__":
    main()
