"""
Whether `vyx up` starts in time and a replay keeps up with its market.

    python bench/replay.py [--dumps DIR] [--seconds 60] [--starts 3] [--only start|keep] [--max] [--json]

Start: `vyx ready` on an existing environment with the small dump set (target: 8 s), and a trader started over HTTP is running (2 s).
Keep: four traders on four timeframes, one worker, one web process; 20 pairs at speed 240 (a slot each 250 ms) and 91 pairs at speed 60
(a slot each second). Twice a second: how far everything is behind the market's clock, and behind the newest closed slot, as the ledger
and each trader's status say. A replay that does not keep up gets later and later: the verdict compares the halves.
--max doubles the speed until it no longer keeps up.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app import operations
from app.market.dumps import read_dumps
from bench.figures import finish, quantiles, show
from bench.service import FILTERS, SHARED_DUMPS, Service

READY_TARGET_S, RUNNING_TARGET_S = 8.0, 2.0
SLOT_S = 60.0  # market seconds from slot to slot: nothing is measured finer
SAMPLE_S = 0.43  # no multiple of a slot: samples would all fall on the same moment of it
WARM_UP_S = 3.0
GROWTH_MAX = 0.02  # a backlog that grows by more than this share of the market's time does grow
GROWTH_SLOTS = 2.0  # … but a slot more or less is only where the samples fell
SPEED_MAX = 10_000
SMALL, WEEK = "small-20pairs-36h-outage", "week-91pairs-two-outages"

_BEHIND = """
select extract(epoch from vyx.market_time() - vyx.newest_closed_slot()),
       extract(epoch from vyx.newest_closed_slot() - min(m.screened_through)),
       vyx.market_time() >= (select ends_at from vyx.markets)
  from vyx.machines m where m.state <> 'dead'
