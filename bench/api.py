#!/usr/bin/env python3
"""
How long start and stop take with 100 clients at once, beside the same request without our SQL.

A real web process over an embedded Postgres (fsync on), everything on this machine, the client included: what is measured is the sum.
`live` (GET /health/live) does no SQL at all and is the floor that server and client set; `me` is a read with two statements.
Users are many, so that no rate limit answers.

Two ways: *burst*, all clients send one request at the same instant, again and again, so the last answer waits for all others; and
*steady*, each client sends a start or a stop once a second, which is what 600 users at their limit of ten a minute do.

The claims: in a burst of 100, p99 is at most 500 ms; steady, p99 of start and stop is at most 100 ms. Trust the ratios within a run
more than the milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import jwt
import psycopg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from app.store import embedded, migrations  # noqa: E402 the repository's own, without an installation

BURST_TARGET_MS = 500.0
STEADY_TARGET_MS = 100.0
CALLS_PER_USER = 10  # the limit of lifecycle requests in any minute
SECRET = secrets.token_hex(32)


@dataclass(frozen=True)
class User:
    headers: dict[str, str]
    trader: str


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True) as folder:
        server = embedded.start(Path(folder))
        try:
            migrations.migrate(server.get_uri())
            users = _make_users(
                server.get_uri(),
                2 * arguments.clients * (arguments.rounds + arguments.seconds) // CALLS_PER_USER + 1,
            )
            process, url = _start_web(server.get_uri(), Path(folder))
            try:
                results = asyncio.run(_measure(url, process.pid, users, arguments))
            finally:
                process.terminate()
                process.wait(30)
        finally:
            server.cleanup()
    _print(results, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100, help="requests at the same instant (default 100)")
    parser.add_argument("--rounds", type=int, default=20, help="how often (default 20)")
    parser.add_argument("--seconds", type=int, default=10, help="of steady calls (default 10)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too, on the last line")
    return parser.parse_args()


def _make_users(dsn: str, count: int) -> list[User]:
    """Users without a limit on running traders, one trader each."""
    users = []
    with psycopg.connect(dsn) as connection:
        for _ in range(count):
            user_id = uuid.uuid4()
            connection.execute("insert into auth.users (id) values (%s)", (user_id,))
            connection.execute("select public.set_tier(%s, 'elite')", (user_id,))
            (trader,) = connection.execute(
                "insert into public.traders (user_id, name, filter, plan, plan_hash) values (%s, 't', 'f', '{}', 'h') returning id",
                (user_id,),
            ).fetchone()
            claims = {
                "sub": str(user_id),
                "role": "authenticated",
                "aud": "authenticated",
                "exp": time.time() + 3600,
            }
            token = jwt.encode(claims, SECRET, algorithm="HS256")
            users.append(User({"authorization": f"Bearer {token}"}, str(trader)))
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum analyze")
    return users


def _start_web(dsn: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": dsn,
        "VYX_DATA_DIR": str(folder),
        "VYX_JWT_SECRET": SECRET,
        "VYX_PORT": "0",
        "VYX_METRICS_PORT": "off",
        "VYX_LOG_FORMAT": "json",
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


async def _measure(
    url: str, pid: int, users: list[User], arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    clients = arguments.clients
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(url, connector=connector) as session:

        async def send(method: str, path: str, user: User, expected: int) -> None:
            async with session.request(method, path, headers=user.headers) as response:
                await response.read()
                if response.status != expected:
                    raise SystemExit(f"{method} {path}: {response.status} {await response.text()}")

        turns = iter(range(10**9))

        def next_users() -> list[User]:
            """Each user in turn, two lifecycle requests per turn: nobody has more than ten."""
            return [users[next(turns) % len(users)] for _ in range(clients)]

        for user in users[:clients]:  # connections, caches, the users' first look-up
            await send("GET", "/api/v1/me", user, 200)
        times: dict[str, list[float]] = {"live": [], "me": [], "start": [], "stop": [], "steady": []}
        cpu_s = dict.fromkeys(times, 0.0)

        async def round_of(what: str, method: str, path: Callable[[User], str], expected: int) -> None:
            cpu_before = _cpu_s(pid)
            calls = [_call(send, method, path(user), user, expected) for user in chosen]
            times[what] += await asyncio.gather(*(call() for call in calls))
            cpu_s[what] += _cpu_s(pid) - cpu_before

        for _ in range(arguments.rounds):
            chosen = next_users()
            await round_of("live", "GET", lambda _: "/health/live", 200)
            await round_of("me", "GET", lambda _: "/api/v1/me", 200)
            await round_of("start", "POST", lambda u: f"/api/v1/traders/{u.trader}/start", 202)
            await round_of("stop", "POST", lambda u: f"/api/v1/traders/{u.trader}/stop", 202)

        async def client(delay_s: float) -> None:
            """A start, a second later a stop, and so on; the clients do not keep step with each other."""
            await asyncio.sleep(delay_s)
            for second in range(arguments.seconds):
                if second % 2 == 0:
                    user = users[next(turns) % len(users)]
                what = "stop" if second % 2 else "start"
                began_at = time.perf_counter()
                await send("POST", f"/api/v1/traders/{user.trader}/{what}", user, 202)
                took_s = time.perf_counter() - began_at
                times["steady"].append(took_s * 1000)
                await asyncio.sleep(max(0.0, 1 - took_s))

        cpu_before = _cpu_s(pid)
        await asyncio.gather(*(client(n / clients) for n in range(clients)))
        cpu_s["steady"] = _cpu_s(pid) - cpu_before
    return {what: _figures(of, cpu_s[what]) for what, of in times.items()}


def _cpu_s(pid: int) -> float:
    """Processor time of the web process so far, as Linux counts it, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _call(send: Callable[..., Awaitable[None]], *arguments: object) -> Callable[[], Awaitable[float]]:
    async def timed() -> float:
        began_at = time.perf_counter()
        await send(*arguments)
        return (time.perf_counter() - began_at) * 1000

    return timed


def _figures(times_ms: list[float], cpu_s: float) -> dict[str, float]:
    ordered = sorted(times_ms)
    return {
        "calls": len(ordered),
        "p50_ms": round(ordered[len(ordered) // 2], 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "max_ms": round(ordered[-1], 2),
        "server_cpu_ms": round(cpu_s * 1000 / len(ordered), 2),
    }


def _print(results: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    print(
        f"{arguments.clients} clients: {arguments.rounds} bursts, then {arguments.seconds} s of one call a second each"
    )
    print(
        f"{'request':<10}{'calls':>8}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'p99 / live':>12}{'web cpu ms/call':>17}"
    )
    for what, of in results.items():
        ratio = of["p99_ms"] / results["live"]["p99_ms"]
        print(
            f"{what:<10}{of['calls']:>8}{of['p50_ms']:>10}{of['p99_ms']:>10}{of['max_ms']:>10}{ratio:>12.1f}{of['server_cpu_ms']:>17}"
        )
    burst, steady = max(results[what]["p99_ms"] for what in ("start", "stop")), results["steady"]["p99_ms"]
    print(f"burst:  p99 at most {BURST_TARGET_MS:.0f} ms: {'met' if burst <= BURST_TARGET_MS else 'MISSED'}")
    print(
        f"steady: p99 at most {STEADY_TARGET_MS:.0f} ms: {'met' if steady <= STEADY_TARGET_MS else 'MISSED'}"
    )
    if arguments.json:
        print(json.dumps({"clients": arguments.clients, "rounds": arguments.rounds, **results}))


if __name__ == "__main__":
    main()
