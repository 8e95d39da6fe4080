#!/usr/bin/env python3
"""
Deliveries: from a signal's commit to the request at its receiver, what the outbox costs, and whether a dead destination delays others.

One process screens and sends, as a worker does (the same statement, then a wake); the receiver is a process of its own; Postgres is an
embedded one with fsync on. The claims:

* at 200 signals/s to 1000 destinations, commit to request takes at most 500 ms at the 99th percentile;
* the outbox adds at most 15 % to the transaction that inserts signals (one destination per user);
* 1,000,000 deliveries due behind a dead destination delay others by at most 100 ms;
* in a storm of killed senders (`--storm`) every delivery arrives or expires, and receipts equal what the receivers logged.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from aiohttp import web
from prometheus_client import CollectorRegistry

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import figures  # noqa: E402 beside this file

from app.delivery.channel_process import ChannelProcess  # noqa: E402 the repository's own, without an installation
from app.delivery.destinations import Destinations, Draft  # noqa: E402
from app.delivery.sealing import Sealer  # noqa: E402
from app.delivery.sender import Sender  # noqa: E402
from app.delivery.transport import Transport  # noqa: E402
from app.metrics import DeliveryMetrics  # noqa: E402
from app.store import embedded, machines, migrations, signals  # noqa: E402
from app.store.pool import Pool, make_pool  # noqa: E402

KEY = "a-key-of-a-test-that-is-long-enough-to-be-one"  # of tests/delivery/sender_process.py, too
LOOPBACK = ((ipaddress.ip_network("127.0.0.0/8"), None),)
T0 = datetime(2024, 7, 1, tzinfo=UTC)
P99_TARGET_MS, COST_TARGET, DELAY_TARGET_MS = 500.0, 0.15, 100.0


def draft(url: str, **given: object) -> Draft:
    fields: dict[str, object] = dict.fromkeys(
        ("trader_ids", "preset", "template", "quiet_hours", "digest", "rate", "expires_after_s")
    )
    return Draft(**({"name": "d", "kind": "webhook", "events": ["signal"], "url": url} | fields | given))


class World:
    """Users with a trader each, on one machine, and their destinations."""

    def __init__(self, dsn: str, pool: Pool, users: int) -> None:
        self.pool = pool
        with psycopg.connect(dsn, autocommit=True) as connection:
            self.users = [uuid.uuid4() for _ in range(users)]
            connection.execute("insert into auth.users (id) select unnest(%s::uuid[])", (self.users,))
            connection.execute("select public.set_tier(u, 'elite') from unnest(%s::uuid[]) u", (self.users,))
            connection.execute("insert into vyx.machines (machine_id) values ('bench')")
            self.boot = connection.execute("select max(boot_id) from vyx.machines").fetchone()[0]
            connection.execute(
                "insert into public.traders (user_id, name, filter, plan, plan_hash) select u, 't', 'f', '{}', 'h' from unnest(%s::uuid[]) u",
                (self.users,),
            )
            connection.execute("select vyx.start_trader_v1(trader_id) from public.trader_state")
            connection.execute("update public.trader_state set owner = %s", (self.boot,))
            connection.execute("select vyx.keep_signal_partition(%s)", (T0,))
            rows = connection.execute("select user_id, trader_id, epoch from public.trader_state").fetchall()
        self.trader_of = {user: (trader, epoch) for user, trader, epoch in rows}
        self._slot = 0

    async def add_destinations(self, url_of, users, **given: object) -> None:
        destinations = Destinations(
            pool=self.pool, sealer=Sealer([KEY]), allowed=LOOPBACK, public_url="https://vyx.test"
        )
        for user in users:
            await destinations.create(user, draft(url_of(user), **given))

    async def match(self, users, per_user: int = 1) -> float:
        """One fenced transaction with signals of these users; returns how long it took."""
        self._slot += 1
        slot = T0 + timedelta(minutes=self._slot)
        matches = [
            signals.Match(
                trader_id=self.trader_of[user][0],
                epoch=self.trader_of[user][1],
                symbol=f"S{n}USDT",
                timeframe="1h",
                price=1.5,
                shown='{"rsi": 20.5}',
                plan_hash="h",
                forming=False,
                cooldown_s=None,
            )
            for user in users
            for n in range(per_user)
        ]
        began = time.perf_counter()
        async with machines.fenced(self.pool, self.boot) as connection:
            await signals.insert_signals(connection, self.boot, slot, matches)
        return time.perf_counter() - began


async def receive(port: int) -> None:
    """The receiver's process: logs when each message came, says it when asked."""
    came: list[tuple[str, float]] = []

    async def hook(request: web.Request) -> web.Response:
        at = time.time()
        body = await request.read()
        data = json.loads(body)["data"]
        came.append((f"{data['trader_id']} {data['triggered_at']}", at))
        return web.Response(text="ok")

    async def log(_: web.Request) -> web.Response:
        taken = list(came)
        came.clear()
        return web.json_response(taken)

    application = web.Application()
    application.router.add_post("/hook/{user}", hook)
    application.router.add_get("/log", log)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def receiving():
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--receive", str(port)], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()

    def log() -> list[tuple[str, float]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/log") as answer:
            return json.load(answer)

    try:
        yield f"http://127.0.0.1:{port}/hook", log
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def sending(pool: Pool):
    transport = Transport(LOOPBACK)
    sender = Sender(
        pool,
        transport=transport,
        third_party=ChannelProcess(LOOPBACK),
        sealer=Sealer([KEY]),
        public_url="https://vyx.test",
        metrics=DeliveryMetrics(CollectorRegistry()),
    )
    running = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        sender.stop()
        await running
        await transport.close()


async def measure_latency(
    world: World, sender: Sender, log, users, *, per_s: int, seconds: float
) -> list[float]:
    """Seconds from each commit to its request."""
    log()
    committed: dict[str, float] = {}
    batch = max(1, per_s // 20)
    began, turn = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        chosen = [users[(turn * batch + n) % len(users)] for n in range(batch)]
        await world.match(chosen)
        at = time.time()
        slot = T0 + timedelta(minutes=world._slot)  # noqa: SLF001 of this file
        for user in chosen:
            committed[f"{world.trader_of[user][0]} {slot.isoformat().replace('+00:00', 'Z')}"] = at
        sender.wake()
        turn += 1
        await asyncio.sleep(max(0.0, began + turn * batch / per_s - time.monotonic()))
    came: dict[str, float] = {}
    deadline = time.monotonic() + 30
    while len(came) < len(committed) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        for name, at in await asyncio.to_thread(log):
            came.setdefault(name, at)
    lost = len(committed.keys() - came.keys())
    if lost:
        print(f"{lost} of {len(committed)} did not arrive within 30 s", file=sys.stderr)
    return [came[name] - at for name, at in committed.items() if name in came]


async def measure_cost(world: World, users, rounds: int) -> tuple[list[float], list[float]]:
    """The same transaction for users without and with a destination, by turns."""
    half = len(users) // 2
    without, with_one = users[:half], users[half:]
    times: tuple[list[float], list[float]] = ([], [])
    for n in range(rounds + 2):
        for which, group in enumerate((without, with_one) if n % 2 else (with_one, without)):
            took = await world.match(group)
            if n >= 2:  # the first find cold caches
                times[which if n % 2 else 1 - which].append(took)
    return times


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True) as folder:
        server = embedded.start(Path(folder))
        try:
            await measure(options, server.get_uri())
        finally:
            server.cleanup()


async def measure(options: argparse.Namespace, dsn: str) -> None:
    migrations.migrate(dsn)
    pool = make_pool(dsn, max_size=8, name="bench")
    await pool.open(wait=True)
    found: dict[str, object] = {}
    world = World(dsn, pool, options.destinations + 2 * options.cost_users)
    plain, rest = world.users[: options.destinations], world.users[options.destinations :]
    with receiving() as (url, log):
        await world.add_destinations(lambda user: f"{url}/{user}", plain)
        async with sending(pool) as sender:
            await measure_latency(world, sender, log, plain, per_s=50, seconds=2)
            alone = await measure_latency(
                world, sender, log, plain, per_s=options.per_s, seconds=options.seconds
            )
            await put_dead(world, dsn, rest[0], options.dead_rows)
            beside = await measure_latency(
                world, sender, log, plain, per_s=options.per_s, seconds=options.seconds
            )
        found["latency"] = figures.quantiles(alone, scale=1000)
        found["beside_dead"] = figures.quantiles(beside, scale=1000)
    await world.add_destinations(lambda _: "https://example.com/", rest[options.cost_users :])
    without, with_one = await measure_cost(world, rest, options.rounds)
    cost = statistics.median(with_one) / statistics.median(without) - 1
    found["cost"] = {
        "without_ms": round(statistics.median(without) * 1000, 2),
        "with_ms": round(statistics.median(with_one) * 1000, 2),
        "share": round(cost, 3),
        "signals": options.cost_users,
    }
    await pool.close()
    if options.storm:
        found["storm"] = await storm(dsn, options.storm)
    show(found, options)


async def put_dead(world: World, dsn: str, user: uuid.UUID, rows: int) -> None:
    """A destination nobody listens at, with so many deliveries due."""
    await world.add_destinations(lambda _: "http://127.0.0.1:1/", [user], expires_after_s=86_400)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """insert into vyx.deliveries (source_id, destination_id, user_id, trader_id, symbol, triggered_at, expires_at)
               select 1000000000 + n, d.id, d.user_id, %s, 'S0USDT', %s, now() + interval '1 day'
                 from public.destinations d, generate_series(1, %s) n where d.user_id = %s""",
            (world.trader_of[user][0], T0, rows, user),
        )
        connection.execute("vacuum analyze vyx.deliveries")
        connection.execute("checkpoint")  # writing a million rows is not what is measured


