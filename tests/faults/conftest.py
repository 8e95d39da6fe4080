"""Real worker processes over a small market of candle files, and what their signals ought to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from app.market.candles import Candle, Candles
from app.market.simulated.rollup import roll_up
from sandbox.engine.candles.panel import Panel
from sandbox.engine.replay import evaluate_range
from tests import world

REPOSITORY = Path(__file__).parents[2]
HISTORY = 60  # minutes before the first live one
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")


class FileMarket:
    """A random walk of three pairs from T0 on, as dump files; slot HISTORY is the first one live, *minutes* the last."""

    def __init__(self, folder: Path, minutes: int) -> None:
        self.folder, self.minutes = folder, minutes
        self.first, self.last = HISTORY, minutes
        rng = np.random.default_rng(7)
        rows: list[Candle] = []
        folder.mkdir()
        for symbol in SYMBOLS:
            close = np.round(100 * np.cumprod(1 + rng.normal(0, 2e-3, minutes)), 4).tolist()
            lines = []
            for n, price in enumerate(close):
                before = close[n - 1] if n else price
                opened = world.ms(world.at(n))
                high, low = max(before, price), min(before, price)
                rows.append(Candle(symbol, opened, before, high, low, price, 10.0, 10 * price, 5))
                lines.append(
                    f"{opened},{before},{high},{low},{price},10.0,{opened + 59_999},{10 * price},5,5,5,0"
                )
            (folder / f"{symbol}-1m-2024-07.csv").write_text("\n".join(lines) + "\n")
        self.candles = Candles.from_rows(rows)

    def replay(self, plan, frequency, first_slot):
        """What the evaluator finds when all candles are there: [(symbol, slot number)] from *first_slot* on, by slot."""
        panel = Panel(SYMBOLS)
        for timeframe in plan.timeframes:
            bars = roll_up(self.candles, timeframe)
            panel.load(
                timeframe,
                bars.symbol,
                bars.open_time,
                bars.open,
                bars.high,
                bars.low,
                bars.close,
                bars.volume,
            )
        first, last = (world.ms(world.at(n)) for n in (first_slot, self.last))
        hits = evaluate_range(panel, plan, first, last, None, frequency)
        slots = ((hits.triggered_at_ms - world.ms(world.T0)) // 60_000).tolist()
        return sorted(zip(hits.symbols, slots, strict=True), key=lambda hit: (hit[1], hit[0]))


class Worker:
    """A worker process, its log in a file."""

    def __init__(self, name, dsn, market, folder, speed, *, lease_ttl_s=3, pooled_url=None, direct_url=None):
        self.log = folder / f"{name}.log"
        command = [
            sys.executable,
            "-m",
            "app.cli",
            "worker",
            "--data-dir",
            str(folder),
            "--metrics-port",
            "off",
        ]
        command += ["--market", str(market.folder), "--speed", str(speed)]
        command += ["--from", world.at(market.first).isoformat()]
        environment = os.environ | {
            "DATABASE_URL": make_conninfo(pooled_url or dsn, application_name=name),
            "VYX_DIRECT_DATABASE_URL": make_conninfo(direct_url or dsn, application_name=name),
            "VYX_MACHINE_ID": name,
            "VYX_LEASE_TTL_S": str(lease_ttl_s),
            "VYX_LOG_FORMAT": "json",
            "VYX_POOL_MAX": "4",
            "VYX_JWT_SECRET": "of-a-test-and-at-least-thirty-two-bytes-long",
            "PYTHONPATH": str(REPOSITORY),
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
            )

    def send(self, number):
        self.process.send_signal(number)

    @property
    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        return "vyx worker ready" in self.log.read_text()

    def end(self):
        """Whatever state it is in; its simulated exchange ends by itself when its standard input closes."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def market(tmp_path):
    return FileMarket(tmp_path / "candles", HISTORY + 60)


@pytest.fixture
async def worker(dsn, market, tmp_path):
    """A function name -> Worker that beats. Its market passes at ten minutes a second."""
    workers: list[Worker] = []

    async def start(name, speed=600, **settings):
        workers.append(Worker(name, dsn, market, tmp_path, speed, **settings))
        await world.eventually(lambda: workers[-1].is_ready)
        return workers[-1]

    yield start
    for one in workers:
        one.end()


class Stage:
    """Four traders, started before the market begins: different depths and timeframes, one that depends on the bar before."""

    def __init__(self, connection: psycopg.Connection, market: FileMarket) -> None:
        self.connection, self.market = connection, market
        user = world.add_user(connection)
        screens = [
            (world.above_average(5), "every_bar"),
            (world.above_average(20), "every_bar"),
            (world.above_average(3, timeframe="5m"), "every_bar"),
            (world.above_average(8), "on_enter"),
        ]
        self.screens = {
            world.add_trader(connection, user, plan, frequency=frequency): (plan, frequency)
            for plan, frequency in screens
        }

    def expected(self, trader):
        """What its signals ought to be. The ledger begins where the market stood when ingest asked, a slot or two after its start."""
        first = world.call(self.connection, "select min(slot) from vyx.slots")[0]
        return self.market.replay(*self.screens[trader], int((first - world.T0) / world.MINUTE))

    def is_over(self):
        """Whether every trader is accounted for to the end of the candles."""
        return all(
            world.status(self.connection, trader).through == world.at(self.market.last)
            for trader in self.screens
        )


@pytest.fixture
def stage(connection, market):
    return Stage(connection, market)
