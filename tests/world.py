"""
A small world in a fresh database: users, traders, machines, slots, candles.

Everything goes through the statements the service itself runs (``sql/queries``), on a plain synchronous connection, so that a test
can stand between any two of them. Market time is counted in minutes from ``T0``; slot *n* closes at ``at(n)``.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy as np
import psycopg
from psycopg.rows import namedtuple_row

from app.store import queries
from sandbox.plan.document import Plan, build_plan

T0 = datetime(2024, 7, 1, tzinfo=UTC)
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

MACHINES = queries.load("machines")
LEASES = queries.load("leases")
SIGNALS = queries.load("signals")
TRADER_STATE = queries.load("trader_state")
SLOTS = queries.load("slots")
SYMBOLS = queries.load("symbols")
CANDLES = queries.load("candles")


def at(minutes: float) -> datetime:
    """The instant so many minutes after the world began."""
    return T0 + minutes * MINUTE


def ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


# -- plans ----------------------------------------------------------------------------------------------------------------


def above(
    level: float, *, timeframe: str = "1m", field: str = "close", show: bool = False, op: str = "bars"
) -> Plan:
    """A plan that is true where the field (of closed bars, or of "forming" ones) is above the level."""
    nodes = [
        {"op": op, "params": {"timeframe": timeframe, "field": field}},
        {"op": "const", "params": {"value": level}},
        {"op": "gt", "args": [0, 1]},
    ]
    return build_plan(nodes, 2, {"seen": 0} if show else {})


def above_average(bars: int, *, timeframe: str = "1m") -> Plan:
    """A plan that is true where the close is above its simple moving average: it needs history, and matches about half the time."""
    nodes = [
        {"op": "bars", "params": {"timeframe": timeframe, "field": "close"}},
        {"op": "ta.sma", "args": [0], "params": {"timeperiod": bars}},
        {"op": "gt", "args": [0, 1]},
    ]
    return build_plan(nodes, 2, {"average": 1})


# -- users and traders ----------------------------------------------------------------------------------------------------


def add_user(connection: psycopg.Connection[Any], tier: str = "elite") -> UUID:
    user = uuid4()
    connection.execute("insert into auth.users (id) values (%s)", (user,))
    connection.execute("select public.set_tier(%s, %s)", (user, tier))
    return user


def add_trader(
    connection: psycopg.Connection[Any],
    user: UUID,
    plan: Plan | None = None,
    *,
    symbols: Sequence[str] | None = None,
    frequency: str | Mapping[str, float] = "every_bar",
    started: bool = True,
) -> UUID:
    plan = plan or above(0)
    row = connection.execute(
        "insert into public.traders (user_id, name, filter, plan, plan_hash, symbols, frequency)"
        " values (%s, 'a trader', 'signal(...)', %s, %s, %s, %s) returning id",
        (user, plan.encode().decode(), plan.hash, symbols, json.dumps(frequency)),
    ).fetchone()
    assert row is not None
    trader: UUID = row[0]
    if started:
        start(connection, trader)
    return trader


def change_plan(connection: psycopg.Connection[Any], trader: UUID, plan: Plan) -> None:
    """What PATCH does."""
    connection.execute(
        "update public.traders set plan = %s, plan_hash = %s where id = %s",
        (plan.encode().decode(), plan.hash, trader),
    )


def start(connection: psycopg.Connection[Any], trader: UUID) -> None:
    connection.execute("select vyx.start_trader_v1(%s)", (trader,))


def stop(connection: psycopg.Connection[Any], trader: UUID) -> None:
    connection.execute("select vyx.stop_trader_v1(%s)", (trader,))


def status(connection: psycopg.Connection[Any], trader: UUID) -> Any:
    """The trader's state row."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(
            "select s.*, vyx.screened_through(s) as through from public.trader_state s where trader_id = %s",
            (trader,),
        ).fetchone()


def states(connection: psycopg.Connection[Any]) -> dict[UUID, str]:
    return dict(connection.execute("select trader_id, state::text from public.trader_state").fetchall())