async def storm(dsn: str, deliveries: int) -> dict[str, object]:
    """At least so many deliveries, senders killed every two seconds."""
    from tests.delivery.storm import BEHAVIOURS, EXPIRES_AFTER_S, Storm, judge

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("truncate vyx.deliveries")
        connection.execute("delete from public.destinations")
    pool = make_pool(dsn, max_size=4, name="storm")
    await pool.open(wait=True)
    storming = Storm(dsn, kill_every_s=3.0, kill_while_answering=0.1)
    began = time.monotonic()
    async with storming.receiving():
        world = World(dsn, pool, 20)
        for behaviour in BEHAVIOURS:
            await world.add_destinations(
                lambda _, b=behaviour: f"{storming.url}/{b}",
                world.users,
                expires_after_s=EXPIRES_AFTER_S.get(behaviour, 900),
            )
        per_batch = 20 * len(BEHAVIOURS) * 10
        for _ in range(-(-deliveries // per_batch)):
            await world.match(world.users, per_user=10)
        await storming.until_nothing_is_pending(within_s=1000)
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "select source_id, destination_id, event, state::text, attempts, status from vyx.deliveries"
        ).fetchall()
    await pool.close()
    verdict = judge(rows, storming.log)
    return {
        "deliveries": verdict.deliveries,
        "states": dict(verdict.states),
        "requests": verdict.requests,
        "kills": storming.kills,
        "arrived_without_a_receipt": verdict.arrived_unrecorded,
        "faults": len(verdict.faults),
        "first_faults": verdict.faults[:5],
        "seconds": round(time.monotonic() - began),
    }


def show(found: dict[str, object], options: argparse.Namespace) -> None:
    alone, beside, cost = found["latency"], found["beside_dead"], found["cost"]
    figures.show(
        f"Commit to request, {options.per_s} signals/s, {options.destinations} destinations, ms",
        ["", "p50", "p99", "max", "n", "target"],
        [
            ["alone", alone["p50"], alone["p99"], alone["max"], alone["n"], f"p99 ≤ {P99_TARGET_MS:g}"],
            [
                f"beside {options.dead_rows:,} due at a dead one",
                beside["p50"],
                beside["p99"],
                beside["max"],
                beside["n"],
                f"+ ≤ {DELAY_TARGET_MS:g}",
            ],
        ],
    )
    figures.show(
        f"The transaction of {cost['signals']} signals, ms (median)",
        ["without destinations", "with one each", "more", "target"],
        [[cost["without_ms"], cost["with_ms"], f"{cost['share']:.1%}", f"≤ {COST_TARGET:.0%}"]],
    )
    if "storm" in found:
        figures.show("Storm", list(found["storm"]), [[str(v) for v in found["storm"].values()]])
    figures.finish(found, as_json=options.json)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--destinations", type=int, default=1000)
    parser.add_argument("--per-s", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--dead-rows", type=int, default=1_000_000)
    parser.add_argument("--cost-users", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--storm", type=int, default=0, help="deliveries of the fault run; 0: none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--receive", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    asyncio.run(receive(options.receive) if options.receive else run(options))


if __name__ == "__main__":
    main()
