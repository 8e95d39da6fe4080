#!/usr/bin/env python3
"""
What one user can do to another: a victim's waits without and with an attacker, on the same machine, in one run.

A real `vyx up` over a simulated market. For each row the victim does one thing again and again, with a pause between, in
phases without and with the attacker that alternate; p50 and p99 of both stand side by side. The claims: with the attacker
at most twice what it is without, no answer of 5xx to the victim, p99 from slot to commit at most 1 s, the worker below
1.5 GB and the web process with its children for filters below 400 MB each. Trust the ratios within a run more than the
milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import psycopg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.figures import finish, quantiles, show  # noqa: E402 the repository's own, without an installation
from bench.service import Service  # noqa: E402 as above

RATIO_MAX = 2.0
PAUSE_S = 0.05
VICTIMS = 4  # users: previews are limited to 30 a minute and user
HEAD = 'b = bars("1m")\n'
RIGHT = HEAD + "signal(b.close > ta.sma(b.close, 20))\n"
ALWAYS = HEAD + "signal(b.close > 0)\n"
NAMES = (
    HEAD
    + "\n".join(f"x{i} = nobody_{i}_{'a' * 40} + b.close" for i in range(900))
    + "\nsignal(b.close > 1)\n"
)
LOOP = HEAD + "while True: pass\n"
FUNCTION = HEAD + "signal(each(lambda c: sum(c) / len(c) < c[-1], b.close, bars=50))\n"
DEAR = HEAD + "t = {k}\nsignal(sum([ta.kama(b.close * (t + k * 0.001), 30) for k in range(20)]) < 0)\n"
BUSY = (
    HEAD
    + "def f(c):\n    x = {k}\n    for i in range(3000):\n        x = x + i\n    return x\nsignal(each(f, b.close, bars=2) < 0)\n"
)


@dataclass
class Client:
    """One signed-in user."""

    session: aiohttp.ClientSession
    url: str
    token: str

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        headers = {"authorization": f"Bearer {self.token}"}
        async with self.session.request(method, self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def save(self, name: str, source: str) -> tuple[int, object]:
        return await self.call("POST", "/api/v1/traders", {"name": name, "filter": source})

    async def run(self, name: str, source: str) -> str:
        """Save and start a trader; its id."""
        status, trader = await self.save(name, source)
        if status != 201:
            raise RuntimeError(f"{name}: {status} {str(trader)[:300]}")
        await self.call("POST", f"/api/v1/traders/{trader['id']}/start")
        return trader["id"]

    async def open_stream(self) -> int:
        headers = {"authorization": f"Bearer {self.token}"}
        async with self.session.get(self.url + "/api/v1/stream", headers=headers) as response:
            return response.status


@dataclass(frozen=True)
class Users:
    """Who attacks, who suffers, and the trader that each of them runs."""

    attacker: Client
    victims: list[Client]
    own: dict[int, str]


@dataclass
class Phase:
    """What the victim saw: seconds of each answer, and how many were 5xx."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass(frozen=True)
class Row:
    """A victim's action and the attack on it; *slots* are measured in the database."""

    name: str
    victim: Callable[[Client, str], Awaitable[int]] | None
    attack: Callable[[Client, str], Awaitable[object]]
    at_once: int
    pause_s: float = PAUSE_S


async def _save(client: Client, _trader: str) -> int:
    return (await client.save("victim", RIGHT))[0]


async def _preview(client: Client, _trader: str) -> int:
    return (await client.call("POST", "/api/v1/execute-filter", {"filter": RIGHT, "bars": 200}))[0]


async def _explain(client: Client, trader: str) -> int:
    return (await client.call("GET", f"/api/v1/traders/{trader}/explain?symbol=BTCUSDT"))[0]


async def _me(client: Client, _trader: str) -> int:
    return (await client.call("GET", "/api/v1/me"))[0]


async def _stream(client: Client, _trader: str) -> int:
    return await client.open_stream()


_sources = itertools.cycle([NAMES, LOOP])


