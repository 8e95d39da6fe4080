"""
How long a filter takes from text to plan, with every diagnostic: p50, p90, p99 over the example filters and over
wrong filters, one at a time and by several threads; and what each step costs. Target: p99 <= 50 ms on one core.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sandbox.language.compiler import FilterCompiler
from sandbox.language.rewrite import rewrite
from sandbox.plan.text import syntax

FOLDER = Path(__file__).parents[1]


def right_filters() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((FOLDER / "docs" / "filters").glob("*.py"))]


def wrong_filters() -> list[str]:
    """The catalogue's filters, but those that are stopped by a limit after a second."""
    text = (FOLDER / "tests" / "sandbox" / "language" / "wrong_filters.txt").read_text(encoding="utf-8")
    head = "m15 = bars('15m')\nclose = m15.close\n"
    cases = [case.partition("---\n") for case in text.split("===\n")[1:]]
    return [source.replace("HEAD\n", head, 1) for source, _, told in cases if "V30" not in told]


def timed(action: Callable[[str], object], sources: list[str]) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for source in sources:
        started = time.perf_counter()
        action(source)
        found.append((time.perf_counter() - started) * 1e3)
    return found


def front(source: str) -> object:
    """The steps in this process before the interpreter: parse, lint, rewrite."""
    parsed = syntax.parse(source)
    if not isinstance(parsed, tuple):
        return None
    syntax.lint(*parsed)
    return rewrite(*parsed)


def figures(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50_ms": cuts[49], "p90_ms": cuts[89], "p99_ms": cuts[98], "max_ms": max(times)}


def in_threads(compiler: FilterCompiler, sources: list[str], threads: int) -> tuple[list[float], float]:
    """Latencies and compiles per second of several callers at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        latencies = [
            one for batch in pool.map(lambda s: timed(compiler.compile, [s]), sources) for one in batch
        ]
    return latencies, len(sources) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="how often each filter is compiled (default 20)"
    )
    parser.add_argument("--processes", type=int, default=2, help="interpreter processes (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    right, wrong = right_filters() * options.rounds, wrong_filters() * max(options.rounds // 5, 1)
    rows: dict[str, dict[str, float]] = {}
    started = time.perf_counter()
    with FilterCompiler(processes=options.processes) as compiler:
        first_ms = (time.perf_counter() - started) * 1e3 + timed(compiler.compile, right[:1])[0]
        rows["example filters"] = figures(timed(compiler.compile, right))
        rows["wrong filters"] = figures(timed(compiler.compile, wrong))
        rows["of it parse, lint, rewrite"] = figures(timed(front, right))
        latencies, per_second = in_threads(compiler, right, options.processes)
        rows[f"example filters, {options.processes} callers"] = figures(latencies)
    print(f"{'':32}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name, row in rows.items():
        print(f"{name:32}" + "".join(f"{row[key]:9.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")))
    print(f"\nfirst filter, starting the interpreter: {first_ms:.0f} ms; {per_second:.0f} filters a second")
    if options.json:
        told = {
            f"{part}_{key}": row[key]
            for part, row in zip(("right", "wrong", "front", "callers"), rows.values(), strict=True)
            for key in row
        }
        print(
            json.dumps(
                {**told, "first_ms": first_ms, "per_second": per_second, "compiles": len(right) + len(wrong)}
            )
        )


if __name__ == "__main__":
    main()