"""


@dataclass
class Sample:
    """Market seconds: the ledger behind the market's clock, the screening behind the ledger, the traders' own ``lag_s``."""

    at: float
    ingest_s: float
    screening_s: float
    status_s: float

    @property
    def behind_s(self) -> float:
        return self.ingest_s + self.screening_s


def measure_start(dumps: Path, starts: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="vyx-bench-", ignore_cleanup_errors=True) as folder:
        flags = ("--market", str(dumps), "--speed", "240")
        with Service(*flags, data_dir=Path(folder)) as service:
            first_s = service.ready_s
        ready_s, running_s = [], []
        for _ in range(starts):
            with Service(*flags, data_dir=Path(folder)) as service:
                ready_s.append(service.ready_s)
                token = service.token(str(uuid4()))
                running_s += [service.start(token, service.save(token, *named)) for named in FILTERS.items()]
    return {
        "empty data directory": {**quantiles([first_s], digits=2), "target": None},
        "existing environment": {**quantiles(ready_s, digits=2), "target": READY_TARGET_S},
        "trader running after start": {**quantiles(running_s, digits=2), "target": RUNNING_TARGET_S},
    }


def quiet_start(dumps: Path, minutes: int) -> datetime | None:
    """Where *minutes* of market follow without an outage, as late as the default first live instant; None: not that many."""
    opened = np.unique(read_dumps(dumps).open_time) // 60_000
    default = int(opened[0] + (opened[-1] + 1 - opened[0]) // 4)
    breaks = np.flatnonzero(np.diff(opened) > 1)
    for first, last in zip([opened[0], *opened[breaks + 1]], [*opened[breaks], opened[-1]], strict=True):
        if last - max(first, default) >= minutes:
            return datetime.fromtimestamp(int(max(first, default)) * 60, UTC)
    return None


def sample(service: Service, token: str, traders: list[str], seconds: float) -> tuple[list[Sample], bool]:
    """Twice a second for *seconds*; the second part says whether the market ended meanwhile."""
    samples: list[Sample] = []
    began = time.monotonic()
    with psycopg.connect(service.database_url, autocommit=True) as connection:
        while (at := time.monotonic() - began) < seconds:
            ingest_s, screening_s, ended = connection.execute(_BEHIND).fetchone()
            if ended:
                return samples, True
            status_s = max(
                service.call("GET", f"/api/v1/traders/{t}/status", token)["lag_s"] for t in traders
            )
            samples.append(Sample(at, float(ingest_s), float(screening_s), status_s))
            time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - began - at)))
    return samples, False


def cpu_s(service: Service) -> dict[str, float]:
    """CPU seconds of the service's processes so far, by what they are; of ended server processes nothing is known."""
    used: dict[str, float] = {}
    postmaster = int((service.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    for process in {
        p for pid in (service.process.pid, postmaster) for p in psutil.Process(pid).children(recursive=True)
    }:
        try:
            command, times = process.cmdline(), process.cpu_times()
        except psutil.Error:
            continue
        name = next((n for n in ("web", "worker") if n in command), None)
        name = name or (
            "exchange"
            if "app.market.simulated" in command
            else "postgres"
            if "postgres" in command[0]
            else "other"
        )
        used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def measure_keep(dumps: Path, speed: int, seconds: float) -> dict:
    """One replay; ``keeps_up`` is None where the market is too short to tell."""
    minutes = int((seconds + WARM_UP_S + 10) * speed / 60 * 1.1)
    start = quiet_start(dumps, minutes)
    figures: dict = {
        "dumps": dumps.name,
        "pairs": len(list(dumps.iterdir())),
        "speed": speed,
        "keeps_up": None,
    }
    if start is None:
        return figures | {"reason": f"the files hold no {minutes} minutes without an outage"}
    with Service("--market", str(dumps), "--speed", str(speed), "--from", start.isoformat()) as service:
        token = service.token(str(uuid4()))
        traders = [service.save(token, *named) for named in FILTERS.items()]
        for trader_id in traders:
            service.start(token, trader_id)
        time.sleep(WARM_UP_S)
        before = cpu_s(service)
        samples, ended = sample(service, token, traders, seconds)
        used = cpu_s(service)
        status = asyncio.run(operations.status(service.database_url))
    return (
        figures
        | verdict(samples, speed)
        | {
            "seconds": round(samples[-1].at if samples else 0, 1),
            "market_ended": ended,
            "vyx_status_lag_s": max(
                (m["lag_s"] or 0.0 for m in status["machines"] if m["state"] != "dead"), default=None
            ),
            "cores": {name: round((used[name] - before.get(name, 0)) / seconds, 2) for name in sorted(used)},
        }
    )


def verdict(samples: list[Sample], speed: int) -> dict:
    if len(samples) < 8:
        return {"keeps_up": None, "reason": "too few samples"}
    half = len(samples) // 2
    early, late = (float(np.median([s.behind_s for s in part])) for part in (samples[:half], samples[half:]))
    passed_s = (samples[-1].at - samples[0].at) / 2 * speed
    allowed_s = max(GROWTH_SLOTS * SLOT_S, GROWTH_MAX * passed_s)
    return {
        "slot_real_s": SLOT_S / speed,
        "behind_market_s": quantiles([s.behind_s for s in samples], digits=0),
        "behind_real_s": quantiles([s.behind_s for s in samples], scale=1 / speed, digits=2),
        "ingest_market_s": quantiles([s.ingest_s for s in samples], digits=0),
        "screening_market_s": quantiles([s.screening_s for s in samples], digits=0),
        "status_lag_market_s": quantiles([s.status_s for s in samples], digits=0),
        "halves_market_s": [round(early), round(late)],
        "keeps_up": late - early <= allowed_s,
    }


def until_it_falls_behind(dumps: Path, speed: int, seconds: float) -> list[dict]:
    results = []
    for factor in itertools.count():
        faster = speed * 2**factor
        if faster > SPEED_MAX:
            break
        results.append(measure_keep(dumps, faster, seconds))
        if not results[-1]["keeps_up"]:
            break
    return results


def show_start(figures: dict) -> None:
    rows = [
        [
            what,
            f["p50"],
            f["max"],
            f["n"],
            f["target"],
            f["target"] and ("ok" if f["max"] <= f["target"] else "MISSED"),
        ]
        for what, f in figures.items()
    ]
    show("start-up, seconds", ["what", "median", "max", "runs", "target", ""], rows)


def show_keep(results: list[dict]) -> None:
    rows = []
    for r in results:
        where = f"{r['pairs']} pairs at {r['speed']}"
        if "behind_market_s" not in r:
            rows.append([where, *[None] * 6, r["reason"]])
            continue
        parts = [
            f"{r[name]['p50']:g} / {r[name]['max']:g}"
            for name in ("ingest_market_s", "screening_market_s", "status_lag_market_s")
        ]
        rows.append(
            [
                where,
                f"60 / {r['slot_real_s']:g}",
                f"{r['behind_market_s']['p50']:g} / {r['behind_market_s']['max']:g}",
                f"{r['behind_real_s']['p50']:g} / {r['behind_real_s']['max']:g}",
                *parts,
                "{} → {}: {}".format(*r["halves_market_s"], "never grows" if r["keeps_up"] else "GROWS"),
            ]
        )
    columns = [
        "replay",
        "one slot: market / real s",
        "behind the clock, market s",
        "… real s",
        "ledger",
        "screening",
        "status lag_s",
        "halves",
    ]
    show("keeping up: median / max; the physical limit is one slot", columns, rows)
    show(
        "cores used",
        ["replay", "worker", "exchange", "postgres", "web"],
        [
            [
                f"{r['pairs']} pairs at {r['speed']}",
                *(r["cores"].get(n) for n in ("worker", "exchange", "postgres", "web")),
            ]
            for r in results
            if "cores" in r
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dumps",
        type=Path,
        default=SHARED_DUMPS,
        help=f"where {SMALL} and {WEEK} lie (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="of sampling per replay (default: %(default)g)"
    )
    parser.add_argument(
        "--starts", type=int, default=3, help="starts on the existing environment (default: %(default)s)"
    )
    parser.add_argument("--only", choices=("start", "keep"), help="one of the two parts")
    parser.add_argument("--max", action="store_true", help="double the speed until it falls behind")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    for name in (SMALL, WEEK):
        if not (options.dumps / name).is_dir():
            parser.error(f"there is no {options.dumps / name}; name the folder of candle files with --dumps")
    figures: dict = {}
    if options.only != "keep":
        figures["start"] = measure_start(options.dumps / SMALL, options.starts)
        show_start(figures["start"])
    if options.only != "start":
        results = []
        for name, speed in ((SMALL, 240), (WEEK, 60)):
            measure = until_it_falls_behind if options.max else lambda *a: [measure_keep(*a)]
            results += measure(options.dumps / name, speed, options.seconds)
        figures["keep"] = results
        show_keep(results)
    finish(figures, as_json=options.json)


if __name__ == "__main__":
    main()
