#!/usr/bin/env python3
"""
The feed under concurrent writers: what each way of reading loses, and how long from commit to client.

Writers insert signals in transactions that stay open for a random while (a tenth rolls back), then hint. In the same run:
a naive reader that asks for `id > last` every few milliseconds, and stream clients on two real web processes over an embedded Postgres
(fsync on), which are told to reconnect to the other replica now and then and resume by their cursor.

The claims: the streams lose nothing, repeat nothing and keep order; commit to client takes at most 20 ms at the median and 100 ms at
the 99th percentile. A writer's own open transaction is part of what later commits wait for, so it is kept short here (`--hold-ms`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import jwt
import psycopg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.store import embedded, migrations  # noqa: E402 the repository's own, without an installation

SECRET = secrets.token_hex(32)
P50_TARGET_MS, P99_TARGET_MS = 20.0, 100.0
INSERT = """
insert into public.signals (trader_id, user_id, symbol, timeframe, triggered_at, price, plan_hash, epoch, screened_at)
values (%s, %s, %s, '1m', '2024-05-01T12:00:00Z', 1.5, 'h', 1, now()) returning id
"""


@dataclass
class World:
    dsn: str
    user: uuid.UUID
    trader: uuid.UUID
    done: threading.Event = field(default_factory=threading.Event)
    committed_at: dict[int, float] = field(default_factory=dict)
    naive: list[int] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        claims = {
            "sub": str(self.user),
            "role": "authenticated",
            "aud": "authenticated",
            "exp": time.time() + 3600,
        }
        return {"authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True) as folder:
        server = embedded.start(Path(folder))
        processes: list[subprocess.Popen[str]] = []
        try:
            migrations.migrate(server.get_uri())
            world = _make_world(server.get_uri())
            started = [_start_web(world.dsn, Path(folder)) for _ in range(2)]
            processes = [process for process, _ in started]
            urls = [url for _, url in started]
            seen = asyncio.run(_run(world, urls, arguments))
        finally:
            for process in processes:
                process.terminate()
                process.wait(30)
            server.cleanup()
    _print(world, seen, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--writers", type=int, default=6, help="concurrent writers (default 6)")
    parser.add_argument("--clients", type=int, default=10, help="stream clients (default 10)")
    parser.add_argument("--seconds", type=float, default=10, help="of writing (default 10)")
    parser.add_argument("--hold-ms", type=float, default=10, help="longest a writer stays open (default 10)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too, on the last line")
    return parser.parse_args()


def _make_world(dsn: str) -> World:
    user = uuid.uuid4()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("insert into auth.users (id) values (%s)", (user,))
        (trader,) = connection.execute(
            "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, 't', 'f', '{}', 'h') returning id",
            (user,),
        ).fetchone()
        connection.execute("select vyx.keep_signal_partition('2024-05-01T12:00:00Z')")
        connection.execute(INSERT, (trader, user, "first"))
    return World(dsn, user, trader)


def _start_web(dsn: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": dsn,
        "VYX_DATA_DIR": str(folder),
        "VYX_JWT_SECRET": SECRET,
        "VYX_PORT": "0",
        "VYX_METRICS_PORT": "off",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "web"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    line = (process.stdout.readline() if process.stdout else "").split()
    if not line:
        raise SystemExit("the web process did not start")
    return process, line[-1]


async def _run(world: World, urls: list[str], arguments: argparse.Namespace) -> list[list[tuple[int, float]]]:
    """What each client saw: (id, when), in the order of arrival."""
    with psycopg.connect(world.dsn, autocommit=True) as connection:
        (first,) = connection.execute("select max(id) from public.signals").fetchone()
    streams = [asyncio.create_task(_follow(world, urls, n, first)) for n in range(arguments.clients)]
    threads = [
        threading.Thread(target=_write, args=(world, n, arguments.hold_ms / 1000))
        for n in range(arguments.writers)
    ]
    threads.append(threading.Thread(target=_read_naively, args=(world, first)))
    for thread in threads:
        thread.start()
    await asyncio.sleep(arguments.seconds)
    world.done.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    last = max(world.committed_at)
    async with asyncio.timeout(30):
        return list(await asyncio.gather(*(_until(stream, last) for stream in streams)))


async def _until(stream: asyncio.Task[list[tuple[int, float]]], last: int) -> list[tuple[int, float]]:
    seen = SEEN[stream.get_name()]
    while not seen or seen[-1][0] < last:  # noqa: ASYNC110 a script that prints: polling is plain enough
        await asyncio.sleep(0.01)
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    return seen


SEEN: dict[str, list[tuple[int, float]]] = {}


async def _follow(world: World, urls: list[str], number: int, first: int) -> list[tuple[int, float]]:
    task = asyncio.current_task()
    assert task is not None
    seen = SEEN.setdefault(task.get_name(), [])
    chance, hop = random.Random(number), number
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        while True:
            hop += 1
            cursor = str(seen[-1][0] if seen else first)
            ends_at = time.perf_counter() + chance.uniform(1, 4)
            async with session.get(
                f"{urls[hop % len(urls)]}/api/v1/stream", headers={**world.headers, "last-event-id": cursor}
            ) as response:
                response.raise_for_status()
                async for line in response.content:
                    if line.startswith(b"id: "):
                        seen.append((int(line[4:]), time.perf_counter()))
                    if line == b"\n" and time.perf_counter() > ends_at:
                        break


def _write(world: World, number: int, hold_s: float) -> None:
    chance = random.Random(1000 + number)
    count = 0
    with psycopg.connect(world.dsn) as connection:
        while not world.done.is_set():
            count += 1
            new = [
                connection.execute(INSERT, (world.trader, world.user, f"S{number}-{count}-{n}")).fetchone()[0]
                for n in range(chance.randint(1, 3))
            ]
            time.sleep(chance.random() * hold_s)
            if chance.random() < 0.1:
                connection.rollback()
                continue
            connection.commit()
            world.committed_at.update(dict.fromkeys(new, time.perf_counter()))
            connection.execute("notify vyx_feed")
            connection.commit()


def _read_naively(world: World, first: int) -> None:
    with psycopg.connect(world.dsn, autocommit=True) as connection:
        last = first
        while True:
            ended = world.done.is_set()
            rows = connection.execute(
                "select id from public.signals where id > %s order by id", (last,)
            ).fetchall()
            world.naive += [row[0] for row in rows]
            last = world.naive[-1] if world.naive else last
            if ended:
                return
            time.sleep(0.002)


def _print(world: World, seen: list[list[tuple[int, float]]], arguments: argparse.Namespace) -> None:
    expected = set(world.committed_at)
    waits = sorted(
        (at - world.committed_at[i]) * 1000
        for of_client in seen
        for i, at in of_client
        if i in world.committed_at
    )
    lost = sum(len(expected - {i for i, _ in of_client}) for of_client in seen)
    repeated = sum(len(of_client) - len({i for i, _ in of_client}) for of_client in seen)
    disorder = sum(a >= b for of_client in seen for (a, _), (b, _) in itertools.pairwise(of_client))
    naive_lost = len(expected - set(world.naive))
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    print(
        f"{arguments.writers} writers, {arguments.seconds:g} s, {len(expected)} rows; {arguments.clients} clients on 2 replicas"
    )
    print(f"{'reader':<28}{'read':>10}{'lost':>8}{'repeated':>10}{'disorder':>10}")
    print(f"{'id > last':<28}{len(world.naive):>10}{naive_lost:>8}{'':>10}{'':>10}")
    print(f"{'streams, hopping':<28}{sum(map(len, seen)):>10}{lost:>8}{repeated:>10}{disorder:>10}")
    print(
        f"commit to client: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {waits[-1]:.1f} ms (reconnects included)"
    )
    print(
        f"targets {P50_TARGET_MS:.0f} and {P99_TARGET_MS:.0f} ms: {'met' if p50 <= P50_TARGET_MS and p99 <= P99_TARGET_MS else 'MISSED'}"
    )
    if arguments.json:
        figures = {
            "rows": len(expected),
            "naive_lost": naive_lost,
            "lost": lost,
            "repeated": repeated,
            "disorder": disorder,
        }
        print(
            json.dumps(
                {**figures, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "max_ms": round(waits[-1], 2)}
            )
        )


if __name__ == "__main__":
    main()