def events(connection: psycopg.Connection[Any], trader: UUID) -> list[tuple[str, str]]:
    """(from, to) of the trader's events, in feed order."""
    return connection.execute(
        "select from_state::text, to_state::text from public.trader_events where trader_id = %s order by id",
        (trader,),
    ).fetchall()


# -- machines -------------------------------------------------------------------------------------------------------------


def register(connection: psycopg.Connection[Any], name: str = "a") -> int:
    """A new boot whose session lock *connection* holds."""
    boot = call(connection, MACHINES["register_machine"], machine_id=name)[0]
    connection.execute(MACHINES["lock_machine"], {"boot_id": boot})
    return int(boot)


def speak_for(connection: psycopg.Connection[Any], boot: int) -> None:
    """What a fence does for one transaction, for all that follow: only the machine itself says what it has screened."""
    connection.execute("select set_config('vyx.boot', %s, false)", (str(boot),))


@contextmanager
def without_triggers(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Rows as they could not be edited: for worlds that begin in the middle, and for damage that only a check finds."""
    connection.execute("set session_replication_role = replica")
    try:
        yield
    finally:
        connection.execute("reset session_replication_role")


def settle(connection: psycopg.Connection[Any]) -> int:
    """Stop what was being stopped when its machine died, as every round of a keeper does."""
    return int(call(connection, LEASES["settle"], n=1000)[0])


def fall_silent(connection: psycopg.Connection[Any], boot: int) -> None:
    """What a killed process looks like: its lock is gone, and so are its heartbeats."""
    connection.execute("select pg_advisory_unlock(7100, %s)", (boot,))
    connection.execute(
        "update vyx.machine_heartbeats set heartbeat_at = %s where boot_id = %s", (LONG_AGO, boot)
    )


def reap(
    connection: psycopg.Connection[Any],
    *,
    now: datetime | None = None,
    ttl_s: float = 10,
    grace_s: float = 2.5,
) -> list[tuple[int, str, int]]:
    return connection.execute(
        "select dead, dead_machine, freed from vyx.reap_v1(make_interval(secs => %s), make_interval(secs => %s), %s)",
        (ttl_s, grace_s, now),
    ).fetchall()


def bury(connection: psycopg.Connection[Any], boot: int) -> None:
    """Kill a machine and let another one notice, long after the server's start."""
    fall_silent(connection, boot)
    connection.execute(
        "update vyx.machine_heartbeats set heartbeat_at = now() + interval '1 hour' where boot_id <> %s",
        (boot,),
    )
    assert [row[0] for row in reap(connection, now=datetime.now(UTC) + timedelta(hours=1))] == [boot]


def claim(connection: psycopg.Connection[Any], boot: int, n: int = 1000) -> int:
    return int(call(connection, LEASES["claim"], boot_id=boot, n=n)[0])


def release(connection: psycopg.Connection[Any], boot: int, traders: Iterable[UUID] | None = None) -> int:
    ids = None if traders is None else list(traders)
    return int(call(connection, LEASES["release"], boot_id=boot, trader_ids=ids)[0])


def leases(connection: psycopg.Connection[Any], boot: int) -> dict[UUID, int]:
    """Epoch of each trader the machine owns."""
    return {row[0]: row[1] for row in connection.execute(TRADER_STATE["list_owned"], {"boot_id": boot})}


def mark_running(connection: psycopg.Connection[Any], boot: int, held: Mapping[UUID, int]) -> int:
    parameters = {"boot_id": boot, "trader_ids": list(held), "epochs": list(held.values())}
    return connection.execute(TRADER_STATE["mark_running"], parameters).rowcount


def fail(
    connection: psycopg.Connection[Any], boot: int, held: Mapping[UUID, int], message: str = "broken"
) -> int:
    parameters = {
        "boot_id": boot,
        "trader_ids": list(held),
        "epochs": list(held.values()),
        "reasons": ["evaluation failed"] * len(held),
        "messages": [message] * len(held),
    }
    return connection.execute(TRADER_STATE["fail_traders"], parameters).rowcount


async def eventually(is_so: Callable[[], object], within_s: float = 15) -> None:
    """Return as soon as it is so; fail when it is not within the time."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        await asyncio.sleep(0.01)


# -- market ---------------------------------------------------------------------------------------------------------------


def close_slots(connection: psycopg.Connection[Any], *numbers: int, state: str = "complete") -> None:
    """Enter slots in the ledger, and make room for their signals."""
    for number in numbers:
        connection.execute("select vyx.keep_signal_partition(%s)", (at(number),))
    connection.execute(
        SLOTS["close_slots"],
        {
            "slots": [at(number) for number in numbers],
            "states": [state] * len(numbers),
            "expected": [1] * len(numbers),
            "missing_counts": [0] * len(numbers),
            "missing": ["{}"] * len(numbers),
            "reasons": ["the exchange has no candles" if state == "outage" else None] * len(numbers),
        },
    )


def put_symbols(connection: psycopg.Connection[Any], *names: str) -> dict[str, int]:
    """List these pairs; returns their ids."""
    connection.execute(
        SYMBOLS["put_symbols"],
        {"symbols": list(names), "bases": list(names), "quotes": ["USDT"] * len(names)},
    )
    return {row[1]: row[0] for row in connection.execute(SYMBOLS["list_universe"])}


def put_closes(
    connection: psycopg.Connection[Any],
    closes: Mapping[str, Sequence[float | None]],
    *,
    first: int = 0,
    timeframe: str = "1m",
    minutes: int = 1,
) -> None:
    """Flat candles, one symbol's closes oldest first, the first bar closing at slot *first*; None: the bar is missing."""
    ids = put_symbols(connection, *closes)
    rows = [
        (ids[symbol], at(first + (i - 1) * minutes), close)
        for symbol, values in closes.items()
        for i, close in enumerate(values)
        if close is not None
    ]
    prices = [row[2] for row in rows]
    connection.execute(
        CANDLES["insert_candles"],
        {
            "timeframe": timeframe,
            "symbol_ids": [row[0] for row in rows],
            "open_times": [row[1] for row in rows],
            **dict.fromkeys(("opens", "highs", "lows", "closes"), prices),
            "volumes": [1.0] * len(rows),
            "quote_volumes": prices,
            "trade_counts": [1] * len(rows),
        },
    )


def random_closes(symbols: int, bars: int, seed: int = 1) -> dict[str, list[float | None]]:
    """A random walk per symbol, around 100."""
    walk = 100 * np.cumprod(1 + np.random.default_rng(seed).normal(0, 2e-3, (symbols, bars)), axis=1)
    return {f"S{i}USDT": np.round(row, 4).tolist() for i, row in enumerate(walk)}


class SignalRow(NamedTuple):
    trader_id: UUID
    symbol: str
    triggered_at: datetime
    price: float


def signals(connection: psycopg.Connection[Any], trader: UUID | None = None) -> list[SignalRow]:
    """All signals, or one trader's, in order of their key."""
    rows = connection.execute(
        "select trader_id, symbol, triggered_at, price from public.signals"
        " where %(trader)s::uuid is null or trader_id = %(trader)s order by trader_id, triggered_at, symbol",
        {"trader": trader},
    ).fetchall()
    return [SignalRow(*row) for row in rows]


def when(connection: psycopg.Connection[Any], trader: UUID) -> list[tuple[str, int]]:
    """A trader's signals as (symbol, slot number), by slot."""
    return [(row.symbol, int((row.triggered_at - T0) / MINUTE)) for row in signals(connection, trader)]


def call(connection: psycopg.Connection[Any], statement: Any, **parameters: Any) -> tuple[Any, ...]:
    """The one row a statement returns by construction."""
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return tuple(row)


def together(dsn: str, statements: Sequence[str]) -> list[Any]:
    """Run each statement on a connection of its own, all at once; the first column of each answer, or the SQLSTATE of its refusal."""
    barrier = threading.Barrier(len(statements))

    def run(statement: str) -> Any:
        with psycopg.connect(
            dsn, autocommit=True, options="-c lock_timeout=5s -c statement_timeout=20s"
        ) as client:
            barrier.wait(timeout=20)
            try:
                return call(client, statement)[0]
            except psycopg.Error as error:
                return error.sqlstate

    with ThreadPoolExecutor(len(statements)) as threads:
        return list(threads.map(run, statements))
