"""The example filters compile without a word, and the demo filters fire often on a random walk."""

import ast
from pathlib import Path

import numpy as np
import pytest

from sandbox.engine.candles.panel import Panel
from sandbox.engine.replay import evaluate_range
from sandbox.language.compiler import FilterCompiler

FOLDER = Path(__file__).parents[3] / "docs" / "filters"
FILTERS = sorted(FOLDER.glob("*.py"))
DEMOS = [path for path in FILTERS if path.name.startswith("demo_")]


@pytest.fixture(scope="module")
def compiler():
    with FilterCompiler() as compiler:
        yield compiler


@pytest.mark.parametrize("path", FILTERS, ids=lambda path: path.stem)
def test_an_example_filter_compiles_without_a_word(compiler, path):
    source = path.read_text(encoding="utf-8")

    compiled = compiler.compile(source)

    assert compiled.diagnostics == []
    assert compiled.terms
    assert len(ast.get_docstring(ast.parse(source))) > 60


def test_the_table_of_examples_names_each_and_says_what_it_says():
    rows = [
        line for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if ".py) |" in line
    ]

    assert [row.split("](")[1].split(")")[0] for row in rows] == [path.name for path in FILTERS]
    for row, path in zip(rows, FILTERS, strict=True):
        text = " ".join(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).split())
        assert text.startswith(row.split(" | ")[1].rstrip("."))


def test_there_are_examples_enough():
    assert len(FILTERS) >= 18
    assert len(DEMOS) >= 3


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_demo_filter_fires_in_most_minutes_on_thirty_symbols(compiler, path):
    rng = np.random.default_rng(7)
    symbols, bars, minute = 30, 600, 60_000
    first = 1_700_000_000_000 // minute * minute
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, (symbols, bars)), axis=1))
    opened = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    high, low = np.maximum(opened, close) * 1.0005, np.minimum(opened, close) * 0.9995
    rows, columns = np.indices(close.shape).reshape(2, -1)
    panel = Panel([f"S{n}" for n in range(symbols)])
    fields = [field.reshape(-1) for field in (opened, high, low, close, rng.gamma(2, 10, close.shape))]
    panel.load("1m", rows, first + columns * minute, *fields)
    plan = compiler.compile(path.read_text(encoding="utf-8")).plan

    found = evaluate_range(panel, plan, first + 401 * minute, first + 600 * minute)

    assert plan.trigger == "1m"
    assert len(set(found.triggered_at_ms)) >= 160  # of 200 minutes
