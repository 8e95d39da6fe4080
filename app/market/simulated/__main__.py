"""The simulated exchange as a process of its own: ``python -m app.market.simulated``."""

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

from app.domain import timeframes
from app.market import errors
from app.market.dumps import read_dumps
from app.market.simulated.clock import MarketClock
from app.market.simulated.generator import GeneratedSource
from app.market.simulated.server import SimulatedExchange
from app.market.simulated.source import DumpSource, Source

# The part of a file market that is history when nobody says where to begin.
_HISTORY_SHARE = 0.25
# Above this speed unfinished candles would only cost: a market minute lasts less than 30 s.
_MID_CANDLES_UP_TO_SPEED = 2.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.market.simulated",
        description="Binance's spot market-data interface on localhost, from generated or real candles. "
        "Prints its URL when ready; ends on SIGTERM and when its standard input closes.",
    )
    parser.add_argument(
        "--market",
        default="generator",
        help="'generator', or a dump file or directory (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the generated market (default: %(default)s)")
    parser.add_argument("--symbols", type=int, metavar="N", help="only the first N generated symbols")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument(
        "--speed", type=_speed, default=1.0, help="market seconds per wall second (default: 1)"
    )
    parser.add_argument(
        "--from", dest="first_live", type=_instant, metavar="ISO", help="market instant shown at the anchor"
    )
    parser.add_argument(
        "--anchor-wall", type=_instant, metavar="ISO", help="wall instant of the anchor (default: now)"
    )
    return parser


def _instant(text: str) -> int:
    try:
        return timeframes.epoch_ms(datetime.fromisoformat(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an instant with a time zone: {error}") from error


def _speed(text: str) -> float:
    speed = float(text)
    if not 0 < speed <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 10000")
    return speed


def build(options: argparse.Namespace, wall_ms: int) -> SimulatedExchange:
    """
    The exchange that *options* describe.

    Raises:
        DumpInvalid: The candles cannot be read.
        ValueError: The first live instant is not within them.
    """
    source: Source
    if options.market == "generator":
        first_live = wall_ms if options.first_live is None else options.first_live
        source = GeneratedSource(options.seed, anchor_ms=first_live, symbols_max=options.symbols)
    else:
        dumps = DumpSource(read_dumps(Path(options.market)))
        first_live = _first_live(dumps, options.first_live)
        source = dumps
    anchor_wall = wall_ms if options.anchor_wall is None else options.anchor_wall
    clock = MarketClock(first_live, anchor_wall / 1_000, options.speed, source.end_ms)
    mid_candles = options.speed <= _MID_CANDLES_UP_TO_SPEED
    return SimulatedExchange(source, clock, host=options.host, port=options.port, mid_candles=mid_candles)


def _first_live(source: DumpSource, asked_ms: int | None) -> int:
    end = source.end_ms or source.first_ms
    if asked_ms is None:
        quarter = source.first_ms + int((end - source.first_ms) * _HISTORY_SHARE)
        return timeframes.bar_open_ms(quarter, "1m")
    if not source.first_ms <= asked_ms <= end:
        span = f"{timeframes.instant(source.first_ms).isoformat()} … {timeframes.instant(end).isoformat()}"
        raise ValueError(
            f"--from {timeframes.instant(asked_ms).isoformat()} is outside the candles, which span {span}."
        )
    return asked_ms


async def _serve(exchange: SimulatedExchange) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def wait_for_parent() -> None:
        # A pipe's end is the parent's end, however it died. A thread, since a file has no async reader; os.read, since
        # a thread inside sys.stdin's buffer holds a lock that the interpreter needs to leave.
        while os.read(sys.stdin.fileno(), 4_096):
            pass
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    async with exchange:
        sys.stdout.write(exchange.rest_url + "\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; 2 when the market cannot be served as asked."""
    options = _parser().parse_args(arguments)
    try:
        exchange = build(options, int(time.time() * 1_000))
        asyncio.run(_serve(exchange))
    except (errors.MarketError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
