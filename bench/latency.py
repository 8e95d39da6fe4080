"""
From a slot's candles to a signal on a client's screen, with a thousand traders, on a real worker, web process and Postgres (fsync on).

    python bench/latency.py [--market PATH|simulated] [--speed 60] [--traders 1000] [--clients 3] [--seconds 60] [--json]

slot → signals: from the commit that completed a slot to the commit of its signals (target p99: 1 s).
commit → client: from that commit to the moment a client of /api/v1/stream has the event's bytes (target p99: 250 ms).
Instants of commits are Postgres's own (track_commit_timestamp, in a cluster made for this run); the client reads the same machine's clock.
Beside them, in the same run and on the same database: a one-row insert with its commit, and a NOTIFY round trip.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import psycopg
from psycopg.types.json import Jsonb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.store import embedded, queries
from bench.figures import finish, quantiles, show
from bench.service import SHARED_DUMPS, Service
from sandbox.language.compiler import FilterCompiler

SLOT_TARGET_MS, CLIENT_TARGET_MS = 1000.0, 250.0
WEEK = SHARED_DUMPS / "week-91pairs-two-outages"
LOAD_WITHIN_S = 60
PEER_EACH_S = 0.25

# Different constants, so that the traders do not share everything; selective, as screens are.
STYLES = [
    (
        "1m",
        'b = bars("1m")\nsignal(ta.rsi(b.close, {n}) < {low} and b.volume > {k} * ta.sma(b.volume, {m}))\nshow(rsi=ta.rsi(b.close, {n}))\n',
    ),
    (
        "1m",
        'b = bars("1m")\nsignal(crossunder(b.close, lowest(b.low, {wide})[1]) and b.volume > {k} * ta.sma(b.volume, {m}))\n',
    ),
    (
        "1m",
        'm1, h1 = bars("1m"), bars("1h")\nsignal(crossover(m1.close, highest(m1.high, {wide})[1]) and h1.close > ta.ema(h1.close, {m}))\n',
    ),
    (
        "5m",
        'b = bars("5m")\nupper, middle, lower = ta.bbands(b.close, {m}, 2, 2)\nsignal(crossunder(b.close, lower) and b.volume > {k} * ta.sma(b.volume, {n}))\n',
    ),
    (
        "15m",
        'b = bars("15m")\nmacd, line, _ = ta.macd(b.close, {n}, {m}, 9)\nsignal(crossover(macd, line))\n',
    ),
]


def sources(count: int, seed: int = 1) -> list[str]:
    random_ = random.Random(seed)
    made = []
    for i in range(count):
        _, template = STYLES[i % len(STYLES)]
        made.append(
            template.format(
                n=random_.randint(7, 21),
                m=random_.randint(22, 50),
                wide=random_.randint(20, 120),
                low=random_.randint(15, 28),
                k=random_.choice((2, 2.5, 3, 4)),
            )
        )
    return made


def put_traders(url: str, user: UUID, count: int) -> None:
    """As saved and started over HTTP, without its rate limit. Equal texts are compiled once."""
    traders, plans = queries.load("traders"), {}
    with FilterCompiler() as compiler, psycopg.connect(url, autocommit=True) as connection:
        for i, source in enumerate(sources(count)):
            plan = plans.get(source)
            if plan is None:
                compiled = compiler.compile(source)
                plan = plans[source] = compiled.plan
                if plan is None:
                    raise SystemExit(f"{source}\n{compiled.diagnostics}")
            connection.execute(
                traders["insert_trader"],
                {
                    "user_id": user,
                    "name": f"bench {i}",
                    "description": "",
                    "filter": source,
                    "symbols": None,
                    "frequency": Jsonb("every_bar"),
                    "plan": plan.encode().decode(),
                    "plan_hash": plan.hash,
                    "plan_summary": Jsonb(plan.summary()),
                },
            )
        connection.execute(queries.load("trader_state")["start_all_of"], {"user_id": user})


def prepare_cluster(data_dir: Path) -> None:
    """A cluster that remembers the instant of each commit; `vyx up` finds it in its data directory."""
    server = embedded.start(data_dir)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("alter system set track_commit_timestamp = on")
    server.cleanup()


class Stream:
    """One client of the event stream: when it had each signal's bytes."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self.seen: dict[int, float] = {}
        self.ends: list[str] = []

    async def run(self, session: aiohttp.ClientSession) -> None:
        last = None
        while True:
            headers = {
                "Authorization": f"Bearer {self._token}",
                **({"Last-Event-ID": str(last)} if last else {}),
            }
            async with session.get(f"{self._url}/api/v1/stream", headers=headers) as response:
                response.raise_for_status()
                number, rest = None, b""
                async for chunk in response.content.iter_any():
                    at, (*lines, rest) = time.time(), (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.startswith(b"id: "):
                            number = int(line[4:])
                        elif line == b"event: signal":
                            self.seen[number] = at
                            last = number
                        elif line == b"event: bye":
                            self.ends.append("bye")
            self.ends.append("closed")


async def measure_peers(url: str, until: float) -> tuple[list[float], list[float]]:
    """Seconds of a bare insert with its commit, and from a NOTIFY to its arrival on another connection."""
    inserts, notifies = [], []
    connect = psycopg.AsyncConnection.connect
    async with await connect(url, autocommit=True) as writer, await connect(url, autocommit=True) as listener:
        await writer.execute(
            "create table if not exists public.bench_rows (id bigint generated always as identity, at timestamptz)"
        )
        await listener.execute("listen bench")
        while time.monotonic() < until:
            began = time.perf_counter()
            await writer.execute("insert into public.bench_rows (at) values (clock_timestamp())")
            inserts.append(time.perf_counter() - began)
            began = time.perf_counter()
            waiting = asyncio.create_task(_next_notification(listener))
            await writer.execute("select pg_notify('bench', '')")
            await waiting
            notifies.append(time.perf_counter() - began)
            await asyncio.sleep(PEER_EACH_S)
        await writer.execute("drop table public.bench_rows")
    return inserts, notifies


async def _next_notification(listener: psycopg.AsyncConnection) -> None:
    async for _ in listener.notifies(timeout=5, stop_after=1):
        return


async def watch(
    service: Service, url: str, token: str, clients: int, seconds: float
) -> tuple[list[Stream], tuple]:
    streams = [Stream(service.url, token) for _ in range(clients)]
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(stream.run(session)) for stream in streams]
        peers = await measure_peers(url, time.monotonic() + seconds)
        await asyncio.sleep(1)
        broken = [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if broken:
        raise SystemExit(f"a stream ended: {broken}")
    return streams, peers


_SLOTS = """
select extract(epoch from pg_xact_commit_timestamp(s.xmin))::float8, extract(epoch from s.closed_at)::float8,
       f.signals, f.committed, f.created
  from vyx.slots s
  join lateral (select count(*) as signals, extract(epoch from max(pg_xact_commit_timestamp(g.xmin)))::float8 as committed,
                       extract(epoch from max(g.created_at))::float8 as created
                  from public.signals g where g.triggered_at = s.slot) f on f.signals > 0
 where s.closed_at >= to_timestamp(%s) and s.state = 'complete' order by s.slot
"""
_COMMITS = """
select id, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 from public.signals
 where created_at >= to_timestamp(%s) and user_id = %s
"""


def await_running(service: Service, count: int) -> float:
    began = time.monotonic()
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        while time.monotonic() - began < LOAD_WITHIN_S:
            row = connection.execute(
                "select count(*) from public.trader_state where state = 'running' and in_step"
            ).fetchone()
            if row[0] >= count:
                return time.monotonic() - began
            time.sleep(0.2)
    raise SystemExit(f"not all of {count} traders were running within {LOAD_WITHIN_S} s")


def measure(options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True) as folder:
        prepare_cluster(Path(folder))
        flags = ("--market", str(options.market), "--speed", f"{options.speed:g}")
        with Service(*flags, data_dir=Path(folder)) as service:
            url, user = service.database_url, uuid4()
            token = service.token(str(user))
            put_traders(url, user, options.traders)
            loaded_s = await_running(service, options.traders)
            time.sleep(options.warm_up)
            began = time.time()
            streams, (inserts, notifies) = asyncio.run(
                watch(service, url, token, options.clients, options.seconds)
            )
            with psycopg.connect(url, autocommit=True) as connection:
                fsync = connection.execute("show fsync").fetchone()[0]
                pairs = connection.execute("select count(*) from vyx.symbols where trading").fetchone()[0]
                slots = connection.execute(_SLOTS, (began,)).fetchall()
                commits = dict(connection.execute(_COMMITS, (began, user)).fetchall())
    ended = began + options.seconds
    expected = {number for number, at in commits.items() if began + 1 <= at <= ended}
    delays = [
        at - commits[number] for stream in streams for number, at in stream.seen.items() if number in commits
    ]
    return {
        "traders": options.traders,
        "pairs": pairs,
        "market": Path(str(options.market)).name,
        "slot_real_s": 60 / options.speed,
        "fsync": fsync,
        "all_running_s": round(loaded_s, 1),
        "slots": len(slots),
        "signals_per_slot": quantiles([row[2] for row in slots], digits=0),
        "slot_to_commit_ms": {
            **quantiles([c - s for s, _, _, c, _ in slots], scale=1e3),
            "target_p99": SLOT_TARGET_MS,
        },
        "closed_at_to_created_at_ms": quantiles(
            [created - closed for _, closed, _, _, created in slots], scale=1e3
        ),
        "commit_to_client_ms": {**quantiles(delays, scale=1e3), "target_p99": CLIENT_TARGET_MS},
        "streams": {
            "clients": len(streams),
            "signals": len(expected),
            "ends": sum(len(s.ends) for s in streams),
            "missing": sum(len(expected - s.seen.keys()) for s in streams),
        },
        "peers": {
            "insert_commit_ms": quantiles(inserts, scale=1e3, digits=2),
            "notify_ms": quantiles(notifies, scale=1e3, digits=2),
        },
    }


def report(figures: dict) -> None:
    def line(what: str, part: dict) -> list[object]:
        target = part.get("target_p99")
        return [
            what,
            part["p50"],
            part["p99"],
            part["max"],
            part["n"],
            target,
            target and ("ok" if part["p99"] <= target else "MISSED"),
        ]

    title = f"{figures['traders']} traders, {figures['pairs']} pairs, a slot each {figures['slot_real_s']:g} s, fsync {figures['fsync']}; ms"
    rows = [
        line("slot complete → its signals committed (per slot)", figures["slot_to_commit_ms"]),
        line("… by slots.closed_at and signals.created_at", figures["closed_at_to_created_at_ms"]),
        line(
            f"commit → stream client (per signal, {figures['streams']['clients']} clients)",
            figures["commit_to_client_ms"],
        ),
        line("peer: bare insert + commit", figures["peers"]["insert_commit_ms"]),
        line("peer: NOTIFY → listener", figures["peers"]["notify_ms"]),
    ]
    show(title, ["what", "p50", "p99", "max", "n", "target p99", ""], rows)
    per_slot, streams = figures["signals_per_slot"], figures["streams"]
    print(
        f"signals per slot: median {per_slot['p50']}, most {per_slot['max']}; "
        f"streams: {streams['signals']} signals each, {streams['missing']} missing, ended early {streams['ends']} times; "
        f"all traders running {figures['all_running_s']} s after their start"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--market",
        default=str(WEEK) if WEEK.is_dir() else "simulated",
        help="candle files or `simulated` (default: %(default)s)",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=60,
        help="market minutes per real minute: 60 is a slot a second (default: %(default)g)",
    )
    parser.add_argument("--traders", type=int, default=1000, help="all of one user (default: %(default)s)")
    parser.add_argument(
        "--clients", type=int, default=3, help="streams of that user, at most 20 (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="of measuring (default: %(default)g)")
    parser.add_argument("--warm-up", type=float, default=5, help="seconds before (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    figures = measure(options)
    report(figures)
    finish(figures, as_json=options.json)


if __name__ == "__main__":
    main()
