"""
``vyx preview``: a preview for a person at a terminal, straight from the database; no service needs to run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from app import history
from app.access import known_symbols
from app.errors import CommandFailed, Kind, Refused
from app.preview import evaluation, wire
from app.preview.job import Preview, preview_of
from app.preview.question import question_about
from app.store import slots
from app.store.pool import Connection, connect_direct
from sandbox.engine.candles.panel import Frame
from sandbox.language.compiler import Compiled, FilterCompiler
from sandbox.plan.document import Plan

SPARK_BARS_BEFORE = 16
SPARK_BARS_AFTER = 8
ROWS_MAX = 200  # what a person scrolls through; --json has all
_TICKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class _Seen:
    """A preview, and the closes around each of its hits."""

    preview: Preview
    sparks: list[str]


def compile_filter(source: str) -> Compiled:
    """Compile once, in an interpreter process of its own."""
    with FilterCompiler(processes=1) as compiler:
        return compiler.compile(source)


async def show(url: str, plan: Plan, *, bars: int, symbols: Sequence[str] | None, as_json: bool) -> None:
    """
    Run *plan* over the newest *bars* bars and print the hits: a table, or the preview as one JSON object.

    Raises:
        Refused: the market does not have one of *symbols*, or no candles yet.
        CommandFailed: the plan cannot be evaluated.
    """
    with _progress(len(plan.timeframes) + 1) as on_step:
        connection = await connect_direct(url, name="vyx preview", statement_timeout_s=60)
        async with connection:
            question, frames = await _question(connection, plan, bars, symbols, on_step)
        on_step("evaluating")
        answer = _evaluated(question, frames)
        if isinstance(answer, wire.Refused):
            raise CommandFailed(answer.problem)
        seen = _seen(answer, question, frames)
    if as_json:
        print(msgspec.json.encode(seen.preview).decode())  # noqa: T201 what was asked for
    else:
        _print_table(seen)


def _evaluated(question: wire.Question, frames: Sequence[wire.Columns]) -> wire.Answer:
    """All of the answer, however long it takes: it is the user's own machine."""
    with evaluation.unlimited_runner() as each:
        (answer,) = evaluation.evaluate(question, frames, each, budget=None)
    return answer


class _Step:
    """Moves the bar and says what is being done."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._task = progress.add_task("loading candles", total=steps)

    def __call__(self, what: str) -> None:
        self._progress.update(self._task, description=what, advance=1)


@contextmanager
def _progress(steps: int) -> Iterator[_Step]:
    """A bar on stderr while it works; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield _Step(progress, steps)


async def _question(
    connection: Connection, plan: Plan, bars: int, symbols: Sequence[str] | None, on_step: _Step
) -> tuple[wire.Question, list[wire.Columns]]:
    wanted = await known_symbols(connection, symbols)
    until = await slots.newest_closed(connection)
    if until is None:
        raise Refused(Kind.UNAVAILABLE, "The market has no closed candle yet; start `vyx up` first.")
    stretch = await history.load(
        connection,
        plan,
        bars=bars,
        until=until,
        symbols=wanted,
        on_loaded=lambda timeframe: on_step(f"loaded {timeframe} candles"),
    )
    return await question_about(connection, plan, stretch, bars=bars, until=until, symbols=wanted)


def _seen(found: wire.Found, question: wire.Question, frames: Sequence[wire.Columns]) -> _Seen:
    panel = evaluation.panel_of(question, frames)
    frame = panel.frame(found.trigger)
    sparks = [_spark_at(frame, panel.index[hit.symbol], hit.triggered_at_ms) for hit in found.hits]
    return _Seen(preview_of(found, question), sparks)


def _spark_at(frame: Frame, row: int, triggered_at_ms: int) -> str:
    at = frame.bars_closed_at(triggered_at_ms)
    close = frame.field("close")[row]
    before = close[max(0, at - SPARK_BARS_BEFORE) : at].tolist()
    after = close[at : at + SPARK_BARS_AFTER].tolist()
    whole = sparkline([*before, *after])
    return f"[bold]{whole[: len(before)]}[/bold][dim]{whole[len(before) :]}[/dim]"


def sparkline(values: Sequence[float]) -> str:
    """
    One character per value, from the lowest to the highest of them; a blank where there is none, the middle
    when all are equal.
    """
    known = np.array([value for value in values if value == value])  # noqa: PLR0124 only NaN differs from itself
    if not len(known):
        return " " * len(values)
    low, span = float(known.min()), float(known.max() - known.min())
    return "".join(
        " "
        if value != value  # noqa: PLR0124 only NaN differs from itself
        else _TICKS[round((value - low) / span * (len(_TICKS) - 1)) if span else len(_TICKS) // 2]
        for value in values
    )


def _print_table(seen: _Seen) -> None:
    preview, console = seen.preview, Console(file=sys.stdout)
    names = list(preview.hits[0].values) if preview.hits else []
    table = Table("symbol", f"closed at ({preview.due_every})", "price", *names)
    table.add_column("closes", no_wrap=True, min_width=SPARK_BARS_BEFORE + SPARK_BARS_AFTER)
    for hit, spark in list(zip(preview.hits, seen.sparks, strict=True))[-ROWS_MAX:]:
        texts = (_text_of(hit.values[name]) for name in names)
        table.add_row(hit.symbol, _minute(hit.triggered_at), f"{hit.price:.8g}", *texts, spark)
    if preview.hits:
        console.print(table)
    shown = min(ROWS_MAX, len(preview.hits))
    less = f", the newest {shown} shown" if preview.hit_count > shown else ""
    console.print(
        f"{preview.hit_count} {'hit' if preview.hit_count == 1 else 'hits'}{less} in {preview.bars} bars of {preview.due_every}, {preview.symbols} pairs, "
        f"evaluated in {preview.evaluated_ms:.1f} ms"
    )
    if preview.history_begins:
        console.print(beginnings(preview.history_begins))


def beginnings(begins: Mapping[str, datetime]) -> str:
    """Why a preview has fewer bars than were asked for, or coarse values that begin later than its bars."""
    stored = ", ".join(f"{timeframe} from {_minute(at)} UTC" for timeframe, at in begins.items())
    return f"Stored candles begin later than the bars asked for: {stored}"


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def _text_of(value: float | bool | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, bool) else f"{value:.6g}"
