"""
What each example filter finds on real candles: writes docs/filters/README.md.

    python bench/examples.py [--dumps PATH ...]

A set is a folder of 1m dump files, or an .npz of 5m candles (symbols, open_time, and open high low close volume as symbols x bars).
Every bar of it is screened by the evaluator that previews use, its candles rolled up to all coarser timeframes, nothing
before the first of them. Counts and instants are written, no prices: the candles belong to their exchange.
"""

import argparse
import ast
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.market.candles import Candles
from app.market.dumps import read_dumps
from app.market.errors import DumpInvalid
from app.market.simulated.rollup import roll_up
from bench.service import SHARED_DUMPS
from sandbox.engine.candles.panel import Panel
from sandbox.engine.replay import evaluate_range, signalled
from sandbox.engine.warm_up import readiness
from sandbox.interpreter.functions import EachRunner
from sandbox.language.compiler import FilterCompiler
from sandbox.plan.document import Plan, build_plan
from sandbox.plan.operators import FIELDS, OPERATORS
from sandbox.plan.operators.kind import Candles as CandleFields
from sandbox.plan.timeframes import TIMEFRAMES

FILTERS = Path(__file__).resolve().parents[1] / "docs" / "filters"
SETS = (
    SHARED_DUMPS / "small-20pairs-36h-outage",
    SHARED_DUMPS / "week-91pairs-two-outages",
    SHARED_DUMPS.parent / "board-379pairs-5m-2024-07.npz",
)
HOUR_S, DAY_S = 3600, 86_400
TOO_FINE, TOO_SHORT = "-", "too short"


@dataclass
class Board:
    """One set of candles as a panel, screened from its first to its last candle; `finest` is the timeframe they came in."""

    panel: Panel
    finest: str
    first_ms: int
    last_ms: int

    @classmethod
    def read(cls, path: Path) -> "Board":
        candles = read_columns(path) if path.suffix == ".npz" else read_dumps(path)
        return cls(
            panel_of(candles), candles.timeframe, int(candles.open_time.min()), int(candles.close_time.max())
        )

    @property
    def title(self) -> str:
        began = datetime.fromtimestamp(self.first_ms / 1000, UTC)
        hours = (self.last_ms - self.first_ms) / 3_600_000
        return f"{len(self.panel.symbols)} pairs, {hours:.0f} h from {began:%Y-%m-%d}"

    def found(self, plan: Plan, each: EachRunner) -> str:
        """Entries, and the first pair and the instant of the latest; why none could be, where none could."""
        if min(TIMEFRAMES[timeframe] for timeframe in plan.need) < TIMEFRAMES[self.finest]:
            return TOO_FINE
        entering = evaluate_range(
            self.panel, plan, self.first_ms, self.last_ms, frequency="on_enter", each=each
        )
        times = entering.triggered_at_ms
        signals = signalled(entering, np.arange(len(times)))
        if not len(signals):
            return "0" if self.reaches(plan) else TOO_SHORT
        latest = int(signals[times[signals] == times[signals].max()][0])
        instant = datetime.fromtimestamp(int(times[latest]) / 1000, UTC)
        return f"{len(signals):,}, latest {entering.symbols[latest]} {instant:%m-%d %H:%M}"

    def reaches(self, plan: Plan) -> bool:
        """Whether, at the end of the set, any symbol has candles enough for every number of the condition to have a value."""
        condition = build_plan(plan.nodes, plan.signal, {})
        ready = readiness(condition, self.panel, self.last_ms)
        return any(
            not any(ready.is_short(node, row) for node in range(len(condition.nodes)))
            for row in range(len(self.panel.symbols))
        )


def headline(source: str) -> str:
    """The first sentence of a filter's docstring."""
    text = " ".join(ast.get_docstring(ast.parse(source)).split())
    return text.partition(". ")[0].rstrip(".") + "."


def read_columns(path: Path) -> Candles:
    """Candles stored as arrays (symbols x bars) with NaN where there is none; the timeframe is the step of their open times."""
    with np.load(path) as held:
        symbols, times = held["symbols"], held["open_time"]
        row, column = np.nonzero(~np.isnan(held["close"]))
        values = {name: held[name][row, column] for name in FIELDS}
    step_s = int(np.diff(times).min()) // 1000
    timeframe = next(name for name, seconds in TIMEFRAMES.items() if seconds == step_s)
    # Not in the file, and no operator sees them.
    unknown = {"quote_volume": values["volume"] * values["close"], "trades": np.zeros(len(row))}
    columns = {"symbol": row, "open_time": times[column], **values, **unknown}
    return Candles.of(timeframe, symbols.tolist(), columns).checked()


