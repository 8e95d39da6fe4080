"""
What market data costs: frames, dump files, roll-ups, and a whole exchange with a client, each beside a peer.

    python bench/market.py [--dumps DIR] [--seconds 5] [--json]

Without --dumps the candles are generated. Times are the best of three, CPU time where a share of a core is given.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from app.domain import timeframes
from app.market.candles import Candle, Candles
from app.market.client import ExchangeClient
from app.market.dumps import read_dumps
from app.market.simulated import GeneratedSource
from app.market.simulated.rest import encode_rows
from app.market.simulated.rollup import roll_up
from app.market.simulated.streams import kline_event
from app.market.streams import StreamUp, closed_candle

ROOT = Path(__file__).resolve().parents[1]
T0 = 1_722_211_200_000  # 2024-07-29T00:00Z
DAY = 86_400_000


def best_s(work, repeat=3):
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def row(what, ours, peer, unit, peer_name):
    return {"what": what, "ours": ours, "peer": peer, "unit": unit, "peer_name": peer_name}


def measure_frames():
    candle = Candle("BTCUSDT", T0, 64_000.1, 64_010.0, 63_990.5, 64_001.0, 1.5, 96_000.0, 42)
    frames = {
        name: f'{{"stream":"btcusdt@kline_1m","data":{kline_event(candle, T0 + 60_000, closed=closed)}}}'.encode()
        for name, closed in (("closed candle", True), ("unfinished candle", False))
    }

    def plain(frame):
        k = json.loads(frame)["data"]["k"]
        if k["x"]:
            return Candle(k["s"], k["t"], *(float(k[name]) for name in "ohlcvq"), k["n"])
        return None

    for name, frame in frames.items():
        ours = best_s(lambda frame=frame: [closed_candle(frame) for _ in range(20_000)]) / 20_000 * 1e6
        peer = best_s(lambda frame=frame: [plain(frame) for _ in range(20_000)]) / 20_000 * 1e6
        yield row(f"{name}: frame to row", round(ours, 2), round(peer, 2), "µs", "json.loads, unchecked")


def write_dumps(folder):
    source = GeneratedSource(1, anchor_ms=T0)
    for symbol in source.symbols:
        lines = encode_rows(source.minutes(symbol, T0 - 7 * DAY, T0).rows(), 60_000)
        text = lines.decode()[2:-2].replace("],[", "\n").replace('"', "")
        with zipfile.ZipFile(folder / f"{symbol}-1m-2024-07.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{symbol}-1m-2024-07.csv", text)
    return folder


def measure_dumps(folder):
    count = len(read_dumps(folder))

    def peer():
        for file in sorted(folder.glob("*.zip")):
            pd.read_csv(file, header=None)

    ours_s, peer_s = best_s(lambda: read_dumps(folder)), best_s(peer)
    yield row(
        f"dump files, {count:,} rows",
        round(count / ours_s),
        round(count / peer_s),
        "rows/s",
        "pandas.read_csv, unchecked",
    )


def measure_roll_ups(candles):
    frame = pd.DataFrame(
        {
            name: getattr(candles, name)
            for name in ("symbol", "open_time", "open", "high", "low", "close", "volume")
        }
    )

    def peer():
        bars = frame.groupby(["symbol", frame.open_time // 300_000], sort=False)
        traded = frame[frame.volume > 0]
        traded = traded.groupby(["symbol", traded.open_time // 300_000], sort=False)
        return bars.close.last(), bars.volume.sum(), traded.open.first(), traded.high.max(), traded.low.min()

    count = len(candles)
    ours_s, peer_s = best_s(lambda: roll_up(candles, "5m")), best_s(peer)
    yield row(
        f"roll-up 1m to 5m, {count:,} rows",
        round(count / ours_s),
        round(count / peer_s),
        "rows/s",
        "pandas groupby",
    )
    slot = candles.take(candles.open_time >= candles.open_time.max() - 3_600_000)
    closing = list(timeframes.TIMEFRAMES)[1:6]

    def of_slot():
        for timeframe in closing:
            roll_up(slot, timeframe)

    ours_ms = best_s(of_slot) * 1e3
    yield row(
        f"roll-ups of an hour's slot, {len(candles.symbols)} symbols", round(ours_ms, 2), None, "ms", ""
    )


def cpu_s(pid):
    """CPU seconds a process has used; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure_exchange(market, *, symbols_max, speed, seconds):
    arguments = ["--market", str(market), "--speed", str(speed)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app.market.simulated", *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    url = (await process.stdout.readline()).decode().strip()
    try:
        async with ExchangeClient(url, url.replace("http", "ws")) as client:
            info = await client.exchange_info()
            symbols = [s.symbol for s in info.symbols if s.status == "TRADING" and s.quote_asset == "USDT"][
                :symbols_max
            ]
            return await listen(client, symbols, process.pid, seconds)
    finally:
        process.terminate()
        await process.wait()


async def listen(client, symbols, pid, seconds):
    count, ups = 0, 0
    async with contextlib.aclosing(client.stream_klines(symbols).events()) as events:
        while ups < min(3, len(symbols)):
            ups += isinstance(await anext(events), StreamUp)
        started, own, theirs = time.perf_counter(), time.process_time(), cpu_s(pid)
        while time.perf_counter() - started < seconds:
            count += isinstance(await anext(events), Candle)
        passed = time.perf_counter() - started
        theirs = None if theirs is None else cpu_s(pid) - theirs
    return {
        "symbols": len(symbols),
        "candles_per_s": count / passed,
        "client": (time.process_time() - own) / passed * 100,
        "exchange": None if theirs is None else theirs / passed * 100,
    }


def measure_whole(market, seconds):
    for symbols_max, speed in ((20, 240), (91, 60)):
        got = asyncio.run(measure_exchange(market, symbols_max=symbols_max, speed=speed, seconds=seconds))
        what = f"speed {speed}, {got['symbols']} symbols ({got['candles_per_s']:.0f} candles/s)"
        exchange = None if got["exchange"] is None else round(got["exchange"], 1)
        yield row(what, round(got["client"], 1), exchange, "% of a core", "the simulated exchange itself")


def measure(folder, candles, seconds):
    yield from measure_frames()
    yield from measure_dumps(folder)
    yield from measure_roll_ups(candles)
    yield from measure_whole(folder, seconds)


def show(rows):
    table = Table("what", "unit", "Vyx", "peer", "peer is")
    for line in rows:
        figures = ["" if line[name] is None else f"{line[name]:,}" for name in ("ours", "peer")]
        table.add_row(line["what"], line["unit"], *figures, line["peer_name"])
    Console().print(table)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dumps", type=Path, help="directory of 1m dump files to read and serve")
    parser.add_argument(
        "--seconds", type=float, default=5, help="of listening to the exchange (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.dumps or write_dumps(Path(scratch))
        candles: Candles = read_dumps(folder)
        rows = list(measure(folder, candles, options.seconds))
    if options.json:
        print(
            json.dumps(
                {"numpy": np.__version__, "python": sys.version.split()[0], "rows": rows},
                ensure_ascii=False,
                indent=2,
            )
        )
    else:
        show(rows)


if __name__ == "__main__":
    main()
