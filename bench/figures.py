"""Tables for people and one JSON line for machines, the same for every benchmark; run by nobody directly."""

from __future__ import annotations

import json
import os
import platform

import numpy as np
from rich.console import Console
from rich.table import Table


def quantiles(values: list[float], *, scale: float = 1.0, digits: int = 1) -> dict[str, float | int | None]:
    """p50, p99, max and n of *values* times *scale*; None without values."""
    if not values:
        return {"p50": None, "p99": None, "max": None, "n": 0}
    p50, p99 = np.percentile(values, [50, 99]) * scale
    return {
        "p50": round(float(p50), digits),
        "p99": round(float(p99), digits),
        "max": round(max(values) * scale, digits),
        "n": len(values),
    }


def show(title: str, columns: list[str], rows: list[list[object]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(
            *("–" if cell is None else f"{cell:,}" if _is_number(cell) else str(cell) for cell in row)
        )
    Console(width=None if os.isatty(1) else 150).print(table)


def finish(figures: dict[str, object], *, as_json: bool) -> None:
    """The last line, when asked for: everything as one object."""
    if as_json:
        machine = {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        print(json.dumps({"machine": machine, **figures}, ensure_ascii=False, default=str))


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)