def panel_of(candles: Candles) -> Panel:
    """The candles' own timeframe and all coarser ones; a bar that began before the first candle is left out."""
    panel = Panel(list(candles.symbols))
    first_ms = int(candles.open_time.min())
    own_s = TIMEFRAMES[candles.timeframe]
    for timeframe in (name for name, seconds in TIMEFRAMES.items() if seconds % own_s == 0):
        bars = roll_up(candles, timeframe)
        whole = bars.open_time >= first_ms
        columns = (bars.symbol, bars.open_time, *(getattr(bars, name) for name in FIELDS))
        panel.load(timeframe, *(column[whole] for column in columns))
    return panel


def read_by(plan: Plan) -> list[str]:
    """The timeframes, each as it is read."""
    used = {axis for axis in plan.node_axes if axis.has_bars}
    return [str(axis) for axis in sorted(used, key=lambda axis: (axis.length_s, axis.forming))]


def exact_s(plan: Plan) -> int:
    """The history that an exact answer takes."""
    return max(bars * TIMEFRAMES[timeframe] for timeframe, bars in plan.need.items())


def least_s(plan: Plan) -> int:
    """The history after which every number of the condition can have a value, of a market that begins at midnight."""
    condition = build_plan(plan.nodes, plan.signal, {})
    named = {
        str(node.params["symbol"])
        for node in condition.nodes
        if isinstance(OPERATORS[node.op].kind, CandleFields)
    }
    panel = Panel(["X", *sorted(named - {""})])
    span_s = exact_s(plan) + DAY_S
    for timeframe in condition.need:
        length_s = TIMEFRAMES[timeframe]
        times = 1000 * length_s * np.arange(span_s // length_s)
        rows = np.repeat(np.arange(len(panel.symbols)), len(times))
        panel.load(timeframe, rows, np.tile(times, len(panel.symbols)), *[np.ones(len(rows))] * 5)
    ready = readiness(condition, panel, 1000 * span_s)
    return max(
        (int(first[0]) + 1) * axis.length_s
        for first, axis in zip(ready.first, condition.node_axes, strict=True)
        if axis.has_bars
    )


def told(seconds: int) -> str:
    if seconds < 2 * HOUR_S:
        return f"{seconds / 60:.0f} min"
    return (
        f"{seconds / HOUR_S:.0f} h" if seconds < 2 * DAY_S else f"{seconds / DAY_S:.1f} d".replace(".0", "")
    )


def page(titles: list[str], rows: list[tuple[str, ...]]) -> str:
    head = ("filter", "looks for", "timeframes", "history: first, exact", *titles)
    return "\n".join([
        "<!-- Generated by `python bench/examples.py`; do not edit. -->",
        "# Example filters",
        "",
        "Each is a file of its own that compiles without a word and says in its first lines what it is for. To try one on",
        "the market that a running `vyx up` follows: `vyx preview docs/filters/supertrend_flip.py`.",
        "",
        f"The last columns count, on {len(titles)} sets of real candles, where the condition began to hold: what a trader of",
        "frequency `on_enter` signals, and the latest of them. *History* is how much of it there has to be before every",
        "number in the condition has a value, and before every value is exact: in between, averages that remember everything have",
        f"less to go on. `{TOO_SHORT}`: the set ends before the numbers have values. `{TOO_FINE}`: its candles are coarser than the filter's.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dumps", type=Path, nargs="+", default=SETS, metavar="PATH", help="sets of candles")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    missing = [path for path in options.dumps if not path.exists()]
    if missing:
        raise SystemExit(
            f"There are no candles at {missing[0]}, which are not part of the repository: name some with --dumps."
        )
    try:
        boards = [Board.read(path) for path in options.dumps]
    except DumpInvalid as error:
        raise SystemExit(str(error)) from error
    rows = []
    with FilterCompiler() as compiler, EachRunner(node_seconds=120, slot_seconds=240) as each:
        for path in sorted(FILTERS.glob("*.py")):
            source = path.read_text(encoding="utf-8")
            plan = compiler.compile(source).plan
            if plan is None:
                raise SystemExit(f"{path} does not compile; see `vyx check {path}`")
            found = [board.found(plan, each) for board in boards]
            history = f"{told(least_s(plan))}, {told(exact_s(plan))}"
            link = f"[{path.stem}]({path.name})"
            rows.append((link, headline(source), " ".join(read_by(plan)), history, *found))
    (FILTERS / "README.md").write_text(page([board.title for board in boards], rows), encoding="utf-8")
    print(f"{len(rows)} filters on {len(boards)} sets of candles: {FILTERS / 'README.md'}")
    if options.json:
        cells = [row[-len(boards) :] for row in rows]
        silent = sum(all(cell in {"0", TOO_FINE, TOO_SHORT} for cell in row) for row in cells)
        short = sum(all(cell in {TOO_FINE, TOO_SHORT} for cell in row) for row in cells)
        figures = {"filters": len(rows), "sets": len(boards), "found_nothing": silent, "too_short": short}
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