async def _hostile_save(client: Client, _trader: str) -> object:
    return await client.save("attack", next(_sources))


async def _hostile_preview(client: Client, _trader: str) -> object:
    answer = await client.call("POST", "/api/v1/execute-filter", {"filter": FUNCTION, "bars": 1000})
    if answer[0] == 429:
        await asyncio.sleep(0.2)
    return answer


async def _hostile_explain(client: Client, trader: str) -> object:
    return await client.call("GET", f"/api/v1/traders/{trader}/explain?symbol=BTCUSDT")


async def _hostile_list(client: Client, _trader: str) -> object:
    return await client.call("GET", "/api/v1/traders?limit=1000&include=filter")


ROWS = [
    Row("save", _save, _hostile_save, 10),
    Row("preview", _preview, _hostile_preview, 10, pause_s=0.5),
    Row("explain", _explain, _hostile_explain, 16),
    Row("me", _me, _hostile_explain, 16),
    Row("me, long lists", _me, _hostile_list, 12),
    Row("stream", _stream, _hostile_save, 10),
]
SLOT_ROWS = {"slot to commit, dear plans": DEAR, "slot to commit, functions": BUSY}


def main() -> None:
    arguments = _arguments()
    wanted = [row for row in ROWS if arguments.row in (None, row.name)]
    slots = {name: source for name, source in SLOT_ROWS.items() if arguments.row in (None, name)}
    flags = ["--market", "simulated", "--speed", str(arguments.speed)]
    with Service(*flags, VYX_SYMBOLS_MAX=str(arguments.symbols)) as service:
        figures = asyncio.run(_measure(service, wanted, slots, arguments))
    _print(figures)
    finish({"neighbour": figures}, as_json=arguments.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*(row.name for row in ROWS), *SLOT_ROWS]
    parser.add_argument("--row", choices=names, help="only this one")
    parser.add_argument("--seconds", type=float, default=15, help="of each phase (default 15)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="phases without and with the attacker (default 2)"
    )
    parser.add_argument("--symbols", type=int, default=100, help="pairs of the market (default 100)")
    parser.add_argument("--speed", type=int, default=20, help="market minutes per real minute (default 20)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON too, on the last line")
    return parser.parse_args()


async def _measure(
    service: Service, rows: list[Row], slots: dict[str, str], arguments: argparse.Namespace
) -> list[dict[str, object]]:
    timeout = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        def client(tier: str) -> Client:
            return Client(session, service.url, service.token(str(uuid.uuid4()), tier))

        attacker, victims = client("pro"), [client("pro") for _ in range(VICTIMS)]
        own = {id(c): await c.run("watched", ALWAYS) for c in [attacker, *victims]}
        await asyncio.sleep(5)
        users = Users(attacker, victims, own)
        found = [await _row(row, service, users, arguments) for row in rows]
        found += [
            await _slot_row(name, source, service, attacker, arguments) for name, source in slots.items()
        ]
        return found


async def _row(row: Row, service: Service, users: Users, arguments: argparse.Namespace) -> dict[str, object]:
    attacker, victims, own = users.attacker, users.victims, users.own
    without, with_attacker, memory = Phase(), Phase(), _Memory(service)
    for _ in range(arguments.rounds):
        await _watch(row, victims, own, without, arguments.seconds)
        attacks = [
            asyncio.create_task(_repeat(row.attack, attacker, own[id(attacker)])) for _ in range(row.at_once)
        ]
        sampling = asyncio.create_task(memory.sample())
        await asyncio.sleep(0.5)
        await _watch(row, victims, own, with_attacker, arguments.seconds)
        for task in [*attacks, sampling]:
            task.cancel()
        await asyncio.gather(*attacks, sampling, return_exceptions=True)
        await asyncio.sleep(2)
    return _figures(row.name, without.seconds, with_attacker.seconds, with_attacker.failed, memory)


async def _watch(row: Row, victims: list[Client], own: dict[int, str], phase: Phase, seconds: float) -> None:
    assert row.victim is not None
    end = time.perf_counter() + seconds
    for victim in itertools.cycle(victims):
        if time.perf_counter() > end:
            return
        began = time.perf_counter()
        status = await row.victim(victim, own[id(victim)])
        phase.seconds.append(time.perf_counter() - began)
        phase.failed += status >= 500
        await asyncio.sleep(row.pause_s)


async def _repeat(attack: Callable[[Client, str], Awaitable[object]], client: Client, trader: str) -> None:
    while True:
        answer = await attack(client, trader)
        if isinstance(answer, tuple) and answer[0] == 429:
            await asyncio.sleep(0.05)


async def _slot_row(
    name: str,
    source: str,
    service: Service,
    attacker: Client,
    arguments: argparse.Namespace,
) -> dict[str, object]:
    """The victims' traders match at every slot: the wait is from the slot's end to their signals' rows."""
    memory = _Memory(service)
    seconds = arguments.seconds * arguments.rounds
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        without = await _slots(connection, seconds)
        traders = [await attacker.run(f"{name} {k}", source.replace("{k}", str(k + 1))) for k in range(9)]
        sampling = asyncio.create_task(memory.sample())
        await asyncio.sleep(5)
        with_attacker = await _slots(connection, seconds)
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        for trader in traders:
            await attacker.call("DELETE", f"/api/v1/traders/{trader}")
    await asyncio.sleep(2)
    return _figures(name, without, with_attacker, 0, memory)


async def _slots(connection: psycopg.Connection, seconds: float) -> list[float]:
    (began,) = connection.execute("select clock_timestamp()").fetchone()
    await asyncio.sleep(seconds)
    rows = connection.execute(
        """select extract(epoch from min(g.created_at) - s.closed_at)::float8
             from vyx.slots s join public.signals g on g.triggered_at = s.slot
            where s.closed_at > %s group by s.slot, s.closed_at, g.trader_id""",
        (began,),
    )
    return [row[0] for row in rows.fetchall()]


class _Memory:
    """The largest resident sizes seen, in MB: the web process, its children, the worker."""

    def __init__(self, service: Service) -> None:
        self._root = psutil.Process(service.process.pid)
        self.largest: dict[str, float] = {}

    async def sample(self) -> None:
        while True:
            for process in self._root.children(recursive=True):
                try:
                    name, size = " ".join(process.cmdline()), process.memory_info().rss / 1e6
                except psutil.Error:
                    continue
                for part, called in (
                    (" web", "web"),
                    (" worker", "worker"),
                    ("filter_child", "filter child"),
                ):
                    if part in f" {name}":
                        self.largest[called] = round(max(self.largest.get(called, 0.0), size))
            await asyncio.sleep(0.5)


def _figures(
    name: str, without: list[float], with_attacker: list[float], failed: int, memory: _Memory
) -> dict[str, object]:
    before, after = quantiles(without, scale=1000), quantiles(with_attacker, scale=1000)
    ratio = {
        key: round(after[key] / before[key], 2) if before[key] and after[key] is not None else None
        for key in ("p50", "p99")
    }
    return {
        "row": name,
        "without": before,
        "with": after,
        "ratio": ratio,
        "failed": failed,
        "mb": memory.largest,
    }


def _print(figures: list[dict[str, object]]) -> None:
    columns = [
        "victim's",
        "p50 ms",
        "with",
        "ratio",
        "p99 ms",
        "with",
        "ratio",
        "n",
        "5xx",
        "web MB",
        "worker MB",
    ]
    rows = [
        [
            f["row"],
            f["without"]["p50"],
            f["with"]["p50"],
            f["ratio"]["p50"],
            f["without"]["p99"],
            f["with"]["p99"],
            f["ratio"]["p99"],
            f"{f['without']['n']}/{f['with']['n']}",
            f["failed"],
            f["mb"].get("web"),
            f["mb"].get("worker"),
        ]
        for f in figures
    ]
    show(f"A victim without and with an attacker (claimed: ratio ≤ {RATIO_MAX:g}, no 5xx)", columns, rows)


if __name__ == "__main__":
    main()
